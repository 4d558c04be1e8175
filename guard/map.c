/* SPDX-License-Identifier: Apache-2.0 */
/* Memory from the kernel: guard pages, control mappings, the secret.
 *
 * Invariant: nothing that this library needs to judge a fault shares a mapping with an engine's
 * bytes. Control mappings have guard pages of their own; the secret's page is read-only from the
 * moment it was filled.
 *
 *     control mapping   [guard][pages ...][guard]
 *
 * Guards are lightweight ones (Linux 6.13: they cost a page table entry, no extra mapping) where
 * the kernel takes them, else PROT_NONE. The kernel is asked by trying, never by version: backports
 * and seccomp filters make versions lie. */
#include "guard_internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

/* Debian 12's headers predate them. */
#define MADV_GUARD_INSTALL_ 102
#define MADV_GUARD_REMOVE_  103

size_t rguard__page;
unsigned rguard__page_shift;
bool rguard__madv_guard;
const uint64_t *rguard__secret_page;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int base_error;
static bool mprotect_used; /* some guard fell back to PROT_NONE */

static int fill_secret(void);

static void base_init(void)
{
    rguard__page = (size_t)sysconf(_SC_PAGESIZE);
    rguard__page_shift = (unsigned)__builtin_ctzl(rguard__page);
    void *p = rguard__reserve(rguard__page, rguard__page, 0);
    if (p == NULL) {
        base_error = -ENOMEM;
        return;
    }
    rguard__madv_guard =
        !rguard__forced("no-madv-guard") && madvise(p, rguard__page, MADV_GUARD_INSTALL_) == 0;
    munmap(p, rguard__page);
    base_error = fill_secret();
    if (base_error != 0) {
        return;
    }
    rguard__arena_table = rguard__control_map(RGUARD__ARENAS * sizeof(rguard_arena *));
    if (rguard__arena_table == NULL) {
        base_error = -ENOMEM;
    }
}

int rguard__base_init(void)
{
    pthread_once(&once, base_init);
    return base_error;
}

bool rguard__forced(const char *what)
{
    const char *list = getenv("RGUARD_FORCE");
    size_t len = strlen(what);
    while (list != NULL && *list != '\0') {
        size_t n = strcspn(list, ",");
        if (n == len && memcmp(list, what, n) == 0) {
            return true;
        }
        list += n;
        list += *list == ',';
    }
    return false;
}

void *rguard__reserve(size_t bytes, size_t align, size_t lead)
{
    size_t total = bytes + (align > rguard__page ? align : 0);
    uint8_t *p = mmap(NULL, total, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    size_t skip = (align - ((uintptr_t)p + lead) % align) % align;
    if (skip > 0) {
        munmap(p, skip);
    }
    if (total > skip + bytes) {
        munmap(p + skip + bytes, total - skip - bytes);
    }
    return p + skip;
}

int rguard__guard_set(void *p, size_t len)
{
    /* EINVAL on mlocked ranges, although the probe said yes. */
    if (rguard__madv_guard && madvise(p, len, MADV_GUARD_INSTALL_) == 0) {
        return 0;
    }
    __atomic_store_n(&mprotect_used, true, __ATOMIC_RELAXED);
    return mprotect(p, len, PROT_NONE) == 0 ? 0 : -errno;
}

int rguard__guard_clear(void *p, size_t len)
{
    if (!__atomic_load_n(&mprotect_used, __ATOMIC_RELAXED) && rguard__madv_guard &&
        madvise(p, len, MADV_GUARD_REMOVE_) == 0 && madvise(p, len, MADV_DONTNEED) == 0) {
        return 0;
    }
    /* PROT_NONE guards, or locked memory, which takes no such advice: mapped anew. */
    void *q = mmap(p, len, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return q == p ? 0 : -errno;
}

static size_t round_up(size_t bytes)
{
    return (bytes + rguard__page - 1) & ~(rguard__page - 1);
}

void *rguard__control_map(size_t bytes)
{
    size_t total = round_up(bytes) + 2 * rguard__page;
    uint8_t *p = rguard__reserve(total, rguard__page, 0);
    if (p == NULL) {
        return NULL;
    }
    if (rguard__guard_set(p, rguard__page) != 0 ||
        rguard__guard_set(p + total - rguard__page, rguard__page) != 0) {
        munmap(p, total);
        return NULL;
    }
    return p + rguard__page;
}

void rguard__control_unmap(void *p, size_t bytes)
{
    if (p != NULL) {
        munmap((uint8_t *)p - rguard__page, round_up(bytes) + 2 * rguard__page);
    }
}

static int fill_secret(void)
{
    uint64_t *page = rguard__control_map(rguard__page);
    if (page == NULL) {
        return -ENOMEM;
    }
    size_t have = 0;
    while (have < sizeof *page) {
        ssize_t n = getrandom((uint8_t *)page + have, sizeof *page - have, 0);
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        have += n > 0 ? (size_t)n : 0;
    }
    rguard__secret_page = page;
    return mprotect(page, rguard__page, PROT_READ) == 0 ? 0 : -errno;
}

#if RGUARD__ASAN
/* volatile: else the compiler makes calls of memcpy and memset of these loops, which ASan checks.
 */
RGUARD__RAW void rguard__raw_copy(void *to, const void *from, size_t len)
{
    volatile uint8_t *t = to;
    const volatile uint8_t *f = from;
    for (size_t i = 0; i < len; i++) {
        t[i] = f[i];
    }
}

RGUARD__RAW void rguard__raw_fill(void *p, uint8_t byte, size_t len)
{
    volatile uint8_t *t = p;
    for (size_t i = 0; i < len; i++) {
        t[i] = byte;
    }
}

RGUARD__RAW bool rguard__raw_is(const void *p, uint8_t byte, size_t len)
{
    const volatile uint8_t *f = p;
    uint8_t differs = 0;
    for (size_t i = 0; i < len; i++) {
        differs |= (uint8_t)(f[i] ^ byte);
    }
    return differs == 0;
}
#endif

#ifdef RGUARD_TESTING
uint32_t rguard__off_flags(void)
{
    static const struct
    {
        const char *name;
        uint32_t bit;
    } table[] = {{"guard_pages", RGUARD__OFF_GUARDS}, {"magic", RGUARD__OFF_MAGIC},
                 {"canary", RGUARD__OFF_CANARY},      {"double_free", RGUARD__OFF_DOUBLE_FREE},
                 {"trap", RGUARD__OFF_TRAP},          {"undo", RGUARD__OFF_UNDO}};
    uint32_t flags = 0;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        flags |= rguard__test_off(table[i].name) ? table[i].bit : 0;
    }
    return flags;
}
#endif
