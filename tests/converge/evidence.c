/* SPDX-License-Identifier: Apache-2.0 */
/* Evidence is taken from the outside: INFO and GET as any client would send them, the log as any
 * reader of the directory would read it. Nothing of it enters a duration. */
#include "evidence.h"

#include <errno.h>
#include <raftguard/wal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "load.h"
#include "reply.h"

#define BATCH 128u

/* ---- replicas at rest ------------------------------------------------------------------------ */

/* true when nothing is left to wait for. */
static bool ask_all(const struct cv_cluster *c, struct cv_trial *t, unsigned *leader)
{
    bool done = true;
    *leader = 0;
    for (unsigned i = 0; i < c->n; i++) {
        struct cv_final *f = &t->final[i];
        char info[8192], role[24] = "";
        *f = (struct cv_final){0};
        f->answered = cv_info(c->nodes[i].port, 200, info, sizeof info) == 0 &&
                      cv_info_uint(info, "applied_index", 10, &f->applied) &&
                      cv_info_uint(info, "digest", 16, &f->digest) &&
                      cv_info_text(info, "role", role, sizeof role);
        *leader = strcmp(role, "leader") == 0 ? i + 1 : *leader;
        done = done && f->answered && f->applied == t->final[0].applied;
    }
    return done && *leader != 0;
}

