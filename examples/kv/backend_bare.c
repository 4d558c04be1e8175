/* SPDX-License-Identifier: Apache-2.0 */

/* The baseline: the same server and the same engine on stock libraft with its own raft_uv. No trap,
 * no window, no checks, no notices; libraft's settings as they come. It exists to be measured
 * against and keeps nobody's data safe.
 *
 * Three things are done for it, so that it is a fair opponent and not a crash:
 *  - raft_uv's close callback can fire twice, and its memory may be freed too early (canonical/raft
 *    0.15: uvMaybeFireCloseCb has no flag). The second call is counted and swallowed, and the first
 *    is passed on 2 ms late.
 *  - SIGPIPE is ignored (by main): a survivor dies of it otherwise.
 *  - The RESP addresses travel between the nodes as small datagrams on the raft port, because
 *    libraft's messages have no room for them.
 *
 * A marker file keeps a bare directory and a guarded one, and two nodes, apart; libraft would not
 * notice. */

#include "backend.h"
#include "log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <raft/uv.h>
#include <raftguard/trace.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define WATCH_MS      1   /* how late a change of role may be traced */
#define HELLO_EVERY   100 /* watches */
#define CLOSE_LATE_MS 2
#define MAX_INFLIGHT  ((size_t)64 << 20)
#define MAX_PEERS     16
#define HELLO_MAGIC   "RGKVHELLO1"

struct kv_backend
{
    struct kv_backend_options options;
    struct raft raft;
    struct raft_io io;
    struct raft_uv_transport transport;
    struct raft_fsm fsm;
    int marker;
    int role; /* last one traced */
    uv_timer_t watch, late;
    uv_udp_t hello;
    unsigned until_hello;
    unsigned handles; /* of the three above, open */
    struct sockaddr_in peers[MAX_PEERS];
    char announced[MAX_PEERS][64];
    size_t inflight;
    void (*inner_close)(struct raft_io *io, raft_io_close_cb cb);
    raft_io_close_cb after_close;
    uint64_t close_calls;
    void (*closed)(void *user);
    void *closed_user;
};

struct bare_apply
{
    struct raft_apply req;
    struct kv_backend *backend;
    rguard_propose_cb cb;
    void *user;
    size_t len;
};

struct bare_read
{
    struct raft_barrier req;
    rguard_read_cb cb;
    void *user;
};

static int take_directory(struct kv_backend *b, char *errmsg, size_t cap);
static int start_hello(struct kv_backend *b, char *errmsg, size_t cap);
static int start_raft(struct kv_backend *b, char *errmsg, size_t cap);
static void watch_role(struct kv_backend *b);
static void on_watch(uv_timer_t *timer);
static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result);
static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n);
static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf);
static void io_close(struct raft_io *io, raft_io_close_cb cb);
static void bare_close(struct kv_backend *b, void (*cb)(void *user), void *user);

static void flag_closed(void *user)
{
    *(bool *)user = true;
}

static int bare_open(const struct kv_backend_options *options, struct kv_backend **out,
                     char *errmsg, size_t cap)
{
    bool closed = false;
    struct kv_backend *b = options->n_peers <= MAX_PEERS ? calloc(1, sizeof *b) : NULL;
    if (b == NULL) {
        snprintf(errmsg, cap, "too many peers or out of memory");
        return -ENOMEM;
    }
    b->options = *options;
    b->raft.data = b;
    b->marker = -1;
    b->fsm = (struct raft_fsm){.version = 1,
                               .data = b,
                               .apply = fsm_apply,
                               .snapshot = fsm_snapshot,
                               .restore = fsm_restore};
    int rc = take_directory(b, errmsg, cap);
    if (rc != 0) {
        goto free_backend;
    }
    rc = start_hello(b, errmsg, cap);
    if (rc != 0) {
        goto close_marker;
    }
    if (raft_uv_tcp_init(&b->transport, options->loop) != 0 ||
        raft_uv_init(&b->io, options->loop, options->dir, &b->transport) != 0) {
        snprintf(errmsg, cap, "%s: %s", options->dir, b->io.errmsg);
        rc = -EIO;
        goto close_hello;
    }
    b->inner_close = b->io.close;
    b->io.close = io_close;
    if (raft_init(&b->raft, &b->io, &b->fsm, options->id, options->address) != 0) {
        snprintf(errmsg, cap, "%s: %s", options->dir, b->io.errmsg);
        rc = -EIO;
        goto close_hello;
    }
    b->raft.data = b;
    rc = start_raft(b, errmsg, cap);
    if (rc != 0) {
        bare_close(b, flag_closed, &closed);
        while (!closed) {
            uv_run(options->loop, UV_RUN_ONCE);
        }
        return rc;
    }
    rguard_trace(RGUARD_TRACE_START, b->raft.current_term, raft_last_index(&b->raft), options->id,
                 0);
    watch_role(b);
    *out = b;
    return 0;
close_hello:
    uv_close((uv_handle_t *)&b->watch, NULL);
    uv_close((uv_handle_t *)&b->late, NULL);
    uv_close((uv_handle_t *)&b->hello, NULL);
    uv_run(options->loop, UV_RUN_NOWAIT);
close_marker:
    close(b->marker);
free_backend:
    free(b);
    return rc;
}

