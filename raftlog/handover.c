/* SPDX-License-Identifier: Apache-2.0 */
/* Handover: a leader that is hurt tells its followers, and one leads before any timer fires.
 *
 * Happy path
 *   1. On becoming leader the notice of this term is built into a page of its own, which is then
 *      made read-only: the fault that the notice will report cannot scribble over it.
 *   2. A violation: the hook, in the signal handler, checks the page's check word and send()s the
 *      notice to every peer, twice. Nothing else happens there.
 *   3. A follower takes a notice for real only if it comes from the leader it follows, in the term
 *      it is in, with the boot nonce of that leader's connection. It finds its rank among the
 *      followers by the acknowledged indexes that travel along (nonsense in them can only cost
 *      time).
 *   4. Rank 0 hands its own libraft a TimeoutNow with its own last index and term; rank k does so
 *      k steps later, unless a candidate or a new leader has shown up. The vote rules still decide:
 *      a notice can start an election, never win one.
 *
 * Failure modes
 *   notice lost on every path: the election timeout, as without a notice.
 *   rank 0 dead, muted or on probation: rank 1, one step later.
 *   own append in flight: libraft 0.15 would campaign with entries that are not durable; the
 *   campaign waits for the completion.
 *
 *     datagram = {magic u32, version u32, crc u32, n_hints u32, leader u64, nonce u64, term u64}
 *                n_hints x {id u64, acked u64}
 *     crc covers everything before the hints, with itself and n_hints zero.
 *
 * There is no MAC yet: the channel therefore binds to loopback only. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <raftguard/crc32c.h>
#include <raftguard/testing.h>
#include <raftguard/trace.h>

#include "raftlog_internal.h"

#define NOTICE_MAGIC   0x314e4752u /* "RGN1" */
#define NOTICE_VERSION 1u
#define NOTICE_BYTES   40u
#define HINT_BYTES     16u
#define NOTICE_MAX     (NOTICE_BYTES + HINT_BYTES * RGUARD_CHANNEL_MAX_PEERS)
#define STEP_MS        8u

/* One page, read-only but for the moment of arming. */
struct gasp_page
{
    uint32_t check; /* CRC32C of everything after it */
    uint32_t armed;
    uint64_t term;
    uint32_t n;
    uint32_t reserved;
    int fds[RGUARD_CHANNEL_MAX_PEERS];
    uint8_t notice[NOTICE_BYTES];
};

struct rguard_gasp
{
    struct gasp_page *page;
    size_t bytes;
    /* Not sealed: written with every acknowledgement. A hint, not a promise. */
    uint64_t hint_id[RGUARD_CHANNEL_MAX_PEERS];
    uint64_t hint_acked[RGUARD_CHANNEL_MAX_PEERS];
    uint32_t n_hints;
    volatile uint64_t spent_term; /* a notice of this term is out */
};

static uint32_t page_check(const struct gasp_page *p)
{
    return rguard_crc32c(0, &p->armed, sizeof *p - offsetof(struct gasp_page, armed));
}

static void page_write(struct rguard_gasp *g, const struct gasp_page *content)
{
    if (mprotect(g->page, g->bytes, PROT_READ | PROT_WRITE) == 0) {
        *g->page = *content;
        g->page->check = page_check(g->page);
        mprotect(g->page, g->bytes, PROT_READ);
    }
}

/* ---- the dying side -------------------------------------------------------------------------- */

/* Called by guard's trap. Async-signal-safe: reads two pages, send(2). */
static void on_violation(void *user, const struct rguard_violation *v)
{
    rguard_replica *rep = user;
    if (v->kind == RGUARD_V_SELFTEST || (v->class_ != RGUARD_CLASS_FATAL && !rep->applying)) {
        return;
    }
    rguard__gasp(rep);
}