unsigned cv_evidence_rest(const struct cv_cluster *c, unsigned timeout_ms, struct cv_trial *t)
{
    uint64_t deadline = cv_now() + timeout_ms * 1000000ull;
    unsigned leader = 0, agreed = 0;
    while (agreed < 2 && cv_now() < deadline && !cv_interrupted) {
        /* Twice in a row: the answers come one after another. */
        agreed = ask_all(c, t, &leader) ? agreed + 1 : 0;
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    return leader;
}

/* ---- state ----------------------------------------------------------------------------------- */

static int ask_key(struct cv_conn *conn, const char *key, int len)
{
    char cmd[120];
    int n = snprintf(cmd, sizeof cmd, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len, key);
    return cv_conn_send(conn, cmd, (size_t)n);
}

static int take_value(struct cv_conn *conn, unsigned run, int64_t *seq)
{
    struct cv_reply r;
    int rv = cv_conn_reply(conn, cv_now() + 2000000000u, &r);
    if (rv != 0) {
        return rv;
    }
    if (r.type != '$') {
        return -EPROTO;
    }
    size_t at = 0;
    *seq = r.nil ? -1 : cv_load_find(r.text, r.len, run, &at);
    return 0;
}

static int read_batch(struct cv_conn *conn, unsigned run, struct cv_trial *t, size_t *next)
{
    uint32_t asked[BATCH];
    unsigned n = 0;
    for (; *next < t->ops.n && n < BATCH; (*next)++) {
        const struct cv_op *op = &t->ops.v[*next];
        char key[40];
        if (op->kind == CV_SET && op->outcome == CV_OK) {
            int len = cv_load_key(key, sizeof key, run, op->seq);
            int rv = ask_key(conn, key, len);
            if (rv != 0) {
                return rv;
            }
            asked[n++] = op->seq;
        }
    }
    for (unsigned i = 0; i < n; i++) {
        int64_t seq;
        int rv = take_value(conn, run, &seq);
        if (rv != 0) {
            return rv;
        }
        if (seq == (int64_t)asked[i]) {
            cv_bits_set(&t->in_state, asked[i]);
        }
    }
    return 0;
}

int cv_evidence_state(const struct cv_cluster *c, unsigned leader, unsigned run, struct cv_trial *t)
{
    struct cv_conn conn;
    int rv = cv_conn_open(&conn, c->nodes[leader - 1].port);
    t->final_read_ns = cv_now();
    for (size_t next = 0; rv == 0 && next < t->ops.n;) {
        rv = read_batch(&conn, run, t, &next);
    }
    char key[40];
    int len = cv_load_register(key, sizeof key, run);
    if (rv == 0) {
        rv = ask_key(&conn, key, len);
    }
    if (rv == 0) {
        rv = take_value(&conn, run, &t->final_register);
    }
    t->state_read = rv == 0;
    cv_conn_close(&conn);
    return rv;
}

/* ---- logs ------------------------------------------------------------------------------------ */

static int scan(rguard_wal *w, unsigned run, struct cv_bits *found, char *err, size_t cap)
{
    size_t room = 1u << 20;
    char *buf = cv_grow(NULL, room);
    int rv = 0;
    uint64_t last = rguard_wal_last_index(w), first = rguard_wal_first_index(w);
    for (uint64_t i = first; first != 0 && i <= last && rv == 0; i++) {
        struct rguard_wal_record r;
        rv = rguard_wal_read(w, i, &r, buf, room);
        if (rv == -ENOSPC && r.len <= (16u << 20)) {
            room = r.len;
            buf = cv_grow(buf, room);
            rv = rguard_wal_read(w, i, &r, buf, room);
        }
        if (rv != 0) {
            snprintf(err, cap, "record %llu: %s", (unsigned long long)i, rguard_strerror(rv));
            break;
        }
        size_t at = 0;
        for (int64_t seq; (seq = cv_load_find(r.data, r.len, run, &at)) >= 0;) {
            cv_bits_set(found, (size_t)seq);
        }
    }
    free(buf);
    return rv;
}

int cv_evidence_log(const char *dir, unsigned run, struct cv_bits *found, char *err, size_t cap)
{
    struct rguard_wal_options o = {.size = sizeof o, .read_only = true, .backend = "sync"};
    struct rguard_wal_report report = {.size = sizeof report};
    rguard_wal *w;
    int rv = rguard_wal_open(dir, &o, &w, &report);
    if (rv != 0) {
        snprintf(err, cap, "%s", report.message[0] != '\0' ? report.message : rguard_strerror(rv));
        return rv;
    }
    rv = scan(w, run, found, err, cap);
    rguard_wal_close(w);
    return rv != 0 ? rv : report.base_index != 0;
}

/* ---- files for a person ---------------------------------------------------------------------- */

int cv_evidence_history(const struct cv_trial *t, const char *path)
{
    static const char *const outcomes[] = {"pending", "ok", "moved", "error", "lost", "down"};
    static const char *const kinds[] = {"set", "set_register", "get_register"};
    struct cv_text out = {0};
    for (size_t i = 0; i < t->ops.n; i++) {
        const struct cv_op *op = &t->ops.v[i];
        cv_text_add(&out,
                    "{\"client\":%u,\"op\":\"%s\",\"seq\":%u,\"call_ns\":%llu,\"return_ns\":%llu,"
                    "\"status\":\"%s\",\"value\":%lld}\n",
                    op->node, kinds[op->kind], op->seq, (unsigned long long)op->invoke,
                    (unsigned long long)op->reply, outcomes[op->outcome], (long long)op->value);
    }
    int rv = cv_text_save(&out, path);
    cv_text_free(&out);
    return rv;
}

int cv_evidence_events(const struct cv_trial *t, const char *path)
{
    struct cv_text out = {0};
    for (unsigned n = 0; n < t->nodes; n++) {
        for (size_t i = 0; i < t->ev[n].n; i++) {
            const struct rguard_trace_record *r = &t->ev[n].v[i];
            cv_text_add(&out,
                        "{\"node\":%u,\"ns\":%llu,\"event\":\"%s\",\"pid\":%u,\"term\":%llu,"
                        "\"index\":%llu,\"a\":\"%llx\",\"b\":\"%llx\"}\n",
                        n + 1, (unsigned long long)r->ns, rguard_trace_event_name(r->event), r->pid,
                        (unsigned long long)r->term, (unsigned long long)r->index,
                        (unsigned long long)r->a, (unsigned long long)r->b);
        }
    }
    int rv = cv_text_save(&out, path);
    cv_text_free(&out);
    return rv;
}
