/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of messages: what is written is what is read, and no sequence of bytes can make the
 * decoder crash, leak or allocate more than the bytes themselves justify.
 *
 * Allocations of the decoder go through libraft's heap, which is replaced here by one that counts:
 * what is alive, and how much one call asked for. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>

#include "shell.h"

#include <cmocka.h>

#define MUTATIONS 250000

/* ---- a heap that counts ---------------------------------------------------------------------- */

static struct
{
    long live;
    size_t asked; /* bytes, since the last reset */
    long calls;
} heap;

static void *count_malloc(void *data, size_t size)
{
    (void)data;
    heap.live++;
    heap.calls++;
    heap.asked += size;
    return malloc(size);
}

static void *count_calloc(void *data, size_t n, size_t size)
{
    (void)data;
    heap.live++;
    heap.calls++;
    heap.asked += n * size;
    return calloc(n, size);
}

static void *count_realloc(void *data, void *p, size_t size)
{
    (void)data;
    heap.live += p == NULL;
    heap.calls++;
    heap.asked += size;
    return realloc(p, size);
}

static void count_free(void *data, void *p)
{
    (void)data;
    heap.live -= p != NULL;
    free(p);
}

static void *count_aligned(void *data, size_t alignment, size_t size)
{
    (void)alignment;
    return count_malloc(data, size);
}

static void count_aligned_free(void *data, size_t alignment, void *p)
{
    (void)alignment;
    count_free(data, p);
}

static int heap_setup(void **state)
{
    static struct raft_heap counting = {
        NULL,          count_malloc,  count_free,        count_calloc,
        count_realloc, count_aligned, count_aligned_free};
    (void)state;
    memset(&heap, 0, sizeof heap);
    raft_heap_set(&counting);
    return 0;
}

static int heap_teardown(void **state)
{
    (void)state;
    raft_heap_set_default();
    return heap.live == 0 ? 0 : -1;
}

/* ---- a place where nothing can be read beyond the end ---------------------------------------- */

#define FENCED ((size_t)2 << 20)

static uint8_t *fence; /* first byte that cannot be read */

