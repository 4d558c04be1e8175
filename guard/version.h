/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_VERSION_H
#define RGUARD_VERSION_H

/* Semantic version; 0.y may change between minors. The shared object is libraftguard.so.0. */
#define RGUARD_VERSION_MAJOR  0
#define RGUARD_VERSION_MINOR  1
#define RGUARD_VERSION_PATCH  0
#define RGUARD_VERSION_STRING "0.1.0"

/* Every public symbol carries this; everything else is hidden. */
#define RGUARD_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* Version of the library that is linked, as opposed to the headers that were compiled. Static
 * string, any thread, any time. */
RGUARD_API const char *rguard_version(void);

#ifdef __cplusplus
}
#endif
#endif
