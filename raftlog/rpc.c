/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes of libraft's messages, of configurations and of the envelope around a command.
 *
 * Everything is little endian. Frames around these bodies (magic, version, length, sender, checksum)
 * belong to the channel; a body that arrives here has passed its checksum, but not been judged: every
 * count and length is checked against the bytes that are there before anything is allocated.
 * TimeoutNow is not among them: libraft's transfer lets a server vote twice (D14) and is never used.
 *
 *   RequestVote          term, candidate, last_index, last_term u64; flags u32 (1 disrupt, 2 pre-vote)
 *   RequestVoteResult    term u64; granted u32; pre_vote u32
 *   AppendEntries        term, prev_index, prev_term, commit u64; n u32;
 *                        n x {term u64, type u32, len u32}; the entries' bytes, one after the other
 *   AppendEntriesResult  term, rejected, last_index u64
 *   InstallSnapshot      term, last_index, last_term, conf_index u64; conf_len u32; conf; data
 *   configuration        n u32; n x {id u64, role u32, address_len u32, address} */
#include "raftlog_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <raftguard/crc32c.h>
#include <raftguard/testing.h>

#define ENTRY_BYTES    16u
#define APPEND_HEAD    36u
#define INSTALL_HEAD   36u
#define MAX_SERVERS    64u
#define ENVELOPE_MAGIC 0x56454752u /* "RGEV" */

enum { FLAG_DISRUPT = 1, FLAG_PRE_VOTE = 2 };

uint8_t *rguard__put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(v >> (8 * i));
    }
    return p + 4;
}

uint8_t *rguard__put64(uint8_t *p, uint64_t v)
{
    return rguard__put32(rguard__put32(p, (uint32_t)v), (uint32_t)(v >> 32));
}

uint32_t rguard__get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint64_t rguard__get64(const uint8_t *p)
{
    return rguard__get32(p) | (uint64_t)rguard__get32(p + 4) << 32;
}

/* ---- envelope: {magic u32, crc32c(length, command) u32, length u32, 0 u32} command ----------- */

static uint32_t envelope_crc(const uint8_t *head, const void *cmd, size_t len)
{
    return rguard_crc32c(rguard_crc32c(0, head + 8, 8), cmd, len);
}

void rguard__envelope_write(uint8_t *head, const void *cmd, size_t len)
{
    rguard__put32(head, ENVELOPE_MAGIC);
    rguard__put32(head + 8, (uint32_t)len);
    rguard__put32(head + 12, 0);
    rguard__put32(head + 4, envelope_crc(head, cmd, len));
}

int rguard__envelope_check(const void *buf, size_t len)
{
    const uint8_t *head = buf;
    if (RGUARD_TEST_OFF("envelope")) {
        return 0;
    }
    if (len < RGUARD_ENVELOPE_BYTES || rguard__get32(head) != ENVELOPE_MAGIC ||
        rguard__get32(head + 8) != len - RGUARD_ENVELOPE_BYTES ||
        rguard__get32(head + 4) !=
            envelope_crc(head, head + RGUARD_ENVELOPE_BYTES, len - RGUARD_ENVELOPE_BYTES)) {
        return RGUARD_ECHECKSUM;
    }
    return 0;
}

/* ---- configurations -------------------------------------------------------------------------- */

size_t rguard__conf_size(const struct raft_configuration *conf)
{
    size_t n = 4;
    for (unsigned i = 0; i < conf->n; i++) {
        n += 16 + strlen(conf->servers[i].address);
    }
    return n;
}

uint8_t *rguard__conf_encode(uint8_t *p, const struct raft_configuration *conf)
{
    p = rguard__put32(p, conf->n);
    for (unsigned i = 0; i < conf->n; i++) {
        const struct raft_server *s = &conf->servers[i];
        size_t len = strlen(s->address);
        p = rguard__put64(p, s->id);
        p = rguard__put32(p, (uint32_t)s->role);
        p = rguard__put32(p, (uint32_t)len);
        memcpy(p, s->address, len);
        p += len;
    }
    return p;
}

