/* SPDX-License-Identifier: Apache-2.0 */

/* The arena engine.
 *
 *     arena kv.nodes, packed slots                         arena kv.values, guarded slots
 *     +------+   +-----------------+   +------------+      +------------------+-------+
 *     | root |-->| buckets[2^17]   |-->| node | key  |---->|  slack ... value | guard |
 *     +------+   +-----------------+   +-----|------+      +------------------+-------+
 *                                            v next
 *
 * Invariants:
 *  - All state, the counters and the digest included, lives in the two arenas, and every write to
 *    memory that existed before the window is declared with rguard_touch() first. So an aborted
 * window leaves exactly the state before it, and nothing outside the arenas needs to be put back.
 *  - root->digest is the sum over all keys of hash(key bytes, value bytes). A share is computed
 * from the bytes *in the arena* when it is added and again when it is taken away: it describes what
 * GET returns, not what the client sent, and a bit that flips in between leaves a difference for
 * good.
 *  - Whether a command fits is decided by counting keys and pages of values, never by asking an
 *    allocator: replicas with a different past refuse the same commands. The arenas are sized so
 * that what fits by the count fits in memory.
 *
 * apply runs inside the replica's window: no malloc, no lock, no I/O (guard.h). */

#include "engine.h"

#include <errno.h>
#include <raftguard/failpoint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS (1u << 17)
#define PAGE    4096u

/* Address space, not memory. Enough for the worst past: slots of one size are never cut up for
 * another, so every size may once have been the one that filled the limits. ASan's shadow of an
 * arena is real memory, and that build is for short runs. */
#ifdef __SANITIZE_ADDRESS__
#define NODE_BYTES  ((size_t)64 << 20)
#define VALUE_BYTES ((size_t)256 << 20)
#else
#define NODE_BYTES  ((size_t)1 << 30)
#define VALUE_BYTES ((size_t)10 << 30)
#endif

#define SPARE_VALUES \
    4096u /* for what is in flight when the limit is seen, and for all other mappings */

#define SNAPSHOT_HEADER 32u
#define SNAPSHOT_MAGIC  0x31504e53564b4752ULL /* "RGKVSNP1" */

struct node
{
    struct node *next;
    unsigned char *value; /* guarded slot, NULL when value_len is 0 */
    uint32_t value_len;
    uint32_t key_len;
    unsigned char key[];
};

struct root
{
    struct node **buckets;
    uint64_t keys, bytes, pages, digest;
};

struct kv_engine
{
    rguard_arena *arenas[2];
    struct root *root;
    struct kv_engine_limits limits;
    uint64_t max_values; /* that this kernel can guard */
};

#define NODES(e)  ((e)->arenas[0])
#define VALUES(e) ((e)->arenas[1])

static int apply_set(struct kv_engine *e, struct kv_slice key, struct kv_slice value,
                     void **result);
static int apply_del(struct kv_engine *e, const void *cmd, unsigned n, void **result);
static int apply_flush(struct kv_engine *e, void **result);
static int lay_out(struct kv_engine *e);

static uint64_t guardable_values(void)
{
    struct rguard_guard_caps caps = {.size = sizeof caps};
    unsigned long maps = 0;
    if (rguard_guard_caps(&caps) == 0 && caps.madv_guard) {
        return UINT64_MAX;
    }
    FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
    if (f != NULL) {
        if (fscanf(f, "%lu", &maps) != 1) {
            maps = 0;
        }
        fclose(f);
    }
    maps = maps != 0 ? maps : 65530;
    return maps / 2 > SPARE_VALUES ? maps / 2 - SPARE_VALUES : 0;
}