/* ---- opening --------------------------------------------------------------------------------- */

static bool is_empty(const char *dir)
{
    DIR *d = opendir(dir);
    unsigned names = 0;
    while (d != NULL && names < 3 && readdir(d) != NULL) {
        names++;
    }
    if (d != NULL) {
        closedir(d);
    }
    return names == 2; /* "." and ".." */
}

static int take_directory(struct kv_backend *b, char *errmsg, size_t cap)
{
    char path[512], text[64] = {0}, mine[64];
    const char *dir = b->options.dir;
    int n = snprintf(path, sizeof path, "%s/rguard-kv.bare", dir);
    if (n < 0 || (size_t)n >= sizeof path) {
        snprintf(errmsg, cap, "%s: name too long", dir);
        return -ENAMETOOLONG;
    }
    snprintf(mine, sizeof mine, "rguard-kv bare node %llu\n", (unsigned long long)b->options.id);
    b->marker = open(path, O_RDWR | O_CLOEXEC | (is_empty(dir) ? O_CREAT : 0), 0600);
    if (b->marker < 0) {
        int err = errno;
        snprintf(errmsg, cap, err == ENOENT ? "%s: not a directory of a bare node" : "%s: %s", dir,
                 strerror(err));
        return err == ENOENT ? RGUARD_EFOREIGN : -err;
    }
    if (flock(b->marker, LOCK_EX | LOCK_NB) != 0) {
        snprintf(errmsg, cap, "%s: in use by another process", dir);
        close(b->marker);
        return RGUARD_ELOCKED;
    }
    ssize_t got = read(b->marker, text, sizeof text - 1);
    bool ok = got == 0 ? write(b->marker, mine, strlen(mine)) == (ssize_t)strlen(mine)
                       : got > 0 && strcmp(text, mine) == 0;
    if (!ok) {
        snprintf(errmsg, cap, "%s: belongs to another node", dir);
        close(b->marker);
        return RGUARD_EFOREIGN;
    }
    return 0;
}

static int to_sockaddr(const char *address, struct sockaddr_in *out)
{
    char host[32];
    const char *colon = strchr(address, ':');
    if (colon == NULL || (size_t)(colon - address) >= sizeof host) {
        return -EINVAL;
    }
    memcpy(host, address, (size_t)(colon - address));
    host[colon - address] = '\0';
    return uv_ip4_addr(host, atoi(colon + 1), out);
}

static void hello_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    static char bytes[256];
    (void)handle;
    (void)suggested;
    *buf = uv_buf_init(bytes, sizeof bytes);
}

static void on_hello(uv_udp_t *udp, ssize_t n, const uv_buf_t *buf, const struct sockaddr *from,
                     unsigned flags)
{
    struct kv_backend *b = udp->data;
    char text[160], address[64];
    unsigned long long id = 0;
    size_t len = n > 0 && from != NULL && (flags & UV_UDP_PARTIAL) == 0 ? (size_t)n : 0;
    if (len == 0 || len >= sizeof text) {
        return;
    }
    memcpy(text, buf->base, len);
    text[len] = '\0';
    if (sscanf(text, HELLO_MAGIC " %llu %63[0-9.:]", &id, address) != 2) {
        return;
    }
    for (size_t i = 0; i < b->options.n_peers; i++) {
        if (b->options.peers[i].id == id) {
            memcpy(b->announced[i], address, sizeof address);
        }
    }
}

