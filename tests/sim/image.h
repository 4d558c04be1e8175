/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_SIM_IMAGE_H
#define RGUARD_SIM_IMAGE_H

#include "disk_sim.h"

/* A directory in few bytes, for fuzzers: zeros cost nothing.
 *
 *     file ...    file = name u8, sectors u16, runs        name: see image.c
 *     runs        skip u16 (zero bytes before it), len u16, bytes; skip 0xffff ends the file
 *
 * Little endian. Any bytes are a directory: what does not add up is left out, no file is longer
 * than IMAGE_FILE_MAX, and there are no more than IMAGE_FILES. */

#define IMAGE_FILE_MAX (64u * 1024u)
#define IMAGE_FILES    12u

struct sim_disk *image_load(const uint8_t *data, size_t len);

/* malloc()ed; files with other names, and what is longer than a file may be, are left out. */
uint8_t *image_save(const struct sim_disk *s, size_t *len);

#endif
