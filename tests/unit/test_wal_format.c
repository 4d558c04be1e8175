/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding and checking of single batches and headers, without files. */
#include "test_wal_util.h"

#include "format_internal.h"

static const uint8_t uuid[WAL_UUID] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

static struct wal_place place(uint64_t room)
{
    struct wal_place p = {uuid, 3, 0x1234567890abcdefULL, 40960, room};
    return p;
}

/* @n records of @len bytes; returns the batch, in *length its bytes. */
static uint8_t *encode(uint32_t n, uint32_t len, uint32_t *length)
{
    struct wal_batch_header h = {
        .type = WAL_DATA, .n_records = n, .payload_length = n * ((len + 7) & ~7u)};
    uint64_t bytes = rguard__wal_batch_bytes(n, h.payload_length);
    uint8_t *buf = aligned_alloc(4096, bytes);
    uint8_t *data = malloc(len + 1);
    struct wal_encoder e;
    struct wal_place p = place(0);
    memset(buf, 0xff, bytes); /* a used buffer */
    rguard__wal_encode_start(&e, buf, &h);
    for (uint32_t i = 0; i < n; i++) {
        contents(i + 1, 1, data, len);
        struct rguard_wal_record r = {
            .index = i + 1, .term = 1 + i / 2, .type = i % 3, .len = len, .data = data};
        rguard__wal_encode_put(&e, &r);
    }
    rguard__wal_encode_finish(&e, &p);
    assert_int_equal(h.length, bytes);
    *length = h.length;
    free(data);
    return buf;
}

static void sizes(void **state)
{
    (void)state;
    for (uint64_t n = 0; n < 3000; n = n * 3 + 1) {
        for (uint64_t payload = 0; payload < 3000000; payload = payload * 2 + 1000) {
            uint64_t bytes = rguard__wal_batch_bytes(n, payload);
            uint64_t need = 256 + bytes / 512 * 4 + 32 * n + payload;
            assert_int_equal(bytes % 4096, 0);
            assert_true(need <= bytes);
            assert_true(bytes == 4096 || need - 32 + 4096 + 64 > bytes); /* no block too many */
        }
    }
}

static void encoded_is_valid_only_where_it_belongs(void **state)
{
    (void)state;
    static const uint32_t lens[] = {0, 1, 8, 511, 4096, 100001};
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        uint32_t length;
        struct wal_batch_header h;
        uint8_t *buf = encode(5, lens[i], &length);
        struct wal_place p = place(length);
        assert_int_equal(rguard__wal_batch_check(buf, &p, &h), WAL_VALID);
        assert_int_equal(h.first_index, 1);
        assert_int_equal(h.last_index, 5);
        assert_int_equal(h.last_term, 3);
        assert_true(rguard__wal_batch_padding_ok(buf, &h));
        const struct wal_table_entry *t = rguard__wal_batch_table(buf, &h);
        assert_int_equal(t[4].len, lens[i]);
        p.lsn += 4096;
        assert_int_equal(rguard__wal_batch_check(buf, &p, &h), WAL_MISPLACED);
        p = place(length);
        p.segment++;
        assert_int_equal(rguard__wal_batch_check(buf, &p, &h), WAL_MISPLACED);
        p = place(length);
        p.salt++;
        assert_int_equal(rguard__wal_batch_check(buf, &p, &h), WAL_MISPLACED);
        static const uint8_t other[WAL_UUID] = {9};
        p = place(length);
        p.uuid = other;
        assert_int_equal(rguard__wal_batch_check(buf, &p, &h), WAL_MISPLACED);
        p = place(length - 4096); /* reaches over the end of the segment */
        assert_int_equal(rguard__wal_batch_check(buf, &p, &h), WAL_GARBAGE);
        memset(buf, 0, 512);
        assert_int_equal(rguard__wal_batch_check(buf, &p, &h), WAL_NOTHING);
        free(buf);
    }
}