static void say_hello(struct kv_backend *b)
{
    char text[160];
    int n = snprintf(text, sizeof text, HELLO_MAGIC " %llu %s", (unsigned long long)b->options.id,
                     b->options.announce);
    uv_buf_t buf = uv_buf_init(text, (unsigned)n);
    for (size_t i = 0; i < b->options.n_peers; i++) {
        if (b->options.peers[i].id != b->options.id) {
            (void)uv_udp_try_send(&b->hello, &buf, 1, (const struct sockaddr *)&b->peers[i]);
        }
    }
}

/* The timers and the datagram socket. It is the first to bind the raft port, so a busy one is found
 * before libraft has touched the directory. */
static int start_hello(struct kv_backend *b, char *errmsg, size_t cap)
{
    const struct kv_backend_options *o = &b->options;
    struct sockaddr_in own;
    int rc = to_sockaddr(o->address, &own);
    for (size_t i = 0; rc == 0 && i < o->n_peers; i++) {
        rc = to_sockaddr(o->peers[i].address, &b->peers[i]);
    }
    if (rc != 0) {
        snprintf(errmsg, cap, "%s: not a numeric address", o->address);
        return rc;
    }
    uv_timer_init(o->loop, &b->watch);
    uv_timer_init(o->loop, &b->late);
    uv_udp_init(o->loop, &b->hello);
    b->watch.data = b->late.data = b->hello.data = b;
    b->handles = 3;
    rc = uv_udp_bind(&b->hello, (const struct sockaddr *)&own, 0);
    if (rc == 0) {
        rc = uv_udp_recv_start(&b->hello, hello_buffer, on_hello);
    }
    if (rc == 0) {
        rc = uv_timer_start(&b->watch, on_watch, WATCH_MS, WATCH_MS);
    }
    if (rc != 0) {
        snprintf(errmsg, cap, "%s: %s", o->address, uv_strerror(rc));
        uv_close((uv_handle_t *)&b->watch, NULL);
        uv_close((uv_handle_t *)&b->late, NULL);
        uv_close((uv_handle_t *)&b->hello, NULL);
        uv_run(o->loop, UV_RUN_NOWAIT);
    }
    return rc;
}

static int start_raft(struct kv_backend *b, char *errmsg, size_t cap)
{
    const struct kv_backend_options *o = &b->options;
    raft_set_election_timeout(&b->raft, o->election_ms);
    raft_set_heartbeat_timeout(&b->raft, o->heartbeat_ms);
    if (o->snapshot_threshold > 0) {
        raft_set_snapshot_threshold(&b->raft, o->snapshot_threshold);
    }
    struct raft_configuration conf;
    raft_configuration_init(&conf);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < o->n_peers; i++) {
        rc = raft_configuration_add(&conf, o->peers[i].id, o->peers[i].address, RAFT_VOTER);
    }
    if (rc == 0) {
        rc = raft_bootstrap(&b->raft, &conf);
        rc = rc == RAFT_CANTBOOTSTRAP ? 0 : rc; /* not its first start */
    }
    raft_configuration_close(&conf);
    if (rc == 0) {
        rc = raft_start(&b->raft);
    }
    if (rc != 0) {
        snprintf(errmsg, cap, "%s: %s", o->dir, raft_errmsg(&b->raft));
        return -EIO;
    }
    return 0;
}

/* ---- running --------------------------------------------------------------------------------- */

static int role_of(struct kv_backend *b)
{
    switch (raft_state(&b->raft)) {
        case RAFT_LEADER:
            return RGUARD_ROLE_LEADER;
        case RAFT_CANDIDATE:
            return RGUARD_ROLE_CANDIDATE;
        case RAFT_FOLLOWER:
            return RGUARD_ROLE_FOLLOWER;
        default:
            return RGUARD_ROLE_CONTAINED; /* libraft's UNAVAILABLE: only a restart leaves it */
    }
}

