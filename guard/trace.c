/* SPDX-License-Identifier: Apache-2.0 */
/* The trace ring. Invariant: a record whose seq is n + 1 was written completely by the n-th call;
 * writers claim n with one atomic add, clear seq, fill the record and store seq last. Nothing here
 * allocates, locks or calls the kernel except clock_gettime, so that the fault handler may trace.
 */
#include <raftguard/error.h>
#include <raftguard/trace.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HEADER_BYTES 4096u
#define MAX_CAPACITY (1u << 24)

_Static_assert(sizeof(struct rguard_trace_record) == 64, "record size is part of the format");

struct ring
{
    struct rguard_trace_header *header;
    struct rguard_trace_record *records;
    uint64_t capacity;
    size_t bytes;
    uint32_t pid;
};

static struct ring ring;

static int check_or_format(int fd, uint64_t capacity, struct rguard_trace_header *h)
{
    ssize_t n = pread(fd, h, sizeof *h, 0);
    if (n < 0) {
        return -errno;
    }
    if (n == 0) {
        *h = (struct rguard_trace_header){.magic = RGUARD_TRACE_MAGIC,
                                          .version = 1,
                                          .record_size = sizeof(struct rguard_trace_record),
                                          .capacity = capacity};
        if (ftruncate(fd, (off_t)(HEADER_BYTES + capacity * h->record_size)) != 0 ||
            pwrite(fd, h, sizeof *h, 0) != (ssize_t)sizeof *h) {
            return -errno;
        }
        return 0;
    }
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return -errno;
    }
    if (n != (ssize_t)sizeof *h || h->magic != RGUARD_TRACE_MAGIC || h->version != 1 ||
        h->record_size != sizeof(struct rguard_trace_record) || h->capacity == 0 ||
        h->capacity > MAX_CAPACITY ||
        (uint64_t)st.st_size < HEADER_BYTES + h->capacity * h->record_size) {
        return RGUARD_EUNSUPPORTED;
    }
    return 0;
}

int rguard_trace_open(const char *path, uint64_t capacity)
{
    if (path == NULL || capacity == 0 || capacity > MAX_CAPACITY) {
        return -EINVAL;
    }
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return -errno;
    }
    struct rguard_trace_header h;
    int rv = check_or_format(fd, capacity, &h);
    if (rv != 0) {
        goto out;
    }
    size_t bytes = HEADER_BYTES + (size_t)h.capacity * h.record_size;
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (map == MAP_FAILED) {
        rv = -errno;
        goto out;
    }
    rguard_trace_close();
    ring.records = (struct rguard_trace_record *)(void *)((char *)map + HEADER_BYTES);
    ring.capacity = h.capacity;
    ring.bytes = bytes;
    ring.pid = (uint32_t)getpid();
    __atomic_store_n(&ring.header, map, __ATOMIC_RELEASE);
out:
    close(fd);
    return rv;
}

void rguard_trace(uint32_t event, uint64_t term, uint64_t index, uint64_t a, uint64_t b)
{
    struct rguard_trace_header *h = __atomic_load_n(&ring.header, __ATOMIC_ACQUIRE);
    if (h == NULL) {
        return;
    }
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    uint64_t n = __atomic_fetch_add(&h->head, 1, __ATOMIC_RELAXED);
    struct rguard_trace_record *r = &ring.records[n % ring.capacity];
    __atomic_store_n(&r->seq, 0, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    r->ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
    r->event = event;
    r->pid = ring.pid;
    r->term = term;
    r->index = index;
    r->a = a;
    r->b = b;
    __atomic_store_n(&r->seq, n + 1, __ATOMIC_RELEASE);
}

void rguard_trace_close(void)
{
    struct rguard_trace_header *h = __atomic_exchange_n(&ring.header, NULL, __ATOMIC_ACQ_REL);
    if (h != NULL) {
        munmap(h, ring.bytes);
    }
}

const char *rguard_trace_event_name(uint32_t event)
{
    switch (event) {
#define RGUARD_TRACE_NAME(name, value, text) \
    case name:                               \
        return text;
        RGUARD_TRACE_EVENTS(RGUARD_TRACE_NAME)
#undef RGUARD_TRACE_NAME
        default:
            return "?";
    }
}
