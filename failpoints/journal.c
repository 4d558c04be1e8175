/* SPDX-License-Identifier: Apache-2.0 */
/* The journal: every firing, in a shared file mapping, so that it outlives abort and SIGKILL.
 *
 *     offset 0      struct fp_journal_header (4096 bytes)
 *     offset 4096   capacity x struct fp_journal_record; record n is at slot n % capacity
 *
 * Invariants: a record whose seq is n + 1 was written completely by the n-th call. A writer is
 * counted in writers from before it loads the mapping until its last store, and closing waits for
 * them; writers never block. The file's blocks are allocated at open, so that a full disk is an
 * error there and not a SIGBUS in the middle of a fault. Opening an existing journal goes on where
 * it ended: a node that was restarted keeps its history. */
#include "failpoint_internal.h"

#ifndef RGUARD_NO_FAILPOINTS

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BYTES (FP_JOURNAL_HEADER + (size_t)FP_JOURNAL_CAPACITY * sizeof(struct fp_journal_record))

_Static_assert(sizeof(struct fp_journal_header) <= FP_JOURNAL_HEADER, "header fits its page");
_Static_assert(sizeof(struct fp_journal_record) == 128, "record size is part of the format");

static struct fp_journal_header *journal; /* atomic */
static uint32_t writers;                  /* atomic */
static uint32_t pid;
static _Thread_local uint32_t tid __attribute__((tls_model("initial-exec")));

static int format(int fd);

int rguard__fp_journal_open(const char *path, uint64_t seed, const char *node)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return -errno;
    }
    int rv = format(fd);
    if (rv != 0) {
        goto out;
    }
    struct fp_journal_header *h = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (h == MAP_FAILED) {
        rv = -errno;
        goto out;
    }
    h->seed = seed;
    snprintf(h->node, sizeof h->node, "%s", node);
    rguard__fp_journal_close();
    pid = (uint32_t)getpid();
    __atomic_store_n(&journal, h, __ATOMIC_SEQ_CST);
out:
    close(fd);
    return rv;
}

void rguard__fp_journal_write(struct fp_journal_record *record, const char *name)
{
    __atomic_add_fetch(&writers, 1, __ATOMIC_SEQ_CST);
    struct fp_journal_header *h = __atomic_load_n(&journal, __ATOMIC_SEQ_CST);
    if (h != NULL) {
        if (tid == 0) {
            tid = (uint32_t)syscall(SYS_gettid);
        }
        record->pid = pid;
        record->tid = tid;
        strncpy(record->name, name, sizeof record->name - 1);
        uint64_t n = __atomic_fetch_add(&h->head, 1, __ATOMIC_RELAXED);
        char *slots = (char *)h + FP_JOURNAL_HEADER;
        struct fp_journal_record *slot = (void *)(slots + n % FP_JOURNAL_CAPACITY * sizeof *record);
        __atomic_store_n(&slot->seq, 0, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_RELEASE);
        memcpy(slot, record, offsetof(struct fp_journal_record, seq));
        __atomic_store_n(&slot->seq, n + 1, __ATOMIC_RELEASE);
    }
    __atomic_sub_fetch(&writers, 1, __ATOMIC_SEQ_CST);
}

void rguard__fp_journal_close(void)
{
    struct fp_journal_header *h = __atomic_exchange_n(&journal, NULL, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&writers, __ATOMIC_SEQ_CST) != 0) {
        sched_yield();
    }
    if (h != NULL) {
        munmap(h, BYTES);
    }
}

/* The child writes into the same file, under its own numbers. */
void rguard__fp_journal_forked(void)
{
    __atomic_store_n(&writers, 0, __ATOMIC_SEQ_CST);
    pid = (uint32_t)getpid();
    tid = 0;
}

static int format(int fd)
{
    struct fp_journal_header h = {0};
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return -errno;
    }
    if (st.st_size == 0) {
        h = (struct fp_journal_header){.magic = FP_JOURNAL_MAGIC,
                                       .version = 1,
                                       .record_size = sizeof(struct fp_journal_record),
                                       .capacity = FP_JOURNAL_CAPACITY};
        int rv = posix_fallocate(fd, 0, (off_t)BYTES);
        if (rv != 0) {
            return -rv;
        }
        return pwrite(fd, &h, sizeof h, 0) == (ssize_t)sizeof h ? 0 : -errno;
    }
    ssize_t n = pread(fd, &h, sizeof h, 0);
    if (n < 0) {
        return -errno;
    }
    if (n != (ssize_t)sizeof h || h.magic != FP_JOURNAL_MAGIC || h.version != 1 ||
        h.record_size != sizeof(struct fp_journal_record) || h.capacity != FP_JOURNAL_CAPACITY ||
        st.st_size != (off_t)BYTES) {
        return RGUARD_EUNSUPPORTED;
    }
    return 0;
}

#endif
