/* SPDX-License-Identifier: Apache-2.0 */

/* rguard-kv: a replicated key-value server that Redis clients can talk to.
 *
 *     options, failpoints -> RESP port -> directory, replica -> loop
 *     signal or SHUTDOWN  -> stop reading -> close the replica -> last replies -> exit 0
 *
 * Invariant: whatever can be refused is refused before the step that could do damage: nothing is
 * opened on a bad option, and the directory is not touched when the RESP port is taken. */

#include "backend.h"
#include "log.h"
#include "server.h"

#include <errno.h>
#include <getopt.h>
#include <raftguard/failpoint.h>
#include <raftguard/trace.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXIT_USAGE    64
#define EXIT_SPEC     78
#define MAX_PEERS     16
#define TRACE_RECORDS (1u << 18)

static const char usage[] =
    "usage: rguard-kv --id N --listen HOST:PORT --peers 1=HOST:PORT,2=HOST:PORT,... --dir D "
    "[options]\n"
    "\n"
    "One node of a replicated key-value store on raftguard. Clients speak RESP (redis-cli,\n"
    "redis-benchmark): PING ECHO GET SET DEL EXISTS DBSIZE INFO ROLE CONFIG GET COMMAND CLIENT\n"
    "SELECT FLUSHALL SHUTDOWN QUIT. GET, EXISTS and DBSIZE are linearizable.\n"
    "\n"
    "  --id N                this node, one of --peers\n"
    "  --listen HOST:PORT    RESP; the other nodes send clients here with -MOVED\n"
    "  --peers ID=HOST:PORT,...  raft addresses of all nodes, this one included; an empty "
    "directory\n"
    "                        is bootstrapped from it. Notices use UDP on the same port\n"
    "  --dir D               log, metadata and snapshots of this node; created if it is missing\n"
    "  --engine arena|lmdb   arena is the default; lmdb is not in this build\n"
    "  --election MS         election timeout, default 1000\n"
    "  --heartbeat MS        default 100, at most half of the election timeout\n"
    "  --snapshot-threshold N  entries between snapshots\n"
    "  --handover gasp|timeout  timeout: a failing leader tells nobody (for measurements)\n"
    "  --raft guarded|bare   bare: the same server and engine on stock libraft with raft_uv, "
    "without\n"
    "                        trap, windows and checks. A baseline to measure against, not for "
    "data\n"
    "  --trace FILE          records events into a ring of 16 MiB, see rguard-converge\n"
    "  --help, --version\n"
    "\n"
    "Hosts are numeric IPv4 addresses or localhost. RGUARD_FAILPOINTS arms fault sites (exit 78 "
    "if\n"
    "it is malformed). SIGTERM closes cleanly, a second one ends at once.\n"
    "Exit codes: 0 closed cleanly, 1 could not run, 64 bad usage, 78 bad RGUARD_FAILPOINTS.\n";

struct settings
{
    uint64_t id;
    char listen[32], peer_address[MAX_PEERS][32];
    struct rguard_peer peers[MAX_PEERS];
    size_t n_peers;
    const char *dir, *trace;
    unsigned election_ms, heartbeat_ms, snapshot_threshold;
    bool no_notice, bare;
};

struct program
{
    uv_loop_t loop;
    uv_signal_t term, interrupt;
    uv_prepare_t turn;
    struct kv_engine *engine;
    struct kv_server *server;
    struct kv_backend *backend;
    const struct kv_backend_ops *ops;
    bool ending;
};

static int parse_options(int argc, char **argv, struct settings *set);
static int make_directory(const char *dir);
static int run(struct program *p, const struct settings *set);
static void end(void *user);

static int complain(int code, const char *what, const char *why)
{
    fprintf(stderr, "rguard-kv: %s: %s\n", what, why);
    return code;
}

