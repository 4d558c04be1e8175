/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_FUZZ_H
#define RGUARD_FUZZ_H

#include <raftguard/testing.h>
#include <stddef.h>
#include <stdint.h>

/* A target decides by what it survives: a crash, a failed RGUARD_ASSERT, a hang or an allocation
 * above the cap is a finding. libFuzzer calls it, or driver.c with the files of a corpus. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