/* @return bytes consumed, or negative. */
static int conf_decode_server(const uint8_t *p, size_t left, struct raft_configuration *conf)
{
    char address[RGUARD_MAX_ADDRESS];
    if (left < 16) {
        return RGUARD_EPROTO;
    }
    uint64_t id = rguard__get64(p);
    uint32_t role = rguard__get32(p + 8);
    uint32_t len = rguard__get32(p + 12);
    if (id == 0 || role > RAFT_SPARE || len == 0 || len >= sizeof address || len > left - 16) {
        return RGUARD_EPROTO;
    }
    memcpy(address, p + 16, len);
    address[len] = '\0';
    int rv = raft_configuration_add(conf, id, address, (int)role);
    if (rv != 0) {
        return rv == RAFT_NOMEM ? -ENOMEM : RGUARD_EPROTO;
    }
    return (int)(16 + len);
}

int rguard__conf_decode(const uint8_t *p, size_t len, struct raft_configuration *conf)
{
    int rv = RGUARD_EPROTO;
    raft_configuration_init(conf);
    if (len < 4) {
        return rv;
    }
    uint32_t n = rguard__get32(p);
    const uint8_t *end = p + len;
    p += 4;
    if (n > MAX_SERVERS) {
        return rv;
    }
    for (uint32_t i = 0; i < n; i++) {
        rv = conf_decode_server(p, (size_t)(end - p), conf);
        if (rv < 0) {
            goto err;
        }
        p += rv;
    }
    if (p != end) {
        rv = RGUARD_EPROTO;
        goto err;
    }
    return 0;
err:
    raft_configuration_close(conf);
    raft_configuration_init(conf);
    return rv;
}

/* ---- encoding -------------------------------------------------------------------------------- */

static int reserve(struct rguard_rpc_out *out, size_t len)
{
    if (len > out->cap) {
        size_t cap = len + len / 2;
        uint8_t *bytes = realloc(out->bytes, cap);
        if (bytes == NULL) {
            return -ENOMEM;
        }
        out->bytes = bytes;
        out->cap = cap;
    }
    out->len = len;
    return 0;
}

static int encode_append(struct rguard_rpc_out *out, const struct raft_append_entries *a,
                         unsigned first, unsigned n)
{
    size_t bytes = APPEND_HEAD + (size_t)n * ENTRY_BYTES;
    for (unsigned i = first; i < first + n; i++) {
        bytes += a->entries[i].buf.len;
    }
    int rv = reserve(out, bytes);
    if (rv != 0) {
        return rv;
    }
    raft_term prev_term = first == 0 ? a->prev_log_term : a->entries[first - 1].term;
    uint8_t *p = rguard__put64(out->bytes, a->term);
    p = rguard__put64(p, a->prev_log_index + first);
    p = rguard__put64(p, prev_term);
    p = rguard__put64(p, a->leader_commit);
    p = rguard__put32(p, n);
    for (unsigned i = first; i < first + n; i++) {
        p = rguard__put64(p, a->entries[i].term);
        p = rguard__put32(p, a->entries[i].type);
        p = rguard__put32(p, (uint32_t)a->entries[i].buf.len);
    }
    for (unsigned i = first; i < first + n; i++) {
        if (a->entries[i].buf.len > 0) {
            memcpy(p, a->entries[i].buf.base, a->entries[i].buf.len);
        }
        p += a->entries[i].buf.len;
    }
    return 0;
}

static int encode_install(struct rguard_rpc_out *out, const struct raft_install_snapshot *s)
{
    size_t conf = rguard__conf_size(&s->conf);
    int rv = reserve(out, INSTALL_HEAD + conf);
    if (rv != 0) {
        return rv;
    }
    uint8_t *p = rguard__put64(out->bytes, s->term);
    p = rguard__put64(p, s->last_index);
    p = rguard__put64(p, s->last_term);
    p = rguard__put64(p, s->conf_index);
    p = rguard__put32(p, (uint32_t)conf);
    rguard__conf_encode(p, &s->conf);
    return 0;
}

