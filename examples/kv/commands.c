/* SPDX-License-Identifier: Apache-2.0 */

/* What each command means.
 *
 * Errors tell a client what it may conclude:
 *     -MOVED 0 HOST:PORT    not carried out; that node leads
 *     -CLUSTERDOWN ...      not carried out; no leader is known, or this replica is contained
 *     -BUSY ...             not carried out; try again
 *     -ERR, -OOM ...        not carried out, and will not be
 *     -UNKNOWN outcome ...  a write that may or may not take effect */

#include "commands.h"

#include <raftguard/trace.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* INFO recomputes the digest from memory below these, which takes a few milliseconds at most. */
#define DIGEST_KEYS  (1u << 14)
#define DIGEST_BYTES (4u << 20)

#define RUN(name)                                                                        \
    static void name(struct kv_context *ctx, const struct kv_slice *argv, unsigned argc, \
                     struct resp_out *out)

static bool is_word(struct kv_slice arg, const char *word)
{
    return arg.len == strlen(word) && strncasecmp(arg.data, word, arg.len) == 0;
}

/* All zero once the backend has closed: the last replies leave after it. */
static void get_info(const struct kv_context *ctx, struct kv_backend_info *info)
{
    *info = (struct kv_backend_info){0};
    if (ctx->backend != NULL) {
        ctx->ops->info(ctx->backend, info);
    }
}

/* ---- reads ----------------------------------------------------------------------------------- */

RUN(run_get)
{
    struct kv_slice value;
    (void)argc;
    if (kv_engine_get(ctx->engine, argv[1].data, argv[1].len, &value)) {
        resp_bulk(out, value.data, value.len);
    } else {
        resp_null(out);
    }
}

RUN(run_exists)
{
    struct kv_slice value;
    int64_t found = 0;
    for (unsigned i = 1; i < argc; i++) {
        found += kv_engine_get(ctx->engine, argv[i].data, argv[i].len, &value) ? 1 : 0;
    }
    resp_integer(out, found);
}

RUN(run_dbsize)
{
    struct kv_engine_stats stats;
    (void)argv;
    (void)argc;
    kv_engine_stats(ctx->engine, &stats);
    resp_integer(out, (int64_t)stats.keys);
}

/* ---- about the node -------------------------------------------------------------------------- */

static const char *role_name(int role)
{
    switch (role) {
        case RGUARD_ROLE_LEADER:
            return "leader";
        case RGUARD_ROLE_CANDIDATE:
            return "candidate";
        case RGUARD_ROLE_CONTAINED:
            return "contained";
        default:
            return "follower";
    }
}