static void watch_role(struct kv_backend *b)
{
    int role = role_of(b);
    if (role == b->role) {
        return;
    }
    b->role = role;
    raft_id leader = 0;
    const char *address = NULL;
    raft_leader(&b->raft, &leader, &address);
    uint32_t event = role == RGUARD_ROLE_LEADER      ? RGUARD_TRACE_LEADER
                     : role == RGUARD_ROLE_CANDIDATE ? RGUARD_TRACE_CANDIDATE
                     : role == RGUARD_ROLE_FOLLOWER  ? RGUARD_TRACE_FOLLOWER
                                                     : RGUARD_TRACE_CONTAINED;
    rguard_trace(event, b->raft.current_term, raft_last_index(&b->raft),
                 role == RGUARD_ROLE_FOLLOWER ? leader : 0, 0);
    kv_log(RGUARD_LOG_INFO, "%s in term %llu", rguard_trace_event_name(event),
           (unsigned long long)b->raft.current_term);
}

static void on_watch(uv_timer_t *timer)
{
    struct kv_backend *b = timer->data;
    watch_role(b);
    if (b->until_hello-- == 0) {
        b->until_hello = HELLO_EVERY;
        say_hello(b);
    }
}

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    struct kv_backend *b = fsm->data;
    uint64_t index = b->raft.last_applied + 1;
    int rc = kv_engine_apply(b->options.engine, index, buf->base, buf->len, result);
    if (rc != 0) {
        kv_log(RGUARD_LOG_ERROR, "entry %llu cannot be applied: %s", (unsigned long long)index,
               rguard_strerror(rc));
        abort(); /* libraft would swallow the error and go on */
    }
    watch_role(b);
    rguard_trace(RGUARD_TRACE_APPLIED, b->raft.current_term, index,
                 kv_engine_digest(b->options.engine), 0);
    return 0;
}

static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n)
{
    struct kv_backend *b = fsm->data;
    struct raft_buffer *one = raft_malloc(sizeof *one);
    int rc = one != NULL ? kv_engine_snapshot(b->options.engine, &one->base, &one->len) : -ENOMEM;
    if (rc != 0) {
        kv_log(RGUARD_LOG_ERROR, "no snapshot: %s", rguard_strerror(rc));
        raft_free(one);
        return RAFT_NOMEM;
    }
    *bufs = one;
    *n = 1;
    return 0;
}

static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    struct kv_backend *b = fsm->data;
    int rc = kv_engine_restore(b->options.engine, buf->base, buf->len);
    if (rc != 0) {
        kv_log(RGUARD_LOG_ERROR, "snapshot cannot be restored: %s", rguard_strerror(rc));
        return RAFT_CORRUPT; /* libraft frees the buffer */
    }
    raft_free(buf->base);
    return 0;
}

/* Never RGUARD_ENOTLEADER for what was once accepted: its outcome is not known. */
static int status_of(int raft_status)
{
    return raft_status == 0 ? 0 : RGUARD_ELOST;
}

static void on_applied(struct raft_apply *req, int status, void *result)
{
    struct bare_apply *a = req->data;
    struct kv_backend *b = a->backend;
    b->inflight -= a->len;
    a->cb(a->user, status_of(status), result, b->raft.last_applied);
    free(a);
}

static int bare_propose(struct kv_backend *b, const void *cmd, size_t len, rguard_propose_cb cb,
                        void *user)
{
    if (raft_state(&b->raft) != RAFT_LEADER) {
        return raft_state(&b->raft) == RAFT_UNAVAILABLE ? RGUARD_ESTATE : RGUARD_ENOTLEADER;
    }
    if (b->inflight + len > MAX_INFLIGHT) {
        return RGUARD_EBUSY;
    }
    struct bare_apply *a = calloc(1, sizeof *a);
    struct raft_buffer buf = {.base = raft_malloc(len), .len = len};
    if (a == NULL || buf.base == NULL) {
        free(a);
        raft_free(buf.base);
        return -ENOMEM;
    }
    memcpy(buf.base, cmd, len);
    *a = (struct bare_apply){.backend = b, .cb = cb, .user = user, .len = len};
    a->req.data = a;
    int rc = raft_apply(&b->raft, &a->req, &buf, 1, on_applied);
    if (rc != 0) {
        raft_free(buf.base);
        free(a);
        return rc == RAFT_NOTLEADER ? RGUARD_ENOTLEADER : RGUARD_ESTATE;
    }
    b->inflight += len;
    return 0;
}

