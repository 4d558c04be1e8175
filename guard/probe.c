/* SPDX-License-Identifier: Apache-2.0 */
/* What this kernel offers, and the proof that the trap works: both found by trying.
 *
 * Invariant: a probe leaves nothing behind and never decides by a version number; RGUARD_FORCE
 * (no-madv-guard, no-huge-pages, no-uffd, no-pagemap-scan, no-pkeys) makes a facility look absent,
 * so that its fallback is what runs. */
#include "guard_internal.h"

#include <raftguard/crc32c.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Debian 12's headers predate these; see linux/userfaultfd.h and linux/fs.h. */
#define UFFD_USER_MODE_ONLY_   1
#define UFFDIO_API_            _IOWR(0xaa, 0x3f, struct uffd_api)
#define UFFD_FEATURE_WP_UNPOP_ ((uint64_t)1 << 13)
#define UFFD_FEATURE_WP_ASYNC_ ((uint64_t)1 << 15)
#define PAGEMAP_SCAN_          _IOWR('f', 16, struct pm_scan)
#define PAGE_IS_PRESENT_       ((uint64_t)1 << 3)

struct uffd_api
{
    uint64_t api, features, ioctls;
};

struct pm_scan
{
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

static bool try_huge_pages(void *page)
{
    return !rguard__forced("no-huge-pages") && madvise(page, rguard__page, MADV_HUGEPAGE) == 0;
}

static bool try_uffd(void)
{
    if (rguard__forced("no-uffd")) {
        return false;
    }
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY_);
    if (fd < 0) {
        return false;
    }
    struct uffd_api api = {.api = 0xaa,
                           .features = UFFD_FEATURE_WP_UNPOP_ | UFFD_FEATURE_WP_ASYNC_};
    bool works = ioctl(fd, UFFDIO_API_, &api) == 0;
    close(fd);
    return works;
}

static bool try_pagemap_scan(void *page)
{
    if (rguard__forced("no-pagemap-scan")) {
        return false;
    }
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    uint64_t range[3] = {0, 0, 0};
    struct pm_scan scan = {.size = sizeof scan,
                           .start = (uintptr_t)page,
                           .end = (uintptr_t)page + rguard__page,
                           .vec = (uintptr_t)range,
                           .vec_len = 1,
                           .category_mask = PAGE_IS_PRESENT_,
                           .return_mask = PAGE_IS_PRESENT_};
    *(volatile char *)page = 1;
    bool works = ioctl(fd, PAGEMAP_SCAN_, &scan) == 1 && range[0] == (uintptr_t)page;
    close(fd);
    return works;
}

static bool try_pkeys(void)
{
    if (rguard__forced("no-pkeys")) {
        return false;
    }
    int key = pkey_alloc(0, 0);
    if (key < 0) {
        return false;
    }
    pkey_free(key);
    return true;
}

int rguard_guard_caps(struct rguard_guard_caps *caps)
{
    if (caps == NULL || caps->size < sizeof caps->size) {
        return -EINVAL;
    }
    int rv = rguard__base_init();
    if (rv != 0) {
        return rv;
    }
    void *page = rguard__reserve(rguard__page, rguard__page, 0);
    if (page == NULL) {
        return -ENOMEM;
    }
    struct rguard_guard_caps c = {.size = caps->size,
                                  .madv_guard = rguard__madv_guard,
                                  .huge_pages = try_huge_pages(page),
                                  .userfaultfd_wp = try_uffd(),
                                  .pagemap_scan = try_pagemap_scan(page),
                                  .pkeys = try_pkeys(),
                                  .own_segv = rguard__owns_segv(),
                                  .crc32c = rguard_crc32c_backend()};
    munmap(page, rguard__page);
    memcpy(caps, &c, caps->size < sizeof c ? caps->size : sizeof c);
    return 0;
}

/* ---- self-test ------------------------------------------------------------------------------- */

#define TEST_LEN 64u

struct selftest
{
    rguard_arena *arena;
    rguard_window *window;
    volatile uint8_t *object;
};

static int selftest_body(void *user)
{
    struct selftest *t = user;
    void *extra;
    if (rguard_touch((void *)(uintptr_t)t->object, TEST_LEN) != 0 ||
        rguard_alloc(t->arena, TEST_LEN, &extra) != 0) {
        return -EFAULT;
    }
    t->object[0] = 2;
    t->object[TEST_LEN] = 3; /* the guard page */
    return 0;
}

/* NULL, or what is wrong with the outcome. */
static const char *selftest_verdict(const struct selftest *t, int rv,
                                    const struct rguard_violation *v)
{
    struct rguard_arena_stats stats = {.size = sizeof stats};
    rguard_arena_stats(t->arena, &stats);
    if (rv == 0) {
        return "a store into a guard page was not noticed";
    }
    if (rv != RGUARD_EVIOLATION) {
        return "the window could not run";
    }
    if (v->kind != RGUARD_V_SLOT_GUARD || v->arena_id != t->arena->id || v->slot_offset != 0 ||
        v->address != (uintptr_t)t->object + TEST_LEN) {
        return "the fault was attributed wrongly";
    }
    if (v->class_ != RGUARD_CLASS_PRECISE) {
        return "the fault was not classified as precise";
    }
    if (t->object[0] != 1 || stats.live_slots != 1) {
        return "the window was not rolled back";
    }
    return NULL;
}

static const char *selftest_run(struct selftest *t)
{
    struct rguard_arena_options arena = {.size = sizeof arena,
                                         .name = "selftest",
                                         .bytes = (size_t)64 << 10,
                                         .slots = RGUARD_SLOTS_GUARDED};
    if (rguard_arena_create(&arena, &t->arena) != 0) {
        return "no arena could be mapped";
    }
    struct rguard_window_options window = {
        .size = sizeof window, .arenas = &t->arena, .n_arenas = 1, .undo_bytes = 4096};
    void *object;
    if (rguard_window_create(&window, &t->window) != 0 ||
        rguard_alloc(t->arena, TEST_LEN, &object) != 0) {
        return "no window or slot could be made";
    }
    t->object = object;
    t->object[0] = 1;
    struct rguard_violation v;
    memset(&v, 0, sizeof v);
    rguard__thread.private_ = 1;
    int rv = rguard_window_run(t->window, 0, 0, selftest_body, t, &v);
    rguard__thread.private_ = 0;
    return selftest_verdict(t, rv, &v);
}

static int selftest(const char **problem)
{
    if (RGUARD__ASAN) {
        *problem =
            "AddressSanitizer reports the fault and ends the process; nothing is rolled back";
        return RGUARD_ENOTSUP;
    }
    if (rguard__thread.window != NULL) {
        *problem = "a window is open on this thread";
        return RGUARD_ESTATE;
    }
    if (rguard__trap_declined()) {
        *problem = "the program keeps its signals";
        return RGUARD_ENOTSUP;
    }
    if (rguard_guard_init(NULL) != 0) {
        *problem = "another runtime keeps SIGSEGV";
        return RGUARD_ENOTSUP;
    }
    struct selftest t = {NULL, NULL, NULL};
    *problem = selftest_run(&t);
    rguard_window_destroy(t.window);
    rguard_arena_destroy(t.arena);
    rguard_guard_fini();
    return *problem == NULL ? 0 : RGUARD_ESTATE;
}

int rguard_guard_selftest(const char **why)
{
    const char *problem = NULL;
    int rv = selftest(&problem);
    if (why != NULL) {
        *why = problem;
    }
    return rv;
}