RUN(run_info)
{
    char text[4096], counters[1024] = "";
    struct kv_backend_info info;
    struct kv_engine_stats stats;
    (void)argv; /* a section's name is accepted and everything is answered */
    (void)argc;
    get_info(ctx, &info);
    if (ctx->backend != NULL) {
        ctx->ops->counters(ctx->backend, counters, sizeof counters);
    }
    kv_engine_stats(ctx->engine, &stats);
    bool cheap = stats.keys <= DIGEST_KEYS && stats.bytes <= DIGEST_BYTES;
    uint64_t incremental = kv_engine_digest(ctx->engine);
    uint64_t digest = cheap ? kv_engine_digest_memory(ctx->engine) : incremental;
    int n = snprintf(
        text, sizeof text,
        "# Replica\r\nrole:%s\r\nterm:%llu\r\napplied_index:%llu\r\ncommit_index:%llu\r\n"
        "last_index:%llu\r\nleader_id:%llu\r\nleader:%s\r\ndigest:%016llx\r\n"
        "digest_incremental:%016llx\r\ndigest_source:%s\r\nraft:%s\r\n%s"
        "# Server\r\nprocess_id:%ld\r\nconnected_clients:%u\r\nconnections_received:%llu\r\n"
        "connections_refused:%llu\r\nprotocol_errors:%llu\r\nwrites_acknowledged:%llu\r\n"
        "# Data\r\nkeys:%llu\r\nbytes:%llu\r\nvalue_pages:%llu\r\n",
        role_name(info.role), (unsigned long long)info.term, (unsigned long long)info.applied_index,
        (unsigned long long)info.commit_index, (unsigned long long)info.last_index,
        (unsigned long long)info.leader_id,
        info.leader_announce != NULL ? info.leader_announce : "", (unsigned long long)digest,
        (unsigned long long)incremental, cheap ? "memory" : "incremental", ctx->ops->name, counters,
        (long)getpid(), ctx->clients, (unsigned long long)ctx->connections,
        (unsigned long long)ctx->refused, (unsigned long long)ctx->protocol_errors,
        (unsigned long long)ctx->acked, (unsigned long long)stats.keys,
        (unsigned long long)stats.bytes, (unsigned long long)stats.pages);
    resp_bulk(out, text, n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

RUN(run_role)
{
    struct kv_backend_info info;
    (void)argv;
    (void)argc;
    get_info(ctx, &info);
    const char *role = info.role == RGUARD_ROLE_LEADER ? "leader" : "follower";
    const char *leader = info.leader_announce != NULL ? info.leader_announce : "";
    resp_array(out, 4);
    resp_bulk(out, role, strlen(role));
    resp_integer(out, (int64_t)info.term);
    resp_integer(out, (int64_t)info.applied_index);
    resp_bulk(out, leader, strlen(leader));
}

/* ---- what clients expect to be there --------------------------------------------------------- */

RUN(run_ping)
{
    (void)ctx;
    if (argc == 2) {
        resp_bulk(out, argv[1].data, argv[1].len);
    } else {
        resp_simple(out, "PONG");
    }
}

RUN(run_echo)
{
    (void)ctx;
    (void)argc;
    resp_bulk(out, argv[1].data, argv[1].len);
}

RUN(run_config)
{
    static const char *const known[][2] = {{"save", ""}, {"appendonly", "yes"}, {"maxmemory", "0"}};
    (void)ctx;
    if (argc < 3 || !is_word(argv[1], "GET")) {
        resp_error(out, "ERR only CONFIG GET is supported; options are given on the command line");
        return;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (is_word(argv[2], known[i][0])) {
            resp_array(out, 2);
            resp_bulk(out, known[i][0], strlen(known[i][0]));
            resp_bulk(out, known[i][1], strlen(known[i][1]));
            return;
        }
    }
    resp_array(out, 0);
}

RUN(run_client)
{
    (void)ctx;
    if (argc >= 3 && (is_word(argv[1], "SETNAME") || is_word(argv[1], "SETINFO"))) {
        resp_simple(out, "OK");
    } else {
        resp_error(out, "ERR only CLIENT SETNAME and CLIENT SETINFO are supported");
    }
}

RUN(run_select)
{
    (void)ctx;
    (void)argc;
    if (is_word(argv[1], "0")) {
        resp_simple(out, "OK");
    } else {
        resp_error(out, "ERR DB index is out of range: there is only 0");
    }
}

RUN(run_quit)
{
    (void)ctx;
    (void)argv;
    (void)argc;
    resp_simple(out, "OK");
}

RUN(run_shutdown)
{
    (void)argv;
    (void)argc;
    (void)out; /* as in Redis the answer is the end of the connection */
    ctx->shutdown(ctx->user);
}

static void run_command(struct kv_context *ctx, const struct kv_slice *argv, unsigned argc,
                        struct resp_out *out);

static const struct kv_command commands[] = {
    {"GET", KV_READ, 2, 2, 0, false, run_get},
    {"SET", KV_WRITE, 3, 3, KV_OP_SET, false, NULL},
    {"DEL", KV_WRITE, 2, KV_MAX_ARGS, KV_OP_DEL, false, NULL},
    {"EXISTS", KV_READ, 2, KV_MAX_ARGS, 0, false, run_exists},
    {"DBSIZE", KV_READ, 1, 1, 0, false, run_dbsize},
    {"FLUSHALL", KV_WRITE, 1, 1, KV_OP_FLUSH, false, NULL},
    {"PING", KV_NOW, 1, 2, 0, false, run_ping},
    {"ECHO", KV_NOW, 2, 2, 0, false, run_echo},
    {"INFO", KV_NOW, 1, KV_MAX_ARGS, 0, false, run_info},
    {"ROLE", KV_NOW, 1, 1, 0, false, run_role},
    {"CONFIG", KV_NOW, 2, KV_MAX_ARGS, 0, false, run_config},
    {"COMMAND", KV_NOW, 1, KV_MAX_ARGS, 0, false, run_command},
    {"CLIENT", KV_NOW, 2, KV_MAX_ARGS, 0, false, run_client},
    {"SELECT", KV_NOW, 2, 2, 0, false, run_select},
    {"QUIT", KV_NOW, 1, KV_MAX_ARGS, 0, true, run_quit},
    {"SHUTDOWN", KV_NOW, 1, KV_MAX_ARGS, 0, true, run_shutdown},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

/* COMMAND COUNT is honest; COMMAND, COMMAND DOCS and the rest are empty, which clients accept. */
static void run_command(struct kv_context *ctx, const struct kv_slice *argv, unsigned argc,
                        struct resp_out *out)
{
    (void)ctx;
    if (argc == 2 && is_word(argv[1], "COUNT")) {
        resp_integer(out, (int64_t)N_COMMANDS);
    } else {
        resp_array(out, 0);
    }
}

const struct kv_command *kv_command_find(const struct kv_slice *argv, unsigned argc,
                                         struct resp_out *out)
{
    const struct kv_command *c = NULL;
    for (size_t i = 0; i < N_COMMANDS && c == NULL; i++) {
        c = is_word(argv[0], commands[i].name) ? &commands[i] : NULL;
    }
    if (c == NULL) {
        resp_error(out, "ERR unknown command '%.*s'", argv[0].len > 64 ? 64 : (int)argv[0].len,
                   (const char *)argv[0].data);
        return NULL;
    }
    if (c->op == KV_OP_SET && argc > c->max) {
        resp_error(out, "ERR syntax error: SET takes a key and a value, options are not supported");
        return NULL;
    }
    if (argc < c->min || argc > c->max) {
        resp_error(out, "ERR wrong number of arguments for '%s' command", c->name);
        return NULL;
    }
    unsigned keys_end = c->op == KV_OP_SET ? 2 : argc;
    for (unsigned i = 1; c->class_ != KV_NOW && i < keys_end; i++) {
        if (argv[i].len > KV_MAX_KEY) {
            resp_error(out, "ERR key is longer than %d bytes", KV_MAX_KEY);
            return NULL;
        }
    }
    return c;
}

/* ---- outcomes -------------------------------------------------------------------------------- */

void kv_reply_applied(struct kv_context *ctx, uint64_t index, const void *result,
                      struct resp_out *out)
{
    struct kv_backend_info info;
    switch (kv_result_code(result)) {
        case KV_OK:
            resp_simple(out, "OK");
            break;
        case KV_COUNT:
            resp_integer(out, (int64_t)kv_result_count(result));
            break;
        case KV_TOO_MANY_KEYS:
            resp_error(out, "OOM no more than %u keys are stored", KV_MAX_KEYS);
            return;
        case KV_FULL:
            resp_error(out, "OOM values may fill %u pages of 4 KiB, and they do", KV_MAX_PAGES);
            return;
        default:
            resp_error(out, "ERR malformed command in the log");
            return;
    }
    get_info(ctx, &info);
    rguard_trace(RGUARD_TRACE_ACK, info.term, index, ++ctx->acked, 0);
}

static void reply_moved(struct kv_context *ctx, struct resp_out *out)
{
    struct kv_backend_info info;
    get_info(ctx, &info);
    /* Its own address would send the client round in circles: this node just refused. */
    if (info.role == RGUARD_ROLE_FOLLOWER && info.leader_announce != NULL) {
        resp_error(out, "MOVED 0 %s", info.leader_announce);
    } else {
        resp_error(out, "CLUSTERDOWN no leader is known");
    }
}

void kv_reply_failed(struct kv_context *ctx, enum kv_class class_, int status, struct resp_out *out)
{
    bool lost = status == RGUARD_ELOST || status == RGUARD_ECANCELED;
    if (lost && class_ == KV_WRITE) {
        resp_error(out, "UNKNOWN outcome: leadership was lost before the write was confirmed");
    } else if (lost || status == RGUARD_ENOTLEADER) {
        reply_moved(ctx, out);
    } else if (status == RGUARD_EBUSY) {
        resp_error(out, "BUSY too much is in flight, try again");
    } else if (status == RGUARD_EARENAFULL) {
        resp_error(out, "OOM no further guard pages: raise vm.max_map_count");
    } else if (status == RGUARD_ESTATE || status == RGUARD_EPOISONED) {
        resp_error(out, "CLUSTERDOWN this replica is contained: %s", rguard_strerror(status));
    } else {
        resp_error(out, "ERR %s", rguard_strerror(status));
    }
}
