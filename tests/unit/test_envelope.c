/* SPDX-License-Identifier: Apache-2.0 */
/* The envelope around a command: damage of any bit of it is found wherever it is checked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "shell.h"

#include <cmocka.h>

#define COMMAND 64u
#define BYTES   (RGUARD_ENVELOPE_BYTES + COMMAND)

static void fill(uint8_t envelope[BYTES])
{
    for (unsigned i = 0; i < COMMAND; i++) {
        envelope[RGUARD_ENVELOPE_BYTES + i] = (uint8_t)(i * 37 + 11);
    }
    rguard__envelope_write(envelope, envelope + RGUARD_ENVELOPE_BYTES, COMMAND);
}

static void test_intact(void **state)
{
    uint8_t bytes[BYTES];
    (void)state;
    fill(bytes);
    assert_int_equal(rguard__envelope_check(bytes, BYTES), 0);
    rguard__envelope_write(bytes, NULL, 0);
    assert_int_equal(rguard__envelope_check(bytes, RGUARD_ENVELOPE_BYTES), 0);
}

static unsigned flips_found(void)
{
    uint8_t bytes[BYTES];
    unsigned found = 0;
    fill(bytes);
    for (unsigned bit = 0; bit < BYTES * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        found += rguard__envelope_check(bytes, BYTES) == RGUARD_ECHECKSUM;
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    assert_int_equal(rguard__envelope_check(bytes, BYTES), 0);
    return found;
}

static void test_every_bit(void **state)
{
    (void)state;
    assert_int_equal(flips_found(), BYTES * 8);
}

static void test_every_bit_switched_off(void **state)
{
    (void)state;
    switch_off("envelope");
    unsigned found = flips_found();
    switch_on();
    assert_int_equal(found, 0);
}

/* A CRC32C finds every pair of flipped bits in so few; two anywhere in the envelope. */
static void test_pairs_of_bits(void **state)
{
    uint8_t bytes[BYTES];
    (void)state;
    fill(bytes);
    for (unsigned a = 0; a < BYTES * 8; a++) {
        bytes[a / 8] ^= (uint8_t)(1u << (a % 8));
        for (unsigned b = a + 1; b < BYTES * 8; b++) {
            bytes[b / 8] ^= (uint8_t)(1u << (b % 8));
            assert_int_equal(rguard__envelope_check(bytes, BYTES), RGUARD_ECHECKSUM);
            bytes[b / 8] ^= (uint8_t)(1u << (b % 8));
        }
        bytes[a / 8] ^= (uint8_t)(1u << (a % 8));
    }
}

/* Too short, too long, nothing but zeros, a neighbour's command under the own head. */
static void test_wrong_shape(void **state)
{
    uint8_t bytes[BYTES + 1] = {0}, other[BYTES];
    (void)state;
    for (size_t len = 0; len <= BYTES; len++) {
        assert_int_equal(rguard__envelope_check(bytes, len), RGUARD_ECHECKSUM);
    }
    fill(bytes);
    for (size_t len = 0; len <= BYTES + 1; len++) {
        assert_int_equal(rguard__envelope_check(bytes, len), len == BYTES ? 0 : RGUARD_ECHECKSUM);
    }
    fill(other);
    memset(other + RGUARD_ENVELOPE_BYTES, 'x', COMMAND);
    rguard__envelope_write(other, other + RGUARD_ENVELOPE_BYTES, COMMAND);
    assert_int_equal(rguard__envelope_check(other, BYTES), 0);
    memcpy(other + RGUARD_ENVELOPE_BYTES, bytes + RGUARD_ENVELOPE_BYTES, COMMAND);
    assert_int_equal(rguard__envelope_check(other, BYTES), RGUARD_ECHECKSUM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_intact),
        cmocka_unit_test(test_every_bit),
        cmocka_unit_test(test_every_bit_switched_off),
        cmocka_unit_test(test_pairs_of_bits),
        cmocka_unit_test(test_wrong_shape),
    };
    return cmocka_run_group_tests_name("envelope", tests, NULL, NULL);
}