unsigned rguard__gasp(rguard_replica *rep)
{
    struct rguard_gasp *g = rep->handover.gasp;
    if (g == NULL || rep->opt.no_notice || RGUARD_TEST_OFF("gasp")) {
        return 0;
    }
    const struct gasp_page *p = g->page;
    if (page_check(p) != p->check || !p->armed || g->spent_term == p->term) {
        return 0;
    }
    g->spent_term = p->term;
    uint8_t bytes[NOTICE_MAX];
    memcpy(bytes, p->notice, NOTICE_BYTES);
    uint32_t n = g->n_hints <= RGUARD_CHANNEL_MAX_PEERS ? g->n_hints : 0;
    rguard__put32(bytes + 12, n);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *at = rguard__put64(bytes + NOTICE_BYTES + i * HINT_BYTES, g->hint_id[i]);
        rguard__put64(at, g->hint_acked[i]);
    }
    unsigned reached = 0;
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < p->n; i++) {
            ssize_t sent =
                send(p->fds[i], bytes, NOTICE_BYTES + n * HINT_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL);
            reached += round == 0 && sent > 0;
        }
    }
    rep->notices_sent++;
    rguard_trace(RGUARD_TRACE_NOTICE_SENT, p->term, 0, reached, 0);
    return reached;
}

void rguard__handover_lead(rguard_replica *rep)
{
    struct rguard_gasp *g = rep->handover.gasp;
    struct raft *r = rep->raft;
    struct gasp_page page = {.armed = 1, .term = r->current_term};
    g->n_hints = 0;
    for (unsigned i = 0; i < r->configuration.n; i++) {
        const struct raft_server *s = &r->configuration.servers[i];
        if (s->id == r->id || s->role != RAFT_VOTER || page.n == RGUARD_CHANNEL_MAX_PEERS) {
            continue;
        }
        int fd = rep->net->notice_fd(rep->channel, s->id);
        if (fd >= 0) {
            page.fds[page.n++] = fd;
        }
        g->hint_id[g->n_hints] = s->id;
        g->hint_acked[g->n_hints++] = 0;
    }
    uint8_t *p = rguard__put32(page.notice, NOTICE_MAGIC);
    p = rguard__put32(p, NOTICE_VERSION);
    p = rguard__put32(p, 0);
    p = rguard__put32(p, 0);
    p = rguard__put64(p, r->id);
    p = rguard__put64(p, rep->nonce);
    rguard__put64(p, r->current_term);
    rguard__put32(page.notice + 8, rguard_crc32c(0, page.notice, NOTICE_BYTES));
    page_write(g, &page);
}

void rguard__handover_follow(rguard_replica *rep)
{
    struct gasp_page disarmed = {0};
    if (rep->handover.gasp->page->armed) {
        page_write(rep->handover.gasp, &disarmed);
    }
}

void rguard__handover_acked(rguard_replica *rep, uint64_t peer, uint64_t index)
{
    struct rguard_gasp *g = rep->handover.gasp;
    for (uint32_t i = 0; i < g->n_hints; i++) {
        if (g->hint_id[i] == peer && g->hint_acked[i] < index) {
            g->hint_acked[i] = index;
        }
    }
}

/* ---- the following side ---------------------------------------------------------------------- */