static uint8_t *put64s(uint8_t *p, int n, const uint64_t *v)
{
    for (int i = 0; i < n; i++) {
        p = rguard__put64(p, v[i]);
    }
    return p;
}

int rguard__rpc_encode(struct rguard_rpc_out *out, const struct raft_message *m, unsigned first,
                       unsigned n)
{
    if (m->type == RAFT_IO_APPEND_ENTRIES) {
        return encode_append(out, &m->append_entries, first, n);
    }
    if (m->type == RAFT_IO_INSTALL_SNAPSHOT) {
        return encode_install(out, &m->install_snapshot);
    }
    int rv = reserve(out, 64);
    uint8_t *p = out->bytes;
    if (rv != 0) {
        return rv;
    }
    switch (m->type) {
        case RAFT_IO_APPEND_ENTRIES_RESULT: {
            const struct raft_append_entries_result *r = &m->append_entries_result;
            p = put64s(p, 3, (uint64_t[]){r->term, r->rejected, r->last_log_index});
            break;
        }
        case RAFT_IO_REQUEST_VOTE: {
            const struct raft_request_vote *v = &m->request_vote;
            p = put64s(p, 4,
                       (uint64_t[]){v->term, v->candidate_id, v->last_log_index, v->last_log_term});
            p = rguard__put32(p, (v->disrupt_leader ? (uint32_t)FLAG_DISRUPT : 0u) |
                                     (v->pre_vote ? (uint32_t)FLAG_PRE_VOTE : 0u));
            break;
        }
        case RAFT_IO_REQUEST_VOTE_RESULT: {
            const struct raft_request_vote_result *v = &m->request_vote_result;
            p = rguard__put64(p, v->term);
            p = rguard__put32(p, v->vote_granted);
            p = rguard__put32(p, (uint32_t)v->pre_vote);
            break;
        }
        default:
            return -EINVAL;
    }
    out->len = (size_t)(p - out->bytes);
    return 0;
}

/* ---- decoding -------------------------------------------------------------------------------- */

/* libraft frees a batch when none of its entries is referenced any more: all bytes go in one. */
static int decode_append(const uint8_t *p, size_t len, struct raft_append_entries *a)
{
    if (len < APPEND_HEAD) {
        return RGUARD_EPROTO;
    }
    uint32_t n = rguard__get32(p + 32);
    if (n > RGUARD_MAX_ENTRIES || (size_t)n * ENTRY_BYTES > len - APPEND_HEAD) {
        return RGUARD_EPROTO;
    }
    const uint8_t *table = p + APPEND_HEAD;
    const uint8_t *data = table + (size_t)n * ENTRY_BYTES;
    size_t bytes = (size_t)(p + len - data);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t type = rguard__get32(table + i * ENTRY_BYTES + 8);
        sum += rguard__get32(table + i * ENTRY_BYTES + 12);
        if (type < RAFT_COMMAND || type > RAFT_CHANGE) {
            return RGUARD_EPROTO;
        }
    }
    if (sum != bytes) {
        return RGUARD_EPROTO;
    }
    a->term = rguard__get64(p);
    a->prev_log_index = rguard__get64(p + 8);
    a->prev_log_term = rguard__get64(p + 16);
    a->leader_commit = rguard__get64(p + 24);
    a->n_entries = n;
    a->entries = NULL;
    if (n == 0) {
        return 0;
    }
    a->entries = raft_calloc(n, sizeof *a->entries);
    uint8_t *batch = raft_malloc(bytes > 0 ? bytes : 1);
    if (a->entries == NULL || batch == NULL) {
        raft_free(a->entries);
        raft_free(batch);
        return -ENOMEM;
    }
    memcpy(batch, data, bytes);
    uint8_t *at = batch;
    for (uint32_t i = 0; i < n; i++) {
        struct raft_entry *e = &a->entries[i];
        e->term = rguard__get64(table + i * ENTRY_BYTES);
        e->type = (unsigned short)rguard__get32(table + i * ENTRY_BYTES + 8);
        e->buf.len = rguard__get32(table + i * ENTRY_BYTES + 12);
        e->buf.base = at;
        e->batch = batch;
        at += e->buf.len;
    }
    return 0;
}