int kv_engine_open(const struct kv_engine_limits *limits, struct kv_engine **out)
{
    struct kv_engine *e = calloc(1, sizeof *e);
    if (e == NULL) {
        return -ENOMEM;
    }
    const struct rguard_arena_options nodes = {.size = sizeof nodes,
                                               .name = "kv.nodes",
                                               .bytes = NODE_BYTES,
                                               .slots = RGUARD_SLOTS_PACKED};
    const struct rguard_arena_options values = {.size = sizeof values,
                                                .name = "kv.values",
                                                .bytes = VALUE_BYTES,
                                                .slots = RGUARD_SLOTS_GUARDED};
    int rc = rguard_arena_create(&nodes, &NODES(e));
    if (rc == 0) {
        rc = rguard_arena_create(&values, &VALUES(e));
    }
    if (rc == 0) {
        rc = lay_out(e);
    }
    e->limits = limits != NULL ? *limits : (struct kv_engine_limits){KV_MAX_KEYS, KV_MAX_PAGES};
    e->max_values = guardable_values();
    if (rc != 0) {
        kv_engine_close(e);
        return rc;
    }
    *out = e;
    return 0;
}

void kv_engine_close(struct kv_engine *e)
{
    if (e != NULL) {
        rguard_arena_destroy(VALUES(e));
        rguard_arena_destroy(NODES(e));
        free(e);
    }
}

rguard_arena **kv_engine_arenas(struct kv_engine *e, size_t *n)
{
    *n = 2;
    return e->arenas;
}

int kv_engine_apply(void *user, uint64_t index, const void *cmd, size_t len, void **result)
{
    struct kv_engine *e = user;
    enum kv_op op;
    unsigned n = 0;
    size_t cursor = KV_COMMAND_HEADER;
    (void)index;
    if (kv_command_check(cmd, len, &op, &n) != 0) {
        *result = (void *)(uintptr_t)KV_MALFORMED; /* every replica says so: nothing diverges */
        return 0;
    }
    if (op == KV_OP_SET) {
        struct kv_slice key = kv_command_next(cmd, &cursor);
        return apply_set(e, key, kv_command_next(cmd, &cursor), result);
    }
    return op == KV_OP_DEL ? apply_del(e, cmd, n, result) : apply_flush(e, result);
}

/* ---- commands -------------------------------------------------------------------------------- */

size_t kv_command_size(const struct kv_slice *args, unsigned n)
{
    size_t size = KV_COMMAND_HEADER;
    for (unsigned i = 0; i < n; i++) {
        size += sizeof(uint32_t) + args[i].len;
    }
    return (size + 7) & ~(size_t)7;
}

void kv_command_encode(void *buf, enum kv_op op, const struct kv_slice *args, unsigned n)
{
    unsigned char *p = buf;
    size_t size = kv_command_size(args, n), at = KV_COMMAND_HEADER;
    memset(p, 0, KV_COMMAND_HEADER);
    for (unsigned i = 0; i < n; i++) {
        uint32_t len = (uint32_t)args[i].len;
        memcpy(p + at, &len, sizeof len);
        if (len > 0) {
            memcpy(p + at + sizeof len, args[i].data, len);
        }
        at += sizeof len + len;
    }
    uint16_t argc = (uint16_t)n;
    uint32_t length = (uint32_t)at;
    p[0] = (unsigned char)op;
    memcpy(p + 2, &argc, sizeof argc);
    memcpy(p + 4, &length, sizeof length);
    memset(p + at, 0, size - at);
}

unsigned kv_command_argc(const void *cmd)
{
    uint16_t argc;
    memcpy(&argc, (const unsigned char *)cmd + 2, sizeof argc);
    return argc;
}

struct kv_slice kv_command_next(const void *cmd, size_t *cursor)
{
    uint32_t len;
    const unsigned char *p = (const unsigned char *)cmd + *cursor;
    memcpy(&len, p, sizeof len);
    *cursor += sizeof len + len;
    return (struct kv_slice){p + sizeof len, len};
}