int main(int argc, char **argv)
{
    static struct program program;
    struct settings set = {.election_ms = 1000, .heartbeat_ms = 100};
    struct rguard_fp_error error;
    int rc = rguard_fp_init_from_env(&error);
    if (rc != 0 && rc != RGUARD_ENOTSUP) {
        if (rc != RGUARD_ESPEC && rc != RGUARD_EUNKNOWN && rc != RGUARD_EREFUSED) {
            return complain(EXIT_FAILURE, "failpoints", error.message);
        }
        fprintf(stderr, "rguard-kv: RGUARD_FAILPOINTS: offset %zu: %s\n", error.offset,
                error.message);
        return EXIT_SPEC;
    }
    rc = parse_options(argc, argv, &set);
    if (rc >= 0) {
        return rc;
    }
    signal(SIGPIPE, SIG_IGN);
    kv_log_node(set.id);
    rc = set.trace != NULL ? rguard_trace_open(set.trace, TRACE_RECORDS) : 0;
    if (rc != 0) {
        return complain(EXIT_FAILURE, set.trace, rguard_strerror(rc));
    }
    rc = run(&program, &set);
    rguard_trace_close();
    rguard_fp_fini();
    return rc;
}

/* ---- options --------------------------------------------------------------------------------- */

static bool to_number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    char *end = NULL;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || v < min || v > max) {
        return false;
    }
    *out = v;
    return true;
}

static bool to_unsigned(const char *text, unsigned max, unsigned *out)
{
    uint64_t v = 0;
    if (!to_number(text, 1, max, &v)) {
        return false;
    }
    *out = (unsigned)v;
    return true;
}

/* "localhost:80" or "127.0.0.1:80" into the numeric form. */
static bool to_address(const char *text, char out[32])
{
    char host[32];
    struct sockaddr_in address;
    uint64_t port = 0;
    const char *colon = strrchr(text, ':');
    if (colon == NULL || (size_t)(colon - text) >= sizeof host ||
        !to_number(colon + 1, 1, 65535, &port)) {
        return false;
    }
    snprintf(host, sizeof host, "%.*s", (int)(colon - text), text);
    const char *numeric = strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
    if (uv_ip4_addr(numeric, (int)port, &address) != 0) {
        return false;
    }
    snprintf(out, 32, "%.15s:%u", numeric, (unsigned)port);
    return true;
}

/* NULL, or what is wrong. */
static const char *parse_peers(const char *text, struct settings *set)
{
    char copy[1024], *save = NULL;
    if (strlen(text) >= sizeof copy) {
        return "too long";
    }
    strcpy(copy, text);
    set->n_peers = 0;
    for (char *one = strtok_r(copy, ",", &save); one != NULL; one = strtok_r(NULL, ",", &save)) {
        struct rguard_peer *peer = &set->peers[set->n_peers];
        char *equals = strchr(one, '=');
        if (set->n_peers == MAX_PEERS) {
            return "more than 16 nodes";
        }
        if (equals == NULL) {
            return "expected ID=HOST:PORT,ID=HOST:PORT,...";
        }
        *equals = '\0';
        if (!to_number(one, 1, UINT64_MAX, &peer->id)) {
            return "an id is a number from 1 on";
        }
        if (!to_address(equals + 1, set->peer_address[set->n_peers])) {
            return "an address is HOST:PORT with a numeric IPv4 host";
        }
        peer->address = set->peer_address[set->n_peers];
        for (size_t i = 0; i < set->n_peers; i++) {
            if (set->peers[i].id == peer->id || strcmp(set->peers[i].address, peer->address) == 0) {
                return "an id or an address is there twice";
            }
        }
        set->n_peers++;
    }
    return set->n_peers > 0 ? NULL : "no nodes";
}

static const char *own_address(const struct settings *set)
{
    for (size_t i = 0; i < set->n_peers; i++) {
        if (set->peers[i].id == set->id) {
            return set->peers[i].address;
        }
    }
    return NULL;
}

static int check_settings(const struct settings *set)
{
    if (set->id == 0 || set->listen[0] == '\0' || set->n_peers == 0 || set->dir == NULL) {
        return complain(EXIT_USAGE, "usage",
                        "--id, --listen, --peers and --dir are needed (--help)");
    }
    if (own_address(set) == NULL) {
        return complain(EXIT_USAGE, "--peers", "this node's --id is not among them");
    }
    if (strcmp(own_address(set), set->listen) == 0) {
        return complain(EXIT_USAGE, "--listen", "RESP and raft need different ports");
    }
    if (set->heartbeat_ms * 2 > set->election_ms) {
        return complain(EXIT_USAGE, "--heartbeat", "must be at most half of --election");
    }
    return -1;
}

