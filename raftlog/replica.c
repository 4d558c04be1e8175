/* SPDX-License-Identifier: Apache-2.0 */
/* The replica: life cycle, and what has to happen after every turn.
 *
 * Invariant: between turns, the role that libraft has is the role that everybody was told of: the
 * notice of the term is armed exactly on the leader, the barrier of the term is in its log, queued
 * appends are submitted, the metadata on disk is the metadata in memory. settle() restores it. */
#include <raftguard/failpoint.h>
#include <raftguard/testing.h>
#include <raftguard/trace.h>

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "raftlog_internal.h"

#define MAX_SNAPSHOT  ((size_t)1 << 30)
#define SETTLE_ROUNDS 64

/* ---- log ------------------------------------------------------------------------------ */

void rguard__replica_log(rguard_replica *rep, int level, const char *fmt, ...)
{
    char line[768];
    va_list args;
    if (rep->opt.log == NULL) {
        return;
    }
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    rep->opt.log(rep->opt.log_user, level, line);
}

static void on_channel_log(void *user, int level, const char *line)
{
    rguard__replica_log(user, level, "%s", line);
}

void rguard__replica_die(rguard_replica *rep, const char *why)
{
    rguard__replica_log(rep, RGUARD_LOG_ERROR, "the process ends: %s", why);
    rguard__gasp(rep);
    if (rguard__ladder_allows(rep->ladder, RGUARD_LADDER_GASPED)) {
        rguard__ladder_move(rep, RGUARD_LADDER_GASPED);
    }
    abort();
}

/* ---- turns ----------------------------------------------------------------------------------- */

static void finish_close(rguard_replica *rep);

/* D11: the barrier of the new term; also what makes entries of older terms commit without traffic. */
static void on_term_barrier(struct raft_barrier *req, int status)
{
    rguard_replica *rep = req->data;
    (void)status;
    rep->term_barrier_busy = false;
}

static void became_leader(rguard_replica *rep)
{
    struct raft *r = rep->raft;
    rguard_trace(RGUARD_TRACE_LEADER, r->current_term, rguard__log_last(r), 0, 0);
    rguard__replica_log(rep, RGUARD_LOG_INFO, "leader of term %llu", r->current_term);
    rguard__handover_lead(rep);
    RGUARD_ASSERT(!rep->term_barrier_busy);
    rep->term_barrier.data = rep;
    rep->term_barrier_busy = true;
    rep->cures.n_held = 0;
    int rv = raft_barrier(r, &rep->term_barrier, on_term_barrier);
    if (rv != 0) {
        rep->term_barrier_busy = false;
        rguard__replica_log(rep, RGUARD_LOG_ERROR, "no barrier in the new term: %s",
                            raft_strerror(rv));
        rguard__step_down(rep);
        return;
    }
    rep->cures.barrier_index = rep->term_barrier.index;
}

/* libraft remembers the old leader over a change of term until the new one speaks: no news. */
static void became_follower(rguard_replica *rep, uint64_t leader, bool news)
{
    const struct raft *r = rep->raft;
    rguard_trace(RGUARD_TRACE_FOLLOWER, r->current_term, rguard__log_last(r), leader, 0);
    if (leader != 0 && news) {
        rguard__replica_log(rep, RGUARD_LOG_INFO, "follower of %llu in term %llu",
                            (unsigned long long)leader, r->current_term);
    }
}

static void observe(rguard_replica *rep)
{
    const struct raft *r = rep->raft;
    int role = r->state;
    uint64_t leader = role == RAFT_FOLLOWER ? r->follower_state.current_leader.id : 0;
    bool changed = role != rep->seen_role || r->current_term != rep->seen_term;
    if (!changed && leader == rep->seen_leader) {
        return;
    }
    if (rep->seen_role == RAFT_LEADER && changed) {
        rguard__handover_follow(rep);
        rep->cures.barrier_index = 0;
    }
    bool news = leader != rep->seen_leader;
    rep->seen_role = role;
    rep->seen_term = r->current_term;
    rep->seen_leader = leader;
    if (role == RAFT_LEADER) {
        became_leader(rep);
    } else if (role == RAFT_FOLLOWER) {
        became_follower(rep, leader, news);
    } else if (role == RAFT_CANDIDATE) {
        rguard_trace(RGUARD_TRACE_CANDIDATE, r->current_term, rguard__log_last(r),
                     rep->handover.campaigning, 0);
    }
    if (role != RAFT_CANDIDATE) {
        rep->handover.campaigning = false;
    }
}