int kv_command_check(const void *cmd, size_t len, enum kv_op *op, unsigned *n)
{
    const unsigned char *p = cmd;
    uint32_t length;
    uint16_t argc;
    if (len < KV_COMMAND_HEADER) {
        return RGUARD_EPROTO;
    }
    memcpy(&argc, p + 2, sizeof argc);
    memcpy(&length, p + 4, sizeof length);
    if (length < KV_COMMAND_HEADER || length > len || len - length > 7 || p[1] != 0) {
        return RGUARD_EPROTO;
    }
    size_t at = KV_COMMAND_HEADER;
    for (unsigned i = 0; i < argc; i++) {
        uint32_t arg;
        if (length - at < sizeof arg) {
            return RGUARD_EPROTO;
        }
        memcpy(&arg, p + at, sizeof arg);
        bool value = p[0] == KV_OP_SET && i == 1;
        if (arg > (value ? KV_MAX_VALUE : KV_MAX_KEY) || arg > length - at - sizeof arg) {
            return RGUARD_EPROTO;
        }
        at += sizeof arg + arg;
    }
    bool fits = (p[0] == KV_OP_SET && argc == 2) ||
                (p[0] == KV_OP_DEL && argc >= 1 && argc <= KV_MAX_ARGS) ||
                (p[0] == KV_OP_FLUSH && argc == 0);
    if (!fits || at != length) {
        return RGUARD_EPROTO;
    }
    *op = (enum kv_op)p[0];
    *n = argc;
    return 0;
}

enum kv_result_code kv_result_code(const void *result)
{
    return (enum kv_result_code)((uintptr_t)result & 0xff);
}

uint64_t kv_result_count(const void *result)
{
    return (uint64_t)(uintptr_t)result >> 8;
}

/* ---- digest ---------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h)
{
    h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93ULL;
    h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93ULL;
    return h ^ (h >> 32);
}

/* Every step is a bijection of h for given data, so two inputs that differ in one word never meet.
 */
static uint64_t hash(uint64_t h, const void *data, size_t len)
{
    const unsigned char *p = data;
    h = mix(h ^ (len * 0x9e3779b97f4a7c15ULL));
    for (; len >= sizeof h; p += sizeof h, len -= sizeof h) {
        uint64_t word;
        memcpy(&word, p, sizeof word);
        h = mix(h ^ word);
    }
    uint64_t tail = 0;
    if (len > 0) {
        memcpy(&tail, p, len);
        h = mix(h ^ tail);
    }
    return h;
}

static uint64_t hash_key(const void *key, size_t len)
{
    return hash(1, key, len);
}

static uint64_t hash_node(const struct node *n)
{
    return hash(hash_key(n->key, n->key_len), n->value, n->value_len);
}

uint64_t kv_engine_digest(void *user)
{
    return ((struct kv_engine *)user)->root->digest;
}

uint64_t kv_engine_digest_memory(const struct kv_engine *e)
{
    uint64_t sum = 0;
    for (uint32_t b = 0; b < BUCKETS; b++) {
        for (const struct node *n = e->root->buckets[b]; n != NULL; n = n->next) {
            sum += hash_node(n);
        }
    }
    return sum;
}

/* ---- table ----------------------------------------------------------------------------------- */

static struct node **bucket_of(const struct kv_engine *e, const void *key, size_t len)
{
    return &e->root->buckets[hash_key(key, len) & (BUCKETS - 1)];
}

/* The link that points to the node of @key, or the empty one at the end of its chain. */
static struct node **find(const struct kv_engine *e, const void *key, size_t len)
{
    struct node **link = bucket_of(e, key, len);
    while (*link != NULL &&
           ((*link)->key_len != len || (len > 0 && memcmp((*link)->key, key, len) != 0))) {
        link = &(*link)->next;
    }
    return link;
}

bool kv_engine_get(const struct kv_engine *e, const void *key, size_t len, struct kv_slice *value)
{
    RGUARD_FP_POINT("kv/read", "a read, before it looks into the table");
    const struct node *n = *find(e, key, len);
    if (n != NULL) {
        *value = (struct kv_slice){n->value, n->value_len};
    }
    return n != NULL;
}

