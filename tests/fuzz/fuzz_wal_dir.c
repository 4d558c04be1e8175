/* SPDX-License-Identifier: Apache-2.0 */
/* A whole log directory (tests/sim/image.h), opened read-only and for writing, all of it read, and
 * used. Byte 0: 1 switches checksums off, so that what only a checksum keeps away is met as well.
 *
 * With checksums on, a log that opens must go on as one: it takes appends, closes, and is CLEAN_END
 * afterwards. Without, it must only survive. */
#include "disk_sim.h"
#include "fuzz.h"
#include "image.h"
#include "wal_internal.h"

#include <stdlib.h>
#include <string.h>

#define RECORD_MAX (64u * 1024u)

static uint8_t buf[RECORD_MAX];

enum how { READ_ONLY, READ_WRITE, DAMAGED };

static rguard_wal *open_log(struct sim_disk *disk, enum how how, uint32_t *verdict)
{
    struct rguard_disk *mount;
    struct rguard_wal_report report = {.size = sizeof report};
    struct rguard_wal_options o = {.size = sizeof o,
                                   .segment_bytes = 16384,
                                   .max_record_bytes = RECORD_MAX,
                                   .mark_idle_ms = UINT32_MAX,
                                   .read_only = how == READ_ONLY,
                                   .open_damaged = how == DAMAGED,
                                   .seed = 1};
    rguard_wal *w = NULL;
    sim_disk_mount(disk, &mount);
    int rc = rguard__wal_open_disk(mount, &o, &w, &report);
    RGUARD_ASSERT((rc == 0) == (w != NULL));
    RGUARD_ASSERT(memchr(report.message, '\0', sizeof report.message) != NULL);
    *verdict = report.verdict;
    return w;
}

static void read_all(rguard_wal *w)
{
    uint64_t first = rguard_wal_first_index(w), last = rguard_wal_last_index(w);
    for (uint64_t i = first; first != 0 && i <= last && i - first < 4096; i++) {
        struct rguard_wal_record r;
        (void)rguard_wal_read(w, i, &r, buf, sizeof buf);
    }
}

static void look(struct sim_disk *disk)
{
    uint32_t verdict;
    uint64_t sum = sim_disk_sum(disk);
    rguard_wal *w = open_log(disk, READ_ONLY, &verdict);
    if (w != NULL) {
        read_all(w);
        (void)rguard_wal_close(w);
    }
    RGUARD_ASSERT(sim_disk_sum(disk) == sum);
}

static int append(rguard_wal *w)
{
    struct rguard_wal_record r = {.index = rguard_wal_last_index(w) + 1,
                                  .term = w->tail_term,
                                  .type = 1,
                                  .len = 5,
                                  .data = "hello"};
    int rc = rguard_wal_append(w, &r, 1, NULL, NULL);
    return rc == 0 ? rguard_wal_flush(w) : rc;
}

/* true: it opened and everything that was asked of it worked. */
static bool use(struct sim_disk *disk)
{
    uint32_t verdict;
    uint64_t term, vote, sum = sim_disk_sum(disk);
    rguard_wal *w = open_log(disk, READ_WRITE, &verdict);
    if (w == NULL) {
        RGUARD_ASSERT(verdict == RGUARD_WAL_CLEAN_END || verdict == RGUARD_WAL_TORN_TAIL ||
                      sim_disk_sum(disk) == sum);
        return false;
    }
    read_all(w);
    rguard_wal_meta_get(w, &term, &vote);
    bool good = rguard_wal_last_index(w) < UINT64_MAX - 2 && term < UINT64_MAX;
    if (good) {
        good = append(w) == 0 && append(w) == 0 && rguard_wal_meta_set(w, term + 1, 2) == 0 &&
               rguard_wal_truncate_suffix(w, rguard_wal_last_index(w)) == 0;
    }
    return rguard_wal_close(w) == 0 && good;
}

/* What was refused, with its damage. */
static void look_at_damage(struct sim_disk *disk)
{
    struct rguard_wal_fault faults[16];
    struct rguard_wal_record record;
    uint32_t verdict;
    size_t n = 0;
    rguard_wal *w = open_log(disk, DAMAGED, &verdict);
    if (w == NULL) {
        return;
    }
    read_all(w);
    for (size_t i = 0; i < 16; i++) {
        faults[i].size = sizeof faults[i];
    }
    RGUARD_ASSERT(rguard_wal_faults(w, faults, 16, &n) == 0);
    for (size_t i = 0; i < n && i < 16; i++) {
        RGUARD_ASSERT(memchr(faults[i].text, '\0', sizeof faults[i].text) != NULL);
        (void)rguard_wal_fault_record(w, faults[i].first_index, &record);
        (void)rguard_wal_fault_record(w, faults[i].last_index, &record);
    }
    RGUARD_ASSERT(n == 0 || append(w) != 0);
    (void)rguard_wal_close(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char on[] = "RGUARD_TEST_OFF=", off[] = "RGUARD_TEST_OFF=wal_crc";
    if (size < 1) {
        return 0;
    }
    bool checked = (data[0] & 1) == 0;
    (void)putenv(checked ? on : off);
    struct sim_disk *disk = image_load(data + 1, size - 1);
    look(disk);
    struct sim_disk *copy = sim_disk_clone(disk, 1);
    look_at_damage(copy);
    sim_disk_free(copy);
    if (use(disk) && checked) {
        uint32_t verdict;
        rguard_wal *w = open_log(disk, READ_WRITE, &verdict);
        RGUARD_ASSERT(w != NULL && verdict == RGUARD_WAL_CLEAN_END);
        read_all(w);
        (void)rguard_wal_close(w);
    }
    sim_disk_free(disk);
    return 0;
}