struct fingerprint
{
    uint64_t term, last, stored, applied;
    int role;
    unsigned held;
    bool wanted;
};

static struct fingerprint fingerprint(const rguard_replica *rep)
{
    const struct raft *r = rep->raft;
    return (struct fingerprint){
        r->current_term, rguard__log_last(r), r->last_stored,      r->last_applied,
        r->state,        rep->cures.n_held,   rep->handover.wanted};
}

static bool same(const struct fingerprint *a, const struct fingerprint *b)
{
    return a->term == b->term && a->last == b->last && a->stored == b->stored &&
           a->applied == b->applied && a->role == b->role && a->held == b->held &&
           a->wanted == b->wanted;
}

static void judge(rguard_replica *rep)
{
    if (rep->dead) {
        rguard__replica_die(rep, "its storage failed");
    }
    if (rep->raft->state == RAFT_UNAVAILABLE && rep->ladder != RGUARD_LADDER_POISONED) {
        rguard__replica_log(rep, RGUARD_LOG_ERROR, "libraft became unavailable: %s",
                            rep->raft->errmsg[0] != '\0' ? rep->raft->errmsg : "no message");
        rguard__replica_die(rep, "libraft cannot continue");
    }
}

static void settle(rguard_replica *rep)
{
    struct fingerprint before, after = fingerprint(rep);
    int rounds = 0;
    do {
        before = after;
        rguard__io_wal_turn(rep);
        observe(rep);
        rguard__cure_settle(rep);
        rguard__handover_poll(rep);
        rguard__io_meta_flush(rep);
        after = fingerprint(rep);
    } while (!same(&before, &after) && ++rounds < SETTLE_ROUNDS);
    judge(rep);
    rguard__probation_settle(rep);
    if (rounds == SETTLE_ROUNDS) { /* go on in the next turn of the loop */
        rep->net->arm(rep->channel, RGUARD_TIMER_SOON, 0);
    }
    rguard__io_wal_arm(rep);
    if (rep->closing && rep->raft->state != RAFT_LEADER) {
        finish_close(rep);
    }
}

void rguard__turn_begin(rguard_replica *rep)
{
    rep->turn_depth++;
}

void rguard__turn_end(rguard_replica *rep)
{
    RGUARD_ASSERT(rep->turn_depth > 0);
    if (rep->turn_depth == 1 && rep->started && rep->close_cb == NULL) {
        settle(rep);
    }
    rep->turn_depth--;
}

/* ---- events of the loop ---------------------------------------------------------------------- */

static void tick(rguard_replica *rep)
{
    rep->net->arm(rep->channel, RGUARD_TIMER_TICK, rep->tick_ms);
    if (rep->raft->state == RAFT_LEADER &&
        RGUARD_FP_IF("raftlog/reelect", "the leader hands over and steps down, at its next tick")) {
        rguard__gasp(rep);
        rguard__step_down(rep);
    }
    /* A follower's tick does nothing but start elections. */
    if (!rep->muted && (rep->raft->state == RAFT_LEADER || rguard__may_campaign(rep))) {
        rep->tick_cb(&rep->io);
    }
}

static void on_timer(void *user, enum rguard_timer which)
{
    rguard_replica *rep = user;
    if (!rep->started || rep->close_cb != NULL) {
        return;
    }
    rguard__turn_begin(rep);
    switch (which) {
        case RGUARD_TIMER_TICK:
            tick(rep);
            break;
        case RGUARD_TIMER_PROBE:
            rguard__probation_ask(rep);
            break;
        case RGUARD_TIMER_SOON:
            rguard__io_sends_failed(rep);
            rguard__reads_issue(rep);
            break;
        case RGUARD_TIMER_HANDOVER: /* settling polls; a close has waited long enough */
            if (rep->closing) {
                rguard__turn_end(rep);
                finish_close(rep);
                return;
            }
            break;
        case RGUARD_TIMER_WAL: /* settling processes the log */
        case RGUARD_TIMER_COUNT:
        default:
            break;
    }
    rguard__turn_end(rep);
}

static void on_readable(void *user)
{
    rguard__turn_begin(user);
    rguard__turn_end(user);
}