bool kv_engine_has_room(const struct kv_engine *e)
{
    struct rguard_arena_stats stats = {.size = sizeof stats};
    return e->max_values == UINT64_MAX ||
           (rguard_arena_stats(VALUES(e), &stats) == 0 && stats.live_slots < e->max_values);
}

void kv_engine_stats(const struct kv_engine *e, struct kv_engine_stats *stats)
{
    *stats = (struct kv_engine_stats){e->root->keys, e->root->bytes, e->root->pages};
}

static uint64_t pages_of(size_t value_len)
{
    return (value_len + PAGE - 1) / PAGE;
}

/* Adds what @n holds to the counters (@sign 1), or takes it away (-1). The root is touched. */
static void account(struct kv_engine *e, const struct node *n, int sign)
{
    struct root *r = e->root;
    uint64_t s = (uint64_t)(int64_t)sign; /* arithmetic modulo 2^64 */
    r->keys += s;
    r->bytes += s * (n->key_len + (uint64_t)n->value_len);
    r->pages += s * pages_of(n->value_len);
    r->digest += s * hash_node(n);
}

/* A new slot that holds @value; NULL in *@out for an empty one. */
static int store_value(struct kv_engine *e, struct kv_slice value, unsigned char **out)
{
    void *slot = NULL;
    int rc = value.len > 0 ? rguard_alloc(VALUES(e), value.len, &slot) : 0;
    if (rc == 0 && value.len > 0) {
        memcpy(slot, value.data, value.len);
    }
    *out = slot;
    return rc;
}

/* A new node of @key at the end of the chain that @link belongs to. */
static int add_node(struct kv_engine *e, struct node **link, struct kv_slice key, struct node **out)
{
    void *slot = NULL;
    int rc = rguard_alloc(NODES(e), sizeof(struct node) + key.len, &slot);
    if (rc != 0) {
        return rc;
    }
    struct node *n = slot;
    n->next = NULL;
    n->key_len = (uint32_t)key.len;
    if (key.len > 0) {
        memcpy(n->key, key.data, key.len);
    }
    (void)rguard_touch(link, sizeof(struct node *));
    *link = n;
    *out = n;
    return 0;
}

/* Makes the slot @value what GET of @key returns. The caller knows that it fits. */
static int put(struct kv_engine *e, struct kv_slice key, unsigned char *value, size_t value_len)
{
    struct node **link = find(e, key.data, key.len);
    struct node *n = *link;
    int rc = 0;
    (void)rguard_touch(e->root, sizeof *e->root);
    if (n != NULL) {
        (void)rguard_touch(n, sizeof *n);
        account(e, n, -1);
        rc = n->value != NULL ? rguard_free(VALUES(e), n->value) : 0;
    } else {
        rc = add_node(e, link, key, &n);
    }
    if (rc == 0) {
        n->value = value;
        n->value_len = (uint32_t)value_len;
        account(e, n, 1);
    }
    return rc;
}

static enum kv_result_code fits(const struct kv_engine *e, struct kv_slice key, size_t value_len)
{
    const struct node *old = *find(e, key.data, key.len);
    uint64_t freed = old != NULL ? pages_of(old->value_len) : 0;
    if (old == NULL && e->root->keys >= e->limits.keys) {
        return KV_TOO_MANY_KEYS;
    }
    return e->root->pages - freed + pages_of(value_len) > e->limits.pages ? KV_FULL : KV_OK;
}

static int apply_set(struct kv_engine *e, struct kv_slice key, struct kv_slice value, void **result)
{
    unsigned char *slot = NULL;
    enum kv_result_code code = fits(e, key, value.len);
    *result = (void *)(uintptr_t)code;
    if (code != KV_OK) {
        return 0;
    }
    int rc = store_value(e, value, &slot);
    if (rc != 0) {
        return rc;
    }
    if (slot != NULL &&
        RGUARD_FP_MUTATE("kv/apply", "a value was stored, the table does not know it yet",
                         RGUARD_FP_CAN_DOUBLE_FREE, slot, value.len) == RGUARD_FP_DOUBLE_FREE) {
        (void)rguard_free(VALUES(e), slot);
        (void)rguard_free(VALUES(e), slot); /* and the table will point to it all the same */
    }
    return put(e, key, slot, value.len);
}