static void on_barrier(struct raft_barrier *req, int status)
{
    struct bare_read *r = req->data;
    r->cb(r->user, status_of(status));
    free(r);
}

static int bare_read(struct kv_backend *b, rguard_read_cb cb, void *user)
{
    struct bare_read *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return -ENOMEM;
    }
    *r = (struct bare_read){.cb = cb, .user = user};
    r->req.data = r;
    int rc = raft_barrier(&b->raft, &r->req, on_barrier);
    if (rc != 0) {
        free(r);
        return rc == RAFT_NOTLEADER ? RGUARD_ENOTLEADER : RGUARD_ESTATE;
    }
    return 0;
}

static void bare_info(struct kv_backend *b, struct kv_backend_info *info)
{
    raft_id leader = 0;
    const char *address = NULL;
    raft_leader(&b->raft, &leader, &address);
    *info = (struct kv_backend_info){.role = role_of(b),
                                     .term = b->raft.current_term,
                                     .last_index = raft_last_index(&b->raft),
                                     .commit_index = b->raft.commit_index,
                                     .applied_index = b->raft.last_applied,
                                     .leader_id = leader};
    for (size_t i = 0; i < b->options.n_peers; i++) {
        if (b->options.peers[i].id == leader && b->announced[i][0] != '\0') {
            info->leader_announce = b->announced[i];
        }
    }
    if (leader == b->options.id) {
        info->leader_announce = b->options.announce;
    }
}

static void bare_counters(struct kv_backend *b, char *buf, size_t cap)
{
    snprintf(buf, cap, "inflight_bytes:%zu\r\n", b->inflight);
}

/* ---- closing -----------------------------------------------------------------------------------
 *
 *     raft_close -> io_close -> raft_uv's close -> on_io_closed (once or twice) -> 2 ms
 *       -> libraft's own callback -> on_raft_closed -> handles -> on_handle_closed -> the caller */

static void on_handle_closed(uv_handle_t *handle)
{
    struct kv_backend *b = handle->data;
    if (--b->handles > 0) {
        return;
    }
    rguard_trace(RGUARD_TRACE_STOP, 0, 0, b->options.id, 0);
    if (b->close_calls > 1) {
        kv_log(RGUARD_LOG_INFO, "raft_uv called its close callback %llu times",
               (unsigned long long)b->close_calls);
    }
    void (*closed)(void *) = b->closed;
    void *user = b->closed_user;
    close(b->marker);
    free(b);
    closed(user);
}

static void on_raft_closed(struct raft *raft)
{
    struct kv_backend *b = raft->data;
    raft_uv_close(&b->io);
    raft_uv_tcp_close(&b->transport);
    uv_close((uv_handle_t *)&b->watch, on_handle_closed);
    uv_close((uv_handle_t *)&b->late, on_handle_closed);
    uv_close((uv_handle_t *)&b->hello, on_handle_closed);
}

static void on_late(uv_timer_t *timer)
{
    struct kv_backend *b = timer->data;
    b->after_close(&b->io);
}

static void on_io_closed(struct raft_io *io)
{
    struct kv_backend *b = ((struct raft *)io->data)->data;
    if (b->close_calls++ == 0) {
        uv_timer_start(&b->late, on_late, CLOSE_LATE_MS, 0);
    }
}

static void io_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct kv_backend *b = ((struct raft *)io->data)->data;
    b->after_close = cb;
    b->inner_close(io, on_io_closed);
}

static void bare_close(struct kv_backend *b, void (*cb)(void *user), void *user)
{
    b->closed = cb;
    b->closed_user = user;
    uv_timer_stop(&b->watch);
    raft_close(&b->raft, on_raft_closed);
}

const struct kv_backend_ops kv_backend_bare = {
    .name = "bare",
    .open = bare_open,
    .close = bare_close,
    .propose = bare_propose,
    .read = bare_read,
    .info = bare_info,
    .counters = bare_counters,
};