/* ---- open ------------------------------------------------------------------------------------ */

static int fail(char *errmsg, size_t cap, int rv, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static int fail(char *errmsg, size_t cap, int rv, const char *fmt, ...)
{
    va_list args;
    if (errmsg != NULL && cap > 0) {
        va_start(args, fmt);
        vsnprintf(errmsg, cap, fmt, args);
        va_end(args);
    }
    return rv;
}

/* struct raft is read and written here: another layout would be memory corruption by ourselves. */
static int check_libraft(char *errmsg, size_t cap)
{
    Dl_info info;
    if (dlsym(RTLD_DEFAULT, "raft_version_number") != NULL ||
        (dladdr((void *)(uintptr_t)raft_init, &info) != 0 && info.dli_fname != NULL &&
         strstr(info.dli_fname, "libraft.so") != NULL &&
         strstr(info.dli_fname, "libraft.so.2") == NULL)) {
        return fail(errmsg, cap, RGUARD_EUNSUPPORTED,
                    "libraft is not version 0.15 (libraft.so.2), which this build was made for");
    }
    return 0;
}

static int check_options(const struct rguard_replica_options *o, char *errmsg, size_t cap)
{
    bool self = o->n_peers == 0;
    if (o->size != sizeof *o || o->raft == NULL || o->loop == NULL || o->dir == NULL ||
        o->address == NULL || o->engine == NULL || o->engine->apply == NULL || o->id == 0) {
        return fail(errmsg, cap, -EINVAL, "an option that is required is missing");
    }
    if (o->n_peers > RGUARD_CHANNEL_MAX_PEERS || strlen(o->address) >= RGUARD_MAX_ADDRESS ||
        (o->announce != NULL && strlen(o->announce) >= RGUARD_MAX_ADDRESS)) {
        return fail(errmsg, cap, RGUARD_ETOOBIG, "too many peers, or an address that is too long");
    }
    for (size_t i = 0; i < o->n_peers; i++) {
        if (o->peers[i].id == o->id) {
            self = true;
            if (strcmp(o->peers[i].address, o->address) != 0) {
                return fail(errmsg, cap, -EINVAL,
                            "own address %s is not the one among the peers, %s", o->address,
                            o->peers[i].address);
            }
        }
        for (size_t k = 0; k < i; k++) {
            if (o->peers[i].id == o->peers[k].id ||
                strcmp(o->peers[i].address, o->peers[k].address) == 0) {
                return fail(errmsg, cap, -EINVAL, "peer %llu is listed twice",
                            (unsigned long long)o->peers[i].id);
            }
        }
    }
    if (!self) {
        return fail(errmsg, cap, -EINVAL, "own id %llu is not among the peers",
                    (unsigned long long)o->id);
    }
    if (o->heartbeat_ms != 0 && o->election_ms != 0 && o->heartbeat_ms >= o->election_ms) {
        return fail(errmsg, cap, -EINVAL, "heartbeat must be shorter than the election timeout");
    }
    return 0;
}

static void copy_options(rguard_replica *rep, const struct rguard_replica_options *o)
{
    rep->opt = *o;
    rep->engine = *o->engine;
    for (size_t i = 0; i < o->n_peers; i++) {
        rep->peers[i] = o->peers[i];
    }
    rep->opt.peers = rep->peers;
#define DEFAULT(field, value) rep->opt.field = o->field != 0 ? o->field : (value)
    DEFAULT(election_ms, 1000);
    DEFAULT(heartbeat_ms, 100);
    DEFAULT(snapshot_threshold, 8192);
    DEFAULT(snapshot_trailing, 4096);
    DEFAULT(max_inflight_bytes, (size_t)64 << 20);
    DEFAULT(max_entry_bytes, (size_t)8 << 20);
#undef DEFAULT
    rep->raft = o->raft;
    rep->reads_waiting_tail = &rep->reads_waiting;
    rep->ladder = RGUARD_LADDER_SERVING;
}

static int open_storage(rguard_replica *rep, char *errmsg, size_t cap)
{
    struct rguard_wal_options wal = {.size = sizeof wal,
                                     .node_id = rep->opt.id,
                                     .segment_bytes = rep->opt.wal_segment_bytes,
                                     .max_record_bytes = rep->opt.max_entry_bytes,
                                     .backend = rep->opt.wal_backend};
    rep->wal_report.size = sizeof rep->wal_report;
    int rv = rguard_wal_open(rep->opt.dir, &wal, &rep->wal, &rep->wal_report);
    rguard_trace(RGUARD_TRACE_WAL_VERIFIED, rep->wal_report.term, rep->wal_report.last_index,
                 rep->wal_report.verdict, rep->wal_report.last_index);
    if (rv != 0) {
        return fail(
            errmsg, cap, rv, "%s: %s", rep->opt.dir,
            rep->wal_report.message[0] != '\0' ? rep->wal_report.message : rguard_strerror(rv));
    }
    if (rep->wal_report.message[0] != '\0') {
        rguard__replica_log(rep, RGUARD_LOG_WARN, "log: %s: %s",
                            rguard_wal_verdict_name(rep->wal_report.verdict),
                            rep->wal_report.message);
    }
    rv = rguard__disk_open(rep->opt.dir, "sync", &rep->disk);
    if (rv != 0) {
        return fail(errmsg, cap, rv, "%s: %s", rep->opt.dir, rguard_strerror(rv));
    }
    return 0;
}

static int open_channel(rguard_replica *rep, char *errmsg, size_t cap)
{
    struct rguard_channel_config config = {
        .id = rep->opt.id,
        .nonce = rep->nonce,
        .address = rep->opt.address,
        .announce = rep->opt.announce,
        .max_frame = rep->opt.max_entry_bytes + RGUARD_FRAME_CHUNK + (1u << 20),
        .max_snapshot = MAX_SNAPSHOT,
        .events = {.user = rep,
                   .frame = rguard__io_frame,
                   .notice = rguard__handover_notice,
                   .link = rguard__io_link,
                   .timer = on_timer,
                   .readable = on_readable,
                   .log = on_channel_log}};
    int rv = rguard__channel_uv(rep->opt.loop, &config, &rep->channel);
    if (rv == RGUARD_EREFUSED) {
        return fail(errmsg, cap, rv,
                    "raft address %s is not a loopback one; frames carry no MAC yet",
                    rep->opt.address);
    }
    if (rv != 0) {
        return fail(errmsg, cap, rv, "raft address %s: %s", rep->opt.address, rguard_strerror(rv));
    }
    rep->net = rep->channel->ops;
    return 0;
}

static int open_guard(rguard_replica *rep, char *errmsg, size_t cap)
{
    struct rguard_guard_options guard = {.size = sizeof guard,
                                         .keep_signals = rep->opt.keep_signals};
    int rv = rguard_guard_init(&guard);
    if (rv != 0) {
        return fail(errmsg, cap, rv, "fault trap: %s", rguard_strerror(rv));
    }
    if (rep->engine.n_arenas > 0) {
        struct rguard_window_options window = {
            .size = sizeof window, .arenas = rep->engine.arenas, .n_arenas = rep->engine.n_arenas};
        rv = rguard_window_create(&window, &rep->window);
        if (rv != 0) {
            rguard_guard_fini();
            return fail(errmsg, cap, rv, "window over the engine's arenas: %s",
                        rguard_strerror(rv));
        }
    }
    return 0;
}

static void close_guard(rguard_replica *rep)
{
    rguard_window_destroy(rep->window);
    rguard_guard_fini();
}

static void configure_raft(rguard_replica *rep)
{
    struct raft *r = rep->raft;
    r->data = rep;
    raft_set_election_timeout(r, rep->opt.election_ms);
    raft_set_heartbeat_timeout(r, rep->opt.heartbeat_ms);
    raft_set_snapshot_threshold(r, rep->opt.snapshot_threshold);
    raft_set_snapshot_trailing(r, rep->opt.snapshot_trailing);
    raft_set_install_snapshot_timeout(r, 2000);
    raft_set_pre_vote(r, true);
}

static void free_lists(rguard_replica *rep);

int rguard_replica_open(const struct rguard_replica_options *options, rguard_replica **out,
                        char *errmsg, size_t errmsg_cap)
{
    int rv = check_options(options, errmsg, errmsg_cap);
    if (rv == 0) {
        rv = check_libraft(errmsg, errmsg_cap);
    }
    if (rv != 0) {
        return rv;
    }
    rguard_replica *rep = calloc(1, sizeof *rep);
    if (rep == NULL) {
        return -ENOMEM;
    }
    copy_options(rep, options);
    rep->digests = calloc(RGUARD_DIGEST_RING, sizeof *rep->digests);
    if (rep->digests == NULL ||
        getrandom(&rep->nonce, sizeof rep->nonce, 0) != (ssize_t)sizeof rep->nonce) {
        rv = fail(errmsg, errmsg_cap, -ENOMEM, "out of memory or of randomness");
        goto err;
    }
    rep->nonce |= 1; /* 0 means: not connected */
    if (!rep->opt.keep_sigpipe) {
        signal(SIGPIPE, SIG_IGN); /* D7 */
    }
    rv = open_guard(rep, errmsg, errmsg_cap);
    if (rv != 0) {
        goto err;
    }
    rv = open_storage(rep, errmsg, errmsg_cap);
    if (rv != 0) {
        goto err_after_guard;
    }
    rv = rguard__handover_open(rep);
    if (rv != 0) {
        fail(errmsg, errmsg_cap, rv, "notice page: %s", rguard_strerror(rv));
        goto err_after_guard;
    }
    rv = open_channel(rep, errmsg, errmsg_cap);
    if (rv != 0) {
        goto err_after_handover;
    }
    rguard__io_init(rep);
    rguard__fsm_init(rep);
    rv = raft_init(rep->raft, &rep->io, &rep->fsm, rep->opt.id, rep->opt.address);
    if (rv != 0) {
        rv = fail(errmsg, errmsg_cap, -ENOMEM, "raft_init: %s", raft_strerror(rv));
        rep->net->close(rep->channel, NULL, NULL);
        goto err_after_handover;
    }
    configure_raft(rep);
    rguard_trace(RGUARD_TRACE_START, 0, 0, rep->opt.id, 0);
    *out = rep;
    return 0;

err_after_handover:
    rguard__handover_close(rep);
err_after_guard:
    rguard_wal_close(rep->wal);
    close_guard(rep);
err:
    free_lists(rep);
    return rv;
}

/* ---- start ----------------------------------------------------------------------------------- */

static int bootstrap(rguard_replica *rep)
{
    struct raft_configuration conf;
    uint64_t term, vote;
    rguard_wal_meta_get(rep->wal, &term, &vote);
    /* Term 1 without a vote and without an entry: a bootstrap that a crash cut short. */
    if (rguard_wal_last_index(rep->wal) != 0 || term > 1 || vote != 0 || rep->opt.n_peers == 0) {
        return 0;
    }
    raft_configuration_init(&conf);
    int rv = 0;
    for (size_t i = 0; i < rep->opt.n_peers && rv == 0; i++) {
        rv = raft_configuration_add(&conf, rep->opt.peers[i].id, rep->opt.peers[i].address,
                                    RAFT_VOTER);
    }
    if (rv == 0) {
        rv = raft_bootstrap(rep->raft, &conf);
    }
    raft_configuration_close(&conf);
    return rv;
}

static const char *address_in(const struct raft_configuration *conf, uint64_t id)
{
    for (unsigned i = 0; i < conf->n; i++) {
        if (conf->servers[i].id == id) {
            return conf->servers[i].address;
        }
    }
    return NULL;
}

/* The configuration in the log decides. A node that listens elsewhere would wait for ever to be called;
 * other differences are worth a line. */
static int compare_addresses(rguard_replica *rep, char *errmsg, size_t cap)
{
    const struct raft_configuration *conf = &rep->raft->configuration;
    const char *own = address_in(conf, rep->opt.id);
    if (own != NULL && strcmp(own, rep->opt.address) != 0) {
        return fail(errmsg, cap, RGUARD_EREFUSED,
                    "own address is %s, but the cluster in %s knows this node as %s",
                    rep->opt.address, rep->opt.dir, own);
    }
    for (size_t i = 0; i < rep->opt.n_peers; i++) {
        const char *known = address_in(conf, rep->peers[i].id);
        if (known == NULL || strcmp(known, rep->peers[i].address) != 0) {
            rguard__replica_log(rep, RGUARD_LOG_WARN,
                                "peer %llu is given as %s, but the cluster knows %s; that decides",
                                (unsigned long long)rep->peers[i].id, rep->peers[i].address,
                                known != NULL ? known : "no such node");
        }
    }
    return 0;
}

static void log_recovery(rguard_replica *rep, uint64_t began_ms)
{
    const struct raft *r = rep->raft;
    rguard__replica_log(
        rep, RGUARD_LOG_INFO,
        "recovered in %llu ms: term %llu, snapshot at %llu, log %llu..%llu verified",
        (unsigned long long)(rep->net->now_ms(rep->channel) - began_ms), r->current_term,
        r->log.snapshot.last_index, (unsigned long long)rguard_wal_first_index(rep->wal),
        (unsigned long long)rguard_wal_last_index(rep->wal));
}

int rguard_replica_start(rguard_replica *rep, char *errmsg, size_t errmsg_cap)
{
    if (rep->started || rep->closing) {
        return fail(errmsg, errmsg_cap, RGUARD_ESTATE, "already started");
    }
    uint64_t began_ms = rep->net->now_ms(rep->channel);
    int rv = bootstrap(rep);
    if (rv != 0) {
        return fail(errmsg, errmsg_cap, -EIO, "bootstrap: %s", raft_strerror(rv));
    }
    rep->digest = rep->engine.digest != NULL ? rep->engine.digest(rep->engine.user) : 0;
    rv = raft_start(rep->raft);
    if (rv != 0) {
        return fail(errmsg, errmsg_cap, rv == RAFT_CORRUPT ? RGUARD_ECORRUPT : -EIO,
                    "raft_start: %s: %s", raft_strerror(rv), raft_errmsg(rep->raft));
    }
    rv = compare_addresses(rep, errmsg, errmsg_cap);
    if (rv != 0) {
        return rv;
    }
    log_recovery(rep, began_ms);
    rguard_trace(RGUARD_TRACE_ROLLED_BACK, rep->raft->current_term, rep->raft->last_applied,
                 rep->digest, 3);
    rep->started = true;
    rep->seen_role = RAFT_UNAVAILABLE;
    rguard__turn_begin(rep);
    rguard__turn_end(rep);
    return 0;
}

/* ---- close ----------------------------------------------------------------------------------- */

static void free_lists(rguard_replica *rep)
{
#define FREE_LIST(head)              \
    while (rep->head != NULL) {      \
        void *node = rep->head;      \
        rep->head = rep->head->next; \
        free(node);                  \
    }
    FREE_LIST(propose_free)
    FREE_LIST(read_free)
    FREE_LIST(append_free)
    FREE_LIST(sending_free)
#undef FREE_LIST
    if (rep->disk != NULL) {
        rep->disk->ops->destroy(rep->disk);
    }
    free(rep->out.bytes);
    free(rep->records);
    free(rep->digests);
    free(rep);
}

static void on_raft_closed(struct raft *r)
{
    rguard_replica *rep = r->data;
    void (*closed)(void *user) = rep->closed;
    void *user = rep->closed_user;
    rguard__reads_cancel(rep);
    if (rep->wal_close_status != 0) {
        rguard__replica_log(rep, RGUARD_LOG_ERROR, "the log was not closed cleanly: %s",
                            rguard_strerror(rep->wal_close_status));
    }
    rguard__handover_close(rep);
    close_guard(rep);
    rguard_trace(RGUARD_TRACE_STOP, 0, 0, 0, 0);
    free_lists(rep);
    if (closed != NULL) {
        closed(user);
    }
}

static void finish_close(rguard_replica *rep)
{
    if (rep->close_cb == NULL) {
        rguard__handover_follow(rep);
        raft_close(rep->raft, on_raft_closed);
    }
}

/* A leader tells its followers and waits, for half an election timeout at most, until one has taken
 * over: a planned restart then costs the clients milliseconds. */
void rguard_replica_close(rguard_replica *rep, void (*cb)(void *user), void *user)
{
    if (rep->closing) {
        return;
    }
    rep->closing = true;
    rep->closed = cb;
    rep->closed_user = user;
    if (rep->started && rep->raft->state == RAFT_LEADER && rguard__gasp(rep) > 0) {
        rep->net->arm(rep->channel, RGUARD_TIMER_HANDOVER, rep->opt.election_ms / 2);
        return;
    }
    if (rep->started) {
        rep->net->arm(rep->channel, RGUARD_TIMER_HANDOVER, 0); /* not from inside a turn */
    } else {
        finish_close(rep);
    }
}