static int drop_node(struct kv_engine *e, struct node *n)
{
    int rc = n->value != NULL ? rguard_free(VALUES(e), n->value) : 0;
    return rc != 0 ? rc : rguard_free(NODES(e), n);
}

static int apply_del(struct kv_engine *e, const void *cmd, unsigned n, void **result)
{
    uintptr_t removed = 0;
    size_t cursor = KV_COMMAND_HEADER;
    (void)rguard_touch(e->root, sizeof *e->root);
    for (unsigned i = 0; i < n; i++) {
        struct kv_slice key = kv_command_next(cmd, &cursor);
        struct node **link = find(e, key.data, key.len);
        struct node *gone = *link;
        if (gone != NULL) {
            account(e, gone, -1);
            (void)rguard_touch(link, sizeof(struct node *));
            *link = gone->next;
            int rc = drop_node(e, gone);
            if (rc != 0) {
                return rc;
            }
            removed++;
        }
    }
    *result = (void *)(removed << 8 | KV_COUNT);
    return 0;
}

static int apply_flush(struct kv_engine *e, void **result)
{
    for (uint32_t b = 0; b < BUCKETS && e->root->keys > 0; b++) {
        struct node *n = e->root->buckets[b];
        if (n != NULL) {
            (void)rguard_touch(&e->root->buckets[b], sizeof n);
            e->root->buckets[b] = NULL;
        }
        while (n != NULL) {
            struct node *next = n->next;
            int rc = drop_node(e, n);
            if (rc != 0) {
                return rc;
            }
            n = next;
        }
    }
    (void)rguard_touch(e->root, sizeof *e->root);
    struct node **buckets = e->root->buckets;
    *e->root = (struct root){.buckets = buckets};
    *result = (void *)(uintptr_t)KV_OK;
    return 0;
}

/* An empty table in empty arenas. */
static int lay_out(struct kv_engine *e)
{
    void *root = NULL;
    void *buckets = NULL;
    int rc = rguard_alloc(NODES(e), sizeof *e->root, &root);
    if (rc == 0) {
        rc = rguard_alloc(NODES(e), BUCKETS * sizeof(struct node *), &buckets);
    }
    if (rc != 0) {
        return rc;
    }
    memset(buckets, 0, BUCKETS * sizeof(struct node *));
    e->root = root;
    *e->root = (struct root){.buckets = buckets};
    return 0;
}

/* ---- snapshots ---------------------------------------------------------------------------------
 *
 *     0   u64 magic
 *     8   u64 keys
 *     16  u64 bytes     of the whole snapshot
 *     24  u64 digest
 *     32  keys x { u32 key length, u32 value length, key, value }
 *     ..  zeros up to a multiple of 8
 *
 * Who stores or sends a snapshot checksums it; the digest here says something else: that memory
 * held what was applied when the snapshot was taken. A replica whose memory has changed since
 * refuses to spread that. */

static size_t snapshot_size(const struct kv_engine *e)
{
    size_t size = SNAPSHOT_HEADER + e->root->bytes + e->root->keys * 2 * sizeof(uint32_t);
    return (size + 7) & ~(size_t)7;
}