/* NULL, or what is wrong with @arg of option @c. */
static const char *take_option(struct settings *set, int c, const char *arg)
{
    switch (c) {
        case 'i':
            return to_number(arg, 1, UINT64_MAX, &set->id) ? NULL : "not a number from 1 on";
        case 'l':
            return to_address(arg, set->listen) ? NULL : "not HOST:PORT with a numeric IPv4 host";
        case 'p':
            return parse_peers(arg, set);
        case 'd':
            set->dir = arg;
            return arg[0] != '\0' ? NULL : "empty";
        case 'e':
            if (strcmp(arg, "lmdb") == 0) {
                return "the lmdb engine is not in this build; use arena";
            }
            return strcmp(arg, "arena") == 0 ? NULL : "arena or lmdb";
        case 'E':
            return to_unsigned(arg, 600000, &set->election_ms) ? NULL : "not 1 to 600000 ms";
        case 'H':
            return to_unsigned(arg, 600000, &set->heartbeat_ms) ? NULL : "not 1 to 600000 ms";
        case 's':
            return to_unsigned(arg, 1u << 30, &set->snapshot_threshold) ? NULL : "not a number";
        case 'o':
            set->no_notice = strcmp(arg, "timeout") == 0;
            return set->no_notice || strcmp(arg, "gasp") == 0 ? NULL : "gasp or timeout";
        case 'r':
            set->bare = strcmp(arg, "bare") == 0;
            return set->bare || strcmp(arg, "guarded") == 0 ? NULL : "guarded or bare";
        default:
            set->trace = arg;
            return NULL;
    }
}

/* -1: go on; otherwise the exit code. */
static int parse_options(int argc, char **argv, struct settings *set)
{
    static const struct option options[] = {{"id", required_argument, NULL, 'i'},
                                            {"listen", required_argument, NULL, 'l'},
                                            {"peers", required_argument, NULL, 'p'},
                                            {"dir", required_argument, NULL, 'd'},
                                            {"engine", required_argument, NULL, 'e'},
                                            {"election", required_argument, NULL, 'E'},
                                            {"heartbeat", required_argument, NULL, 'H'},
                                            {"snapshot-threshold", required_argument, NULL, 's'},
                                            {"handover", required_argument, NULL, 'o'},
                                            {"raft", required_argument, NULL, 'r'},
                                            {"trace", required_argument, NULL, 't'},
                                            {"help", no_argument, NULL, 'h'},
                                            {"version", no_argument, NULL, 'v'},
                                            {NULL, 0, NULL, 0}};
    int c, which = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, &which)) != -1) {
        if (c == 'h') {
            return fputs(usage, stdout) < 0 ? EXIT_FAILURE : 0;
        }
        if (c == 'v') {
            printf("rguard-kv %s\n", rguard_version());
            return 0;
        }
        if (c == '?' || c == ':') {
            return complain(EXIT_USAGE, argv[optind - 1],
                            c == ':' ? "needs a value" : "unknown option (--help lists them)");
        }
        const char *wrong = take_option(set, c, optarg);
        if (wrong != NULL) {
            char what[256];
            snprintf(what, sizeof what, "--%s %s", options[which].name, optarg);
            return complain(EXIT_USAGE, what, wrong);
        }
    }
    if (optind < argc) {
        return complain(EXIT_USAGE, argv[optind], "unexpected argument");
    }
    return check_settings(set);
}

/* ---- running --------------------------------------------------------------------------------- */

static int make_directory(const char *dir)
{
    struct stat st;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        return -errno;
    }
    if (stat(dir, &st) != 0) {
        return -errno;
    }
    return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

/* The node's log is where a violation must be found afterwards. Those of a window (index != 0) have
 * been logged by the replica when it dealt with them. */
