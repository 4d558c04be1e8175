/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_ENGINE_H
#define KV_ENGINE_H

#include <raftguard/guard.h>

/* The arena engine: a hash table of byte strings whose every byte lives in guarded memory. */

struct kv_engine;

/* What a command, and the state, may hold. The same on every replica, or they would diverge. */
#define KV_MAX_KEY   512
#define KV_MAX_VALUE (1u << 20)
#define KV_MAX_ARGS  1024
#define KV_MAX_KEYS  (1u << 17)
#define KV_MAX_PAGES (1u << 17) /* 4 KiB pages that the values fill together: 512 MiB */

/* ---- commands: what is replicated --------------------------------------------------------------
 *
 *     0  u8   op
 *     1  u8   0
 *     2  u16  n         arguments
 *     4  u32  length    of the whole command, padding excluded
 *     8  n x { u32 length, bytes }
 *     .. zeros up to a multiple of 8 (stock raft_uv damages its log on any other size)
 *
 * SET has key and value, DEL one key or more, FLUSH nothing. */
#define KV_COMMAND_HEADER 8u
enum kv_op { KV_OP_SET = 1, KV_OP_DEL = 2, KV_OP_FLUSH = 3 };

struct kv_slice
{
    const void *data;
    size_t len;
};

/* Bytes of the encoded command, padding included. */
size_t kv_command_size(const struct kv_slice *args, unsigned n);

/* Writes it; @buf has room for kv_command_size() bytes. */
void kv_command_encode(void *buf, enum kv_op op, const struct kv_slice *args, unsigned n);

/* Checks what came from elsewhere: op, arity, every length. 0 or RGUARD_EPROTO. */
int kv_command_check(const void *cmd, size_t len, enum kv_op *op, unsigned *n);

/* Of a checked command: how many arguments, and the one at *@cursor, which starts as
 * KV_COMMAND_HEADER and is moved on. */
unsigned kv_command_argc(const void *cmd);
struct kv_slice kv_command_next(const void *cmd, size_t *cursor);

/* A result travels in the pointer itself: nothing to allocate, nothing to keep alive. */
enum kv_result_code {
    KV_OK = 0,
    KV_COUNT = 1,     /* DEL: how many keys were removed */
    KV_MALFORMED = 2, /* not a command of this engine */
    KV_TOO_MANY_KEYS = 3,
    KV_FULL = 4
};
enum kv_result_code kv_result_code(const void *result);
uint64_t kv_result_count(const void *result);

/* ---- the engine ------------------------------------------------------------------------------ */

/* Lower limits than KV_MAX_KEYS and KV_MAX_PAGES, for tests that reach them. */
struct kv_engine_limits
{
    uint64_t keys, pages;
};

/* @limits may be NULL. */
int kv_engine_open(const struct kv_engine_limits *limits, struct kv_engine **out);
void kv_engine_close(struct kv_engine *e);

/* The arenas of the state, for struct rguard_engine. */
rguard_arena **kv_engine_arenas(struct kv_engine *e, size_t *n);

/* The five calls of struct rguard_engine (raftlog.h); @user is the struct kv_engine. */
int kv_engine_apply(void *user, uint64_t index, const void *cmd, size_t len, void **result);
int kv_engine_snapshot(void *user, void **data, size_t *len);
int kv_engine_restore(void *user, const void *data, size_t len);
uint64_t kv_engine_digest(void *user);

/* The digest computed anew from the bytes in memory. kv_engine_digest() is the incremental one;
 * they differ exactly when memory changed behind the engine's back. Costs one pass over the state.
 */
uint64_t kv_engine_digest_memory(const struct kv_engine *e);

/* true and @value: a view into the arena, valid until the next apply. */
bool kv_engine_get(const struct kv_engine *e, const void *key, size_t len, struct kv_slice *value);

/* false: this node should propose no further value. Kernels without MADV_GUARD_INSTALL pay for
 * every guard page with two mappings, and those are counted (vm.max_map_count). It is a matter of
 * the kernel and not of the state, so it may keep a leader from proposing, but decides nothing at
 * apply. */
bool kv_engine_has_room(const struct kv_engine *e);

struct kv_engine_stats
{
    uint64_t keys, bytes; /* bytes of keys and values */
    uint64_t pages;       /* of values, counts against KV_MAX_PAGES */
};
void kv_engine_stats(const struct kv_engine *e, struct kv_engine_stats *stats);

#endif