/* Followers in order of what they acknowledged, then of id; the position of this node among them. */
static unsigned own_rank(uint64_t self, const uint8_t *hints, uint32_t n)
{
    uint64_t own_acked = 0;
    unsigned rank = 0;
    bool known = false;
    for (uint32_t i = 0; i < n; i++) {
        if (rguard__get64(hints + i * HINT_BYTES) == self) {
            own_acked = rguard__get64(hints + i * HINT_BYTES + 8);
            known = true;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t id = rguard__get64(hints + i * HINT_BYTES);
        uint64_t acked = rguard__get64(hints + i * HINT_BYTES + 8);
        if (id != self && (!known || acked > own_acked || (acked == own_acked && id < self))) {
            rank++;
        }
    }
    return rank;
}

/* @return the number of hints, or negative when the datagram is not a notice. */
static int notice_parse(const uint8_t *bytes, size_t len)
{
    uint8_t head[NOTICE_BYTES];
    if (len < NOTICE_BYTES || rguard__get32(bytes) != NOTICE_MAGIC ||
        rguard__get32(bytes + 4) != NOTICE_VERSION) {
        return RGUARD_EPROTO;
    }
    uint32_t n = rguard__get32(bytes + 12);
    if (n > RGUARD_CHANNEL_MAX_PEERS || len != NOTICE_BYTES + (size_t)n * HINT_BYTES) {
        return RGUARD_EPROTO;
    }
    memcpy(head, bytes, NOTICE_BYTES);
    rguard__put32(head + 8, 0);
    rguard__put32(head + 12, 0);
    return rguard_crc32c(0, head, NOTICE_BYTES) == rguard__get32(bytes + 8) ? (int)n
                                                                            : RGUARD_ECHECKSUM;
}

static bool still_follows(const rguard_replica *rep, uint64_t term, uint64_t leader)
{
    const struct raft *r = rep->raft;
    return r->state == RAFT_FOLLOWER && r->current_term == term &&
           r->follower_state.current_leader.id == leader &&
           (r->voted_for == 0 || r->voted_for == leader || r->voted_for == r->id);
}

void rguard__handover_notice(void *user, const uint8_t *bytes, size_t len)
{
    rguard_replica *rep = user;
    struct rguard_handover_state *h = &rep->handover;
    int n = notice_parse(bytes, len);
    if (n < 0 || !rep->started) {
        return;
    }
    uint64_t leader = rguard__get64(bytes + 16);
    uint64_t nonce = rguard__get64(bytes + 24);
    uint64_t term = rguard__get64(bytes + 32);
    if (!still_follows(rep, term, leader) || nonce == 0 ||
        nonce != rep->net->nonce(rep->channel, leader) ||
        (h->wanted_term == term && h->wanted_leader == leader)) {
        return;
    }
    unsigned rank = own_rank(rep->raft->id, bytes + NOTICE_BYTES, (uint32_t)n);
    rep->notices_received++;
    rguard_trace(RGUARD_TRACE_NOTICE_RECV, term, rguard__log_last(rep->raft), leader, rank);
    h->wanted = true;
    h->wanted_term = term;
    h->wanted_leader = leader;
    h->wanted_at_ms = rep->net->now_ms(rep->channel) + (uint64_t)rank * STEP_MS;
    h->give_up_ms = h->wanted_at_ms + rep->opt.election_ms;
    rguard__turn_begin(rep);
    rguard__turn_end(rep); /* settling polls */
}

/* Called from the loop, after every turn and by the timer, never from inside libraft. */
void rguard__handover_poll(rguard_replica *rep)
{
    struct rguard_handover_state *h = &rep->handover;
    struct raft *r = rep->raft;
    if (!h->wanted) {
        return;
    }
    uint64_t now = rep->net->now_ms(rep->channel);
    if (!still_follows(rep, h->wanted_term, h->wanted_leader) || !rguard__may_campaign(rep) ||
        now > h->give_up_ms) {
        h->wanted = false;
        return;
    }
    if (now < h->wanted_at_ms) {
        rep->net->arm(rep->channel, RGUARD_TIMER_HANDOVER, h->wanted_at_ms - now);
        return;
    }
    if (rep->appends_in_flight > 0) {
        return; /* its completion is a turn, and polls again */
    }
    h->wanted = false;
    h->campaigning = true;
    rep->elections_by_notice++;
    raft_index last = rguard__log_last(r);
    struct raft_message m = {.type = RAFT_IO_TIMEOUT_NOW,
                             .server_id = h->wanted_leader,
                             .server_address = r->follower_state.current_leader.address,
                             .timeout_now = {.term = r->current_term,
                                             .last_log_index = last,
                                             .last_log_term = rguard__log_term(r, last)}};
    rep->recv_cb(&rep->io, &m);
}

/* ---- life ------------------------------------------------------------------------------------ */

int rguard__handover_open(rguard_replica *rep)
{
    struct rguard_gasp *g = calloc(1, sizeof *g);
    struct gasp_page disarmed = {0};
    if (g == NULL) {
        return -ENOMEM;
    }
    g->bytes = 4096;
    _Static_assert(sizeof(struct gasp_page) <= 4096, "the notice fits one page");
    g->page = mmap(NULL, g->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->page == MAP_FAILED) {
        free(g);
        return -ENOMEM;
    }
    page_write(g, &disarmed);
    rep->handover.gasp = g;
    int rv = rguard_guard_hook_add(on_violation, rep);
    if (rv != 0) {
        rguard__handover_close(rep);
    }
    return rv;
}

void rguard__handover_close(rguard_replica *rep)
{
    struct rguard_gasp *g = rep->handover.gasp;
    if (g == NULL) {
        return;
    }
    rguard_guard_hook_remove(on_violation, rep);
    rep->handover.gasp = NULL;
    munmap(g->page, g->bytes);
    free(g);
}