static void log_violations(const struct program *p)
{
    struct rguard_violation v;
    uint64_t lost = 0;
    while (p->ops == &kv_backend_guarded && rguard_violation_next(&v, &lost) == 1) {
        char line[512];
        (void)rguard_violation_text(&v, line, sizeof line);
        if (v.index == 0) {
            kv_log(RGUARD_LOG_ERROR, "%s", line);
        }
    }
    if (lost > 0) {
        kv_log(RGUARD_LOG_ERROR, "%llu violation records were overwritten before they were read",
               (unsigned long long)lost);
    }
}

static void on_turn(uv_prepare_t *turn)
{
    log_violations(turn->data);
}

static void on_signal(uv_signal_t *handle, int signum)
{
    struct program *p = handle->data;
    if (p->ending) {
        _exit(128 + signum);
    }
    kv_log(RGUARD_LOG_INFO, "signal %d: closing", signum);
    end(p);
}

static void on_server_closed(void *user)
{
    struct program *p = user;
    uv_close((uv_handle_t *)&p->term, NULL);
    uv_close((uv_handle_t *)&p->interrupt, NULL);
    uv_close((uv_handle_t *)&p->turn, NULL);
}

static void on_backend_closed(void *user)
{
    struct program *p = user;
    kv_server_close(p->server, on_server_closed, p);
}

static void end(void *user)
{
    struct program *p = user;
    if (!p->ending) {
        p->ending = true;
        kv_server_stop(p->server);
        p->ops->close(p->backend, on_backend_closed, p);
    }
}

static int open_all(struct program *p, const struct settings *set, char *errmsg, size_t cap)
{
    struct kv_server_options server = {
        .loop = &p->loop, .listen = set->listen, .shutdown = end, .user = p};
    struct kv_backend_options backend = {.loop = &p->loop,
                                         .dir = set->dir,
                                         .id = set->id,
                                         .address = own_address(set),
                                         .announce = set->listen,
                                         .peers = set->peers,
                                         .n_peers = set->n_peers,
                                         .election_ms = set->election_ms,
                                         .heartbeat_ms = set->heartbeat_ms,
                                         .snapshot_threshold = set->snapshot_threshold,
                                         .no_notice = set->no_notice};
    int rc = kv_engine_open(NULL, &p->engine);
    if (rc != 0) {
        snprintf(errmsg, cap, "engine: %s", rguard_strerror(rc));
        return rc;
    }
    server.engine = backend.engine = p->engine;
    rc = kv_server_open(&server, &p->server, errmsg, cap);
    if (rc != 0) {
        return rc;
    }
    rc = make_directory(set->dir);
    if (rc != 0) {
        snprintf(errmsg, cap, "%s: %s", set->dir, rguard_strerror(rc));
    } else {
        rc = p->ops->open(&backend, &p->backend, errmsg, cap);
    }
    if (rc != 0) {
        kv_server_stop(p->server);
        kv_server_close(p->server, NULL, NULL);
        return rc;
    }
    kv_server_attach(p->server, p->ops, p->backend);
    return 0;
}

static int run(struct program *p, const struct settings *set)
{
    char errmsg[512] = "unknown";
    int code = EXIT_SUCCESS;
    p->ops = set->bare ? &kv_backend_bare : &kv_backend_guarded;
    uv_loop_init(&p->loop);
    if (open_all(p, set, errmsg, sizeof errmsg) != 0) {
        fprintf(stderr, "rguard-kv: %s\n", errmsg);
        code = EXIT_FAILURE;
    } else {
        uv_signal_init(&p->loop, &p->term);
        uv_signal_init(&p->loop, &p->interrupt);
        uv_prepare_init(&p->loop, &p->turn);
        p->term.data = p->interrupt.data = p->turn.data = p;
        uv_signal_start(&p->term, on_signal, SIGTERM);
        uv_signal_start(&p->interrupt, on_signal, SIGINT);
        uv_prepare_start(&p->turn, on_turn);
        kv_log(RGUARD_LOG_INFO, "%s node, RESP on %s, raft on %s, data in %s", p->ops->name,
               set->listen, own_address(set), set->dir);
    }
    uv_run(&p->loop, UV_RUN_DEFAULT);
    log_violations(p);
    kv_engine_close(p->engine);
    (void)uv_loop_close(&p->loop);
    return code;
}