static int decode_install(const uint8_t *p, size_t len, struct raft_install_snapshot *s)
{
    if (len < INSTALL_HEAD) {
        return RGUARD_EPROTO;
    }
    uint32_t conf = rguard__get32(p + 32);
    if (conf > len - INSTALL_HEAD) {
        return RGUARD_EPROTO;
    }
    int rv = rguard__conf_decode(p + INSTALL_HEAD, conf, &s->conf);
    if (rv != 0) {
        return rv;
    }
    s->term = rguard__get64(p);
    s->last_index = rguard__get64(p + 8);
    s->last_term = rguard__get64(p + 16);
    s->conf_index = rguard__get64(p + 24);
    s->data.len = len - INSTALL_HEAD - conf;
    s->data.base = raft_malloc(s->data.len > 0 ? s->data.len : 1);
    if (s->data.base == NULL) {
        raft_configuration_close(&s->conf);
        return -ENOMEM;
    }
    memcpy(s->data.base, p + INSTALL_HEAD + conf, s->data.len);
    return 0;
}

static int decode_vote_result(const uint8_t *p, size_t len, struct raft_request_vote_result *v)
{
    if (len != 16 || rguard__get32(p + 8) > 1 || rguard__get32(p + 12) > raft_tribool_false) {
        return RGUARD_EPROTO;
    }
    v->term = rguard__get64(p);
    v->vote_granted = rguard__get32(p + 8) != 0;
    v->pre_vote = (raft_tribool)rguard__get32(p + 12);
    return 0;
}

int rguard__rpc_decode(uint16_t type, const uint8_t *p, size_t len, struct raft_message *m)
{
    memset(m, 0, sizeof *m);
    m->type = type;
    switch (type) {
        case RAFT_IO_APPEND_ENTRIES:
            return decode_append(p, len, &m->append_entries);
        case RAFT_IO_INSTALL_SNAPSHOT:
            return decode_install(p, len, &m->install_snapshot);
        case RAFT_IO_REQUEST_VOTE_RESULT:
            return decode_vote_result(p, len, &m->request_vote_result);
        case RAFT_IO_APPEND_ENTRIES_RESULT:
            if (len != 24) {
                return RGUARD_EPROTO;
            }
            m->append_entries_result =
                (struct raft_append_entries_result){.term = rguard__get64(p),
                                                    .rejected = rguard__get64(p + 8),
                                                    .last_log_index = rguard__get64(p + 16)};
            return 0;
        case RAFT_IO_REQUEST_VOTE:
            if (len != 36) {
                return RGUARD_EPROTO;
            }
            m->request_vote = (struct raft_request_vote){
                .term = rguard__get64(p),
                .candidate_id = rguard__get64(p + 8),
                .last_log_index = rguard__get64(p + 16),
                .last_log_term = rguard__get64(p + 24),
                .disrupt_leader = (rguard__get32(p + 32) & FLAG_DISRUPT) != 0,
                .pre_vote = (rguard__get32(p + 32) & FLAG_PRE_VOTE) != 0};
            return 0;
        default:
            return RGUARD_EPROTO;
    }
}

void rguard__rpc_discard(struct raft_message *m)
{
    if (m->type == RAFT_IO_APPEND_ENTRIES && m->append_entries.entries != NULL) {
        raft_free(m->append_entries.entries[0].batch);
        raft_free(m->append_entries.entries);
    } else if (m->type == RAFT_IO_INSTALL_SNAPSHOT) {
        raft_configuration_close(&m->install_snapshot.conf);
        raft_free(m->install_snapshot.data.base);
    }
}