static int fence_setup(void **state)
{
    (void)state;
    uint8_t *p =
        mmap(NULL, FENCED + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fence = p + FENCED;
    return p == MAP_FAILED ? -1 : mprotect(fence, 4096, PROT_NONE);
}

static int fence_teardown(void **state)
{
    (void)state;
    return munmap(fence - FENCED, FENCED + 4096);
}

/* ---- samples --------------------------------------------------------------------------------- */

static struct raft_configuration conf_of(unsigned n)
{
    struct raft_configuration conf;
    raft_configuration_init(&conf);
    for (unsigned i = 0; i < n; i++) {
        char address[RGUARD_MAX_ADDRESS];
        snprintf(address, sizeof address, "127.0.0.%u:%u", i + 1, 9000 + i);
        assert_int_equal(raft_configuration_add(&conf, 100 + i, address, (int)(i % 3)), 0);
    }
    return conf;
}

static void assert_conf_equal(const struct raft_configuration *a,
                              const struct raft_configuration *b)
{
    assert_int_equal(a->n, b->n);
    for (unsigned i = 0; i < a->n; i++) {
        assert_int_equal(a->servers[i].id, b->servers[i].id);
        assert_int_equal(a->servers[i].role, b->servers[i].role);
        assert_string_equal(a->servers[i].address, b->servers[i].address);
    }
}

/* Entry i has i * 7 bytes (so that the first is empty), type 1..3, term 1 + i / 2. */
#define SAMPLE_ENTRIES 6u

static uint8_t sample_bytes[SAMPLE_ENTRIES][64];

static void sample_entries(struct raft_entry entries[SAMPLE_ENTRIES])
{
    for (unsigned i = 0; i < SAMPLE_ENTRIES; i++) {
        memset(sample_bytes[i], (int)('a' + i), sizeof sample_bytes[i]);
        entries[i] = (struct raft_entry){.term = 1 + i / 2,
                                         .type = (unsigned short)(RAFT_COMMAND + i % 3),
                                         .buf = {sample_bytes[i], i * 7u}};
    }
}

static struct raft_message append_message(struct raft_entry *entries, unsigned n)
{
    return (struct raft_message){.type = RAFT_IO_APPEND_ENTRIES,
                                 .append_entries = {.term = 9,
                                                    .prev_log_index = 0x123456789a,
                                                    .prev_log_term = 8,
                                                    .leader_commit = 0x1234567890,
                                                    .entries = entries,
                                                    .n_entries = n}};
}

/* One valid body of each kind, for truncation and mutation. */
struct sample
{
    uint16_t type;
    uint8_t *bytes;
    size_t len;
};

static void sample_take(struct sample *s, const struct raft_message *m, unsigned n,
                        const void *tail, size_t tail_len)
{
    struct rguard_rpc_out out = {0};
    assert_int_equal(rguard__rpc_encode(&out, m, 0, n), 0);
    s->type = m->type;
    s->len = out.len + tail_len;
    s->bytes = malloc(s->len);
    memcpy(s->bytes, out.bytes, out.len);
    if (tail_len > 0) {
        memcpy(s->bytes + out.len, tail, tail_len);
    }
    free(out.bytes);
}

#define SAMPLES 7

static void samples_take(struct sample s[SAMPLES])
{
    struct raft_entry entries[SAMPLE_ENTRIES];
    struct raft_configuration conf = conf_of(5);
    sample_entries(entries);
    struct raft_message append = append_message(entries, SAMPLE_ENTRIES);
    struct raft_message heartbeat = append_message(NULL, 0);
    struct raft_message result = {.type = RAFT_IO_APPEND_ENTRIES_RESULT,
                                  .append_entries_result = {3, 4, 5}};
    struct raft_message vote = {.type = RAFT_IO_REQUEST_VOTE,
                                .request_vote = {3, 1, 4, 2, true, false}};
    struct raft_message answer = {.type = RAFT_IO_REQUEST_VOTE_RESULT,
                                  .request_vote_result = {3, true, raft_tribool_true}};
    struct raft_message install = {.type = RAFT_IO_INSTALL_SNAPSHOT,
                                   .install_snapshot = {9, 100, 8, conf, 50, {NULL, 0}}};
    sample_take(&s[0], &append, SAMPLE_ENTRIES, NULL, 0);
    sample_take(&s[1], &heartbeat, 0, NULL, 0);
    sample_take(&s[2], &result, 0, NULL, 0);
    sample_take(&s[3], &vote, 0, NULL, 0);
    sample_take(&s[4], &answer, 0, NULL, 0);
    sample_take(&s[5], &install, 0, "snapshot data", 13);
    sample_take(&s[6], &install, 0, NULL, 0);
    raft_configuration_close(&conf);
}

static void samples_free(struct sample s[SAMPLES])
{
    for (int i = 0; i < SAMPLES; i++) {
        free(s[i].bytes);
    }
}

/* ---- round trips ----------------------------------------------------------------------------- */

static void test_fixed_messages(void **state)
{
    struct rguard_rpc_out out = {0};
    struct raft_message in;
    (void)state;
    struct raft_message result = {.type = RAFT_IO_APPEND_ENTRIES_RESULT,
                                  .append_entries_result = {UINT64_MAX, 1ull << 40, 77}};
    assert_int_equal(rguard__rpc_encode(&out, &result, 0, 0), 0);
    assert_int_equal(rguard__rpc_decode(result.type, out.bytes, out.len, &in), 0);
    assert_int_equal(in.type, result.type);
    assert_memory_equal(&in.append_entries_result, &result.append_entries_result,
                        sizeof in.append_entries_result);

    for (int flags = 0; flags < 4; flags++) {
        struct raft_message vote = {
            .type = RAFT_IO_REQUEST_VOTE,
            .request_vote = {5, 1ull << 63, 12, 4, (flags & 1) != 0, (flags & 2) != 0}};
        assert_int_equal(rguard__rpc_encode(&out, &vote, 0, 0), 0);
        assert_int_equal(rguard__rpc_decode(vote.type, out.bytes, out.len, &in), 0);
        assert_int_equal(in.request_vote.term, 5);
        assert_int_equal(in.request_vote.candidate_id, 1ull << 63);
        assert_int_equal(in.request_vote.last_log_index, 12);
        assert_int_equal(in.request_vote.last_log_term, 4);
        assert_int_equal(in.request_vote.disrupt_leader, (flags & 1) != 0);
        assert_int_equal(in.request_vote.pre_vote, (flags & 2) != 0);
    }
    for (int k = 0; k < 6; k++) {
        struct raft_message answer = {.type = RAFT_IO_REQUEST_VOTE_RESULT,
                                      .request_vote_result = {6, k % 2, (raft_tribool)(k / 2)}};
        assert_int_equal(rguard__rpc_encode(&out, &answer, 0, 0), 0);
        assert_int_equal(rguard__rpc_decode(answer.type, out.bytes, out.len, &in), 0);
        assert_int_equal(in.request_vote_result.term, 6);
        assert_int_equal(in.request_vote_result.vote_granted, k % 2);
        assert_int_equal(in.request_vote_result.pre_vote, k / 2);
    }
    free(out.bytes);
}

/* TimeoutNow lets a server vote twice (D14): it can neither be written nor read. */
static void test_timeout_now_refused(void **state)
{
    struct rguard_rpc_out out = {0};
    struct raft_message m = {.type = RAFT_IO_TIMEOUT_NOW, .timeout_now = {3, 4, 2}}, in;
    uint8_t bytes[64] = {0};
    (void)state;
    assert_int_equal(rguard__rpc_encode(&out, &m, 0, 0), -EINVAL);
    for (size_t len = 0; len <= sizeof bytes; len++) {
        assert_int_equal(rguard__rpc_decode(RAFT_IO_TIMEOUT_NOW, bytes, len, &in), RGUARD_EPROTO);
    }
    free(out.bytes);
}

static void check_entry(const struct raft_entry *got, const struct raft_entry *want)
{
    assert_int_equal(got->term, want->term);
    assert_int_equal(got->type, want->type);
    assert_int_equal(got->buf.len, want->buf.len);
    assert_memory_equal(got->buf.base, want->buf.base, want->buf.len);
}

/* Every window [first, first + n) of the entries, with the previous index and term that fit it. */
static void test_append_chunks(void **state)
{
    struct raft_entry entries[SAMPLE_ENTRIES];
    struct rguard_rpc_out out = {0};
    struct raft_message in;
    (void)state;
    sample_entries(entries);
    struct raft_message m = append_message(entries, SAMPLE_ENTRIES);
    for (unsigned first = 0; first <= SAMPLE_ENTRIES; first++) {
        for (unsigned n = 0; first + n <= SAMPLE_ENTRIES; n++) {
            assert_int_equal(rguard__rpc_encode(&out, &m, first, n), 0);
            assert_int_equal(rguard__rpc_decode(m.type, out.bytes, out.len, &in), 0);
            const struct raft_append_entries *a = &in.append_entries;
            assert_int_equal(a->term, 9);
            assert_int_equal(a->leader_commit, 0x1234567890);
            assert_int_equal(a->prev_log_index, 0x123456789a + first);
            assert_int_equal(a->prev_log_term, first == 0 ? 8 : entries[first - 1].term);
            assert_int_equal(a->n_entries, n);
            assert_int_equal(a->entries == NULL, n == 0);
            for (unsigned i = 0; i < n; i++) {
                check_entry(&a->entries[i], &entries[first + i]);
                assert_ptr_equal(a->entries[i].batch, a->entries[0].batch);
            }
            rguard__rpc_discard(&in);
            assert_int_equal(heap.live, 0);
        }
    }
    free(out.bytes);
}

static void test_configurations(void **state)
{
    (void)state;
    for (unsigned n = 0; n <= 64; n++) {
        struct raft_configuration conf = conf_of(n), back;
        size_t len = rguard__conf_size(&conf);
        uint8_t *bytes = malloc(len);
        assert_ptr_equal(rguard__conf_encode(bytes, &conf), bytes + len);
        assert_int_equal(rguard__conf_decode(bytes, len, &back), 0);
        assert_conf_equal(&conf, &back);
        raft_configuration_close(&back);
        raft_configuration_close(&conf);
        free(bytes);
    }
    assert_int_equal(heap.live, 0);
}

static void test_install_snapshot(void **state)
{
    struct rguard_rpc_out out = {0};
    struct raft_message in;
    (void)state;
    for (size_t data = 0; data < 40; data += 13) {
        struct raft_configuration conf = conf_of(3);
        struct raft_message m = {.type = RAFT_IO_INSTALL_SNAPSHOT,
                                 .install_snapshot = {9, 100, 8, conf, 50, {NULL, data}}};
        assert_int_equal(rguard__rpc_encode(&out, &m, 0, 0), 0);
        size_t len = out.len + data;
        uint8_t *bytes = malloc(len);
        memcpy(bytes, out.bytes, out.len);
        memset(bytes + out.len, 'd', data); /* the channel sends it as the second part */
        assert_int_equal(rguard__rpc_decode(m.type, bytes, len, &in), 0);
        assert_int_equal(in.install_snapshot.term, 9);
        assert_int_equal(in.install_snapshot.last_index, 100);
        assert_int_equal(in.install_snapshot.last_term, 8);
        assert_int_equal(in.install_snapshot.conf_index, 50);
        assert_int_equal(in.install_snapshot.data.len, data);
        assert_memory_equal(in.install_snapshot.data.base, bytes + out.len, data);
        assert_conf_equal(&in.install_snapshot.conf, &conf);
        rguard__rpc_discard(&in);
        raft_configuration_close(&conf);
        free(bytes);
        assert_int_equal(heap.live, 0);
    }
    free(out.bytes);
}

/* ---- malformed input ------------------------------------------------------------------------- */

/* Decodes a copy that ends where a page ends that cannot be read beyond. Reads every byte of what
 * came out. @return the decoder's answer. */
static int decode_copy(uint16_t type, const uint8_t *bytes, size_t len)
{
    static volatile uint8_t sink;
    struct raft_message m;
    uint8_t *copy = fence - len;
    assert_true(len <= FENCED);
    if (len > 0) {
        memcpy(copy, bytes, len);
    }
    heap.asked = 0;
    int rv = rguard__rpc_decode(type, copy, len, &m);
    /* One struct raft_entry (40 bytes) for each 16 bytes of table; a server (24) and the doubling
     * of its array for each 17 of a configuration. */
    assert_true(heap.asked <= 64 + 40 * len);
    if (rv == 0) {
        const struct raft_append_entries *a = &m.append_entries;
        for (unsigned i = 0; m.type == RAFT_IO_APPEND_ENTRIES && i < a->n_entries; i++) {
            for (size_t k = 0; k < a->entries[i].buf.len; k++) {
                sink = ((uint8_t *)a->entries[i].buf.base)[k];
            }
        }
        if (m.type == RAFT_IO_INSTALL_SNAPSHOT) {
            assert_true(m.install_snapshot.data.len <= len);
            for (size_t k = 0; k < m.install_snapshot.data.len; k++) {
                sink = ((uint8_t *)m.install_snapshot.data.base)[k];
            }
        }
        rguard__rpc_discard(&m);
    } else {
        assert_true(rv == RGUARD_EPROTO);
    }
    assert_int_equal(heap.live, 0);
    (void)sink;
    return rv;
}

/* No proper prefix is a message, except of a snapshot, whose data may be of any length. */
static void test_every_truncation(void **state)
{
    struct sample s[SAMPLES];
    (void)state;
    samples_take(s);
    for (int i = 0; i < SAMPLES; i++) {
        size_t data = i == 5 ? 13 : 0;
        assert_int_equal(decode_copy(s[i].type, s[i].bytes, s[i].len), 0);
        for (size_t len = 0; len < s[i].len; len++) {
            int want = len + data >= s[i].len ? 0 : RGUARD_EPROTO;
            assert_int_equal(decode_copy(s[i].type, s[i].bytes, len), want);
        }
    }
    samples_free(s);
}

/* A count or a length that the bytes do not bear out is refused before anything is allocated. */
static void test_absurd_counts(void **state)
{
    static const uint32_t absurd[] = {
        0xffffffffu,        0x80000000u, 0x7fffffffu, 0x10000000u, RGUARD_MAX_ENTRIES + 1,
        RGUARD_MAX_ENTRIES, 1u << 20,    4096};
    struct sample s[SAMPLES];
    (void)state;
    samples_take(s);
    for (size_t k = 0; k < sizeof absurd / sizeof absurd[0]; k++) {
        struct
        {
            int sample;
            size_t at;
        } fields[] = {{0, 32}, {1, 32}, {5, 32}, {6, 32}, {0, 36 + 12}, {0, 36 + 16 * 5 + 12}};
        for (size_t f = 0; f < sizeof fields / sizeof fields[0]; f++) {
            struct sample *v = &s[fields[f].sample];
            uint32_t kept = rguard__get32(v->bytes + fields[f].at);
            rguard__put32(v->bytes + fields[f].at, absurd[k]);
            heap.calls = 0;
            assert_int_equal(decode_copy(v->type, v->bytes, v->len), RGUARD_EPROTO);
            assert_int_equal(heap.calls, 0);
            rguard__put32(v->bytes + fields[f].at, kept);
        }
        /* Servers of a configuration: 5 are there. */
        rguard__put32(s[5].bytes + 36, absurd[k]);
        assert_int_equal(decode_copy(s[5].type, s[5].bytes, s[5].len), RGUARD_EPROTO);
        rguard__put32(s[5].bytes + 36, 5);
        /* Length of the first address. */
        rguard__put32(s[5].bytes + 40 + 12, absurd[k]);
        heap.calls = 0;
        assert_int_equal(decode_copy(s[5].type, s[5].bytes, s[5].len), RGUARD_EPROTO);
        assert_int_equal(heap.calls, 0);
        rguard__put32(s[5].bytes + 40 + 12, 14);
        assert_int_equal(decode_copy(s[5].type, s[5].bytes, s[5].len), 0);
    }
    samples_free(s);
}

/* Two lengths that cancel each other modulo 2^32 do not add up. */
static void test_lengths_do_not_wrap(void **state)
{
    struct sample s[SAMPLES];
    (void)state;
    samples_take(s);
    uint8_t *table = s[0].bytes + 36;
    rguard__put32(table + 12, 0xffffffffu);
    rguard__put32(table + 16 + 12, rguard__get32(table + 16 + 12) + 1);
    assert_int_equal(decode_copy(s[0].type, s[0].bytes, s[0].len), RGUARD_EPROTO);
    samples_free(s);
}

/* As many entries as one frame may have, and one more: all there, all empty. */
static void test_most_entries(void **state)
{
    size_t len = 36 + (RGUARD_MAX_ENTRIES + 1) * 16;
    uint8_t *bytes = calloc(1, len);
    (void)state;
    for (size_t i = 0; i <= RGUARD_MAX_ENTRIES; i++) {
        rguard__put32(bytes + 36 + i * 16 + 8, RAFT_BARRIER);
    }
    rguard__put32(bytes + 32, RGUARD_MAX_ENTRIES);
    assert_int_equal(decode_copy(RAFT_IO_APPEND_ENTRIES, bytes, len - 16), 0);
    rguard__put32(bytes + 32, RGUARD_MAX_ENTRIES + 1);
    assert_int_equal(decode_copy(RAFT_IO_APPEND_ENTRIES, bytes, len), RGUARD_EPROTO);
    free(bytes);
}

/* An address has room for its NUL or is none; nothing follows the last server. */
static void test_ends_of_a_configuration(void **state)
{
    struct raft_configuration conf;
    uint8_t bytes[4 + 16 + RGUARD_MAX_ADDRESS + 1] = {0};
    (void)state;
    for (size_t len = 0; len <= RGUARD_MAX_ADDRESS; len++) {
        bool fits = len > 0 && len < RGUARD_MAX_ADDRESS;
        uint8_t *p = rguard__put64(rguard__put32(bytes, 1), 7);
        p = rguard__put32(rguard__put32(p, RAFT_VOTER), (uint32_t)len);
        memset(p, '9', len);
        assert_int_equal(rguard__conf_decode(bytes, 20 + len, &conf), fits ? 0 : RGUARD_EPROTO);
        if (fits) {
            assert_int_equal(strlen(conf.servers[0].address), len);
        }
        raft_configuration_close(&conf);
        assert_int_equal(rguard__conf_decode(bytes, 21 + len, &conf), RGUARD_EPROTO);
        assert_int_equal(heap.live, 0);
    }
}

/* A member twice, no id, a role or an entry type that does not exist. */
static void test_impossible_values(void **state)
{
    struct sample s[SAMPLES];
    (void)state;
    samples_take(s);
    uint8_t *first = s[5].bytes + 40;
    uint8_t *second = first + 16 + 14;
    uint64_t id = rguard__get64(second);
    rguard__put64(second, rguard__get64(first));
    assert_int_equal(decode_copy(s[5].type, s[5].bytes, s[5].len), RGUARD_EPROTO);
    rguard__put64(second, 0);
    assert_int_equal(decode_copy(s[5].type, s[5].bytes, s[5].len), RGUARD_EPROTO);
    rguard__put64(second, id);
    rguard__put32(second + 8, RAFT_SPARE + 1);
    assert_int_equal(decode_copy(s[5].type, s[5].bytes, s[5].len), RGUARD_EPROTO);
    rguard__put32(second + 8, RAFT_VOTER);
    assert_int_equal(decode_copy(s[5].type, s[5].bytes, s[5].len), 0);
    static const uint32_t types[] = {0, RAFT_CHANGE + 1, 0x10001, 0xffffffffu};
    for (size_t k = 0; k < sizeof types / sizeof types[0]; k++) {
        rguard__put32(s[0].bytes + 36 + 8, types[k]);
        assert_int_equal(decode_copy(s[0].type, s[0].bytes, s[0].len), RGUARD_EPROTO);
    }
    for (unsigned type = 0; type < 65536; type++) {
        if (type < RAFT_IO_APPEND_ENTRIES || type >= RAFT_IO_TIMEOUT_NOW) {
            assert_int_equal(decode_copy((uint16_t)type, s[2].bytes, s[2].len), RGUARD_EPROTO);
        }
    }
    samples_free(s);
}

/* One to four changes: a flipped bit, a random byte, an extreme word, a cut or a longer end. */
static void test_mutations(void **state)
{
    static const uint32_t extreme[] = {0, 1, 0x7fffffffu, 0x80000000u, 0xffffffffu, 16, 64, 65536};
    struct sample s[SAMPLES];
    uint64_t rng = 20240;
    unsigned accepted = 0;
    uint8_t bytes[1024];
    (void)state;
    samples_take(s);
    for (int round = 0; round < MUTATIONS; round++) {
        const struct sample *v = &s[draw(&rng) % SAMPLES];
        uint16_t type = draw(&rng) % 16 == 0 ? (uint16_t)(draw(&rng) % 8) : v->type;
        size_t len = v->len;
        memcpy(bytes, v->bytes, len);
        for (uint64_t n = 1 + draw(&rng) % 4; n > 0; n--) {
            size_t at = draw(&rng) % len;
            switch (draw(&rng) % 6) {
                case 0:
                case 1:
                    bytes[at] ^= (uint8_t)(1u << (draw(&rng) % 8));
                    break;
                case 2:
                    bytes[at] = (uint8_t)draw(&rng);
                    break;
                case 3:
                    at = at / 4 * 4;
                    if (at + 4 <= len) {
                        rguard__put32(bytes + at, extreme[draw(&rng) % 8]);
                    }
                    break;
                case 4:
                    len = 1 + draw(&rng) % len;
                    break;
                default:
                    for (uint64_t k = draw(&rng) % 40; k > 0 && len < sizeof bytes; k--) {
                        bytes[len++] = (uint8_t)draw(&rng);
                    }
                    break;
            }
        }
        accepted += decode_copy(type, bytes, len) == 0;
    }
    samples_free(s);
    /* Both outcomes were exercised. */
    assert_in_range(accepted, MUTATIONS / 100, MUTATIONS - MUTATIONS / 100);
}

/* A configuration that cannot be allocated is no protocol error, and nothing is left behind. */
static void *no_malloc(void *data, size_t size)
{
    long *left = data;
    return (*left)-- > 0 ? count_malloc(NULL, size) : NULL;
}

static void *no_calloc(void *data, size_t n, size_t size)
{
    long *left = data;
    return (*left)-- > 0 ? count_calloc(NULL, n, size) : NULL;
}

static void *no_realloc(void *data, void *p, size_t size)
{
    long *left = data;
    return (*left)-- > 0 ? count_realloc(NULL, p, size) : NULL;
}

static void test_out_of_memory(void **state)
{
    static long left;
    static struct raft_heap failing = {&left,      no_malloc,     count_free,        no_calloc,
                                       no_realloc, count_aligned, count_aligned_free};
    struct sample s[SAMPLES];
    struct raft_message m;
    (void)state;
    samples_take(s);
    raft_heap_set(&failing);
    static const int with_memory[] = {0, 5};
    for (int k = 0; k < 2; k++) {
        const struct sample *v = &s[with_memory[k]];
        int rv = -ENOMEM;
        long calls = 0;
        for (; rv != 0 && calls < 100; calls++) {
            left = calls;
            rv = rguard__rpc_decode(v->type, v->bytes, v->len, &m);
            assert_true(rv == 0 || rv == -ENOMEM);
            if (rv == 0) {
                rguard__rpc_discard(&m);
            }
            assert_int_equal(heap.live, 0);
        }
        assert_in_range(calls, 2, 99);
    }
    samples_free(s);
}

int main(void)
{
#define RPC_TEST(name) cmocka_unit_test_setup_teardown(name, heap_setup, heap_teardown)
    const struct CMUnitTest tests[] = {
        RPC_TEST(test_fixed_messages),    RPC_TEST(test_timeout_now_refused),
        RPC_TEST(test_append_chunks),     RPC_TEST(test_configurations),
        RPC_TEST(test_install_snapshot),  RPC_TEST(test_every_truncation),
        RPC_TEST(test_absurd_counts),     RPC_TEST(test_lengths_do_not_wrap),
        RPC_TEST(test_most_entries),      RPC_TEST(test_ends_of_a_configuration),
        RPC_TEST(test_impossible_values), RPC_TEST(test_mutations),
        RPC_TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("rpc", tests, fence_setup, fence_teardown);
}