static void every_bit_of_a_batch_is_covered(void **state)
{
    (void)state;
    uint32_t length;
    struct wal_batch_header h;
    uint8_t *buf = encode(3, 1000, &length);
    struct wal_place p = place(length);
    assert_int_equal(length, 4096);
    uint32_t payload_end = 512 + 32 + 96 + 3000;
    for (uint32_t i = 0; i < length; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            buf[i] ^= (uint8_t)(1u << bit);
            enum wal_found found = rguard__wal_batch_check(buf, &p, &h);
            enum wal_found want = i < 256           ? WAL_GARBAGE
                                  : i < payload_end ? WAL_BODY_BAD
                                                    : WAL_VALID;
            if (found != want) {
                fail_msg("byte %u bit %u: %d", i, bit, (int)found);
            }
            if (i >= payload_end) {
                assert_false(rguard__wal_batch_padding_ok(buf, &h));
            }
            buf[i] ^= (uint8_t)(1u << bit);
        }
    }
    free(buf);
}

static void sectors_say_where_the_damage_is(void **state)
{
    (void)state;
    uint32_t length;
    struct wal_batch_header h;
    uint8_t *buf = encode(40, 3000, &length); /* the array takes the sectors 0 to 2 */
    struct wal_place p = place(length);
    uint32_t n = length / 512;
    uint8_t *states = malloc(n);
    uint8_t *copy = malloc(length);
    memcpy(copy, buf, length);
    assert_int_equal(rguard__wal_batch_check(buf, &p, &h), WAL_VALID);
    for (uint32_t bad = 0; bad < n; bad++) {
        for (int zeroed = 0; zeroed < 2; zeroed++) {
            bool padding = rguard__wal_is_zero(copy + bad * 512, 512);
            if (zeroed) {
                memset(buf + bad * 512, 0, 512);
            } else {
                buf[bad * 512 + 300] ^= 16;
            }
            rguard__wal_batch_sectors(buf, &h, states);
            uint32_t damaged = 0;
            for (uint32_t i = 0; i < n; i++) {
                damaged += states[i] == WAL_SECTOR_ZEROED || states[i] == WAL_SECTOR_ROTTEN;
            }
            bool in_array = bad * 512 + 300 < 512 + n * 4;
            if (padding && zeroed) {
                assert_int_equal(damaged, 0);
            } else if (zeroed) {
                assert_int_equal(states[bad], bad == 0 ? states[bad] : WAL_SECTOR_ZEROED);
            } else {
                /* A flipped entry accuses its own sector as well; nothing passes for a tear. */
                assert_true(damaged >= 1);
                assert_int_equal(states[in_array ? 0 : bad], WAL_SECTOR_ROTTEN);
            }
            memcpy(buf, copy, length);
        }
    }
    free(copy);
    free(states);
    free(buf);
}

static void headers(void **state)
{
    (void)state;
    struct wal_segment_header g = {.sequence = 3, .salt = 4, .first_lsn = 8192, .bytes = 65536};
    struct wal_segment_header back;
    struct wal_meta m = {.slot = 2, .generation = 5, .term = 7, .vote = 2};
    struct wal_meta meta;
    rguard__wal_segment_seal(&g);
    assert_int_equal(rguard__wal_segment_check(&g, &back), WAL_HEADER_OK);
    assert_memory_equal(&g, &back, sizeof g);
    rguard__wal_meta_seal(&m);
    assert_int_equal(rguard__wal_meta_check(&m, 2, &meta), WAL_HEADER_OK);
    assert_int_equal(rguard__wal_meta_check(&m, 3, &meta), WAL_HEADER_BAD); /* the wrong slot */
    for (size_t i = 0; i < sizeof m * 8; i++) {
        uint8_t *a = (uint8_t *)&g, *b = (uint8_t *)&m;
        a[i / 8] ^= (uint8_t)(1u << i % 8);
        b[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_int_equal(rguard__wal_segment_check(&g, &back), WAL_HEADER_BAD);
        assert_int_equal(rguard__wal_meta_check(&m, 2, &meta), WAL_HEADER_BAD);
        a[i / 8] ^= (uint8_t)(1u << i % 8);
        b[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    g.bytes = 5000; /* sealed nonsense */
    g.crc = 0;
    rguard__wal_segment_seal(&g);
    assert_int_equal(rguard__wal_segment_check(&g, &back), WAL_HEADER_BAD);
    memset(&g, 0, sizeof g);
    assert_int_equal(rguard__wal_segment_check(&g, &back), WAL_HEADER_ZERO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),
        cmocka_unit_test(encoded_is_valid_only_where_it_belongs),
        cmocka_unit_test(every_bit_of_a_batch_is_covered),
        cmocka_unit_test(sectors_say_where_the_damage_is),
        cmocka_unit_test(headers),
    };
    return cmocka_run_group_tests_name("wal_format", tests, NULL, NULL);
}