int kv_engine_snapshot(void *user, void **data, size_t *len)
{
    struct kv_engine *e = user;
    size_t size = snapshot_size(e), at = SNAPSHOT_HEADER;
    const uint64_t header[4] = {SNAPSHOT_MAGIC, e->root->keys, size, e->root->digest};
    uint64_t digest = 0;
    unsigned char *p = calloc(1, size);
    if (p == NULL) {
        return -ENOMEM;
    }
    memcpy(p, header, sizeof header);
    for (uint32_t b = 0; b < BUCKETS; b++) {
        for (const struct node *n = e->root->buckets[b]; n != NULL; n = n->next) {
            const uint32_t lengths[2] = {n->key_len, n->value_len};
            size_t need = sizeof lengths + n->key_len + (size_t)n->value_len;
            if (need > size - at) {
                goto damaged;
            }
            memcpy(p + at, lengths, sizeof lengths);
            memcpy(p + at + sizeof lengths, n->key, n->key_len);
            if (n->value_len > 0) {
                memcpy(p + at + sizeof lengths + n->key_len, n->value, n->value_len);
            }
            at += need;
            digest += hash_node(n);
        }
    }
    if (digest != e->root->digest || size - at > 7) {
        goto damaged;
    }
    *data = p;
    *len = size;
    return 0;
damaged:
    free(p);
    return RGUARD_ECHECKSUM;
}

/* The pair at *@at, which is moved on; RGUARD_EPROTO when it does not fit into the snapshot. */
static int next_pair(const unsigned char *p, size_t len, size_t *at, struct kv_slice *key,
                     struct kv_slice *value)
{
    uint32_t lengths[2];
    if (len - *at < sizeof lengths) {
        return RGUARD_EPROTO;
    }
    memcpy(lengths, p + *at, sizeof lengths);
    *at += sizeof lengths;
    if (lengths[0] > KV_MAX_KEY || lengths[1] > KV_MAX_VALUE ||
        (size_t)lengths[0] + lengths[1] > len - *at) {
        return RGUARD_EPROTO;
    }
    *key = (struct kv_slice){p + *at, lengths[0]};
    *value = (struct kv_slice){p + *at + lengths[0], lengths[1]};
    *at += (size_t)lengths[0] + lengths[1];
    return 0;
}

/* Everything that can be known before the present state is thrown away. */
static int check_snapshot(const struct kv_engine *e, const unsigned char *p, size_t len,
                          uint64_t *keys)
{
    uint64_t header[4] = {0}, digest = 0, pages = 0;
    size_t at = SNAPSHOT_HEADER;
    if (len < SNAPSHOT_HEADER) {
        return RGUARD_EPROTO;
    }
    memcpy(header, p, sizeof header);
    if (header[0] != SNAPSHOT_MAGIC || header[1] > e->limits.keys || header[2] != len) {
        return RGUARD_EPROTO;
    }
    for (uint64_t i = 0; i < header[1]; i++) {
        struct kv_slice key, value;
        int rc = next_pair(p, len, &at, &key, &value);
        if (rc != 0) {
            return rc;
        }
        digest += hash(hash_key(key.data, key.len), value.data, value.len);
        pages += pages_of(value.len);
    }
    if (len - at > 7 || pages > e->limits.pages) {
        return RGUARD_EPROTO;
    }
    *keys = header[1];
    return digest == header[3] ? 0 : RGUARD_ECHECKSUM;
}

int kv_engine_restore(void *user, const void *data, size_t len)
{
    struct kv_engine *e = user;
    uint64_t keys = 0;
    size_t at = SNAPSHOT_HEADER;
    int rc = len > 0 ? check_snapshot(e, data, len, &keys) : 0;
    if (rc == 0) {
        rc = rguard_arena_reset(VALUES(e));
    }
    if (rc == 0) {
        rc = rguard_arena_reset(NODES(e));
    }
    if (rc == 0) {
        rc = lay_out(e);
    }
    for (uint64_t i = 0; i < keys && rc == 0; i++) {
        struct kv_slice key, value;
        unsigned char *slot = NULL;
        rc = next_pair(data, len, &at, &key, &value);
        if (rc == 0) {
            rc = store_value(e, value, &slot);
        }
        if (rc == 0) {
            rc = put(e, key, slot, value.len);
        }
    }
    return rc == 0 && e->root->keys != keys ? RGUARD_EPROTO : rc; /* a key was there twice */
}
