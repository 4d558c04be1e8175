/* SPDX-License-Identifier: Apache-2.0 */

/* The arena engine: against a model, against bad input, and in a window that is rolled back. */

#include "engine.h"

#include <errno.h>
#include <raftguard/failpoint.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct kv_engine *open_engine(void)
{
    struct kv_engine *e = NULL;
    assert_int_equal(kv_engine_open(NULL, &e), 0);
    return e;
}

static struct kv_slice text(const char *s)
{
    return (struct kv_slice){s, strlen(s)};
}

/* Encodes into a buffer of exactly the size, so that sanitizers see every step too far. */
static void *encode(enum kv_op op, const struct kv_slice *args, unsigned n, size_t *len)
{
    *len = kv_command_size(args, n);
    void *cmd = malloc(*len);
    assert_non_null(cmd);
    kv_command_encode(cmd, op, args, n);
    return cmd;
}

static void *apply(struct kv_engine *e, enum kv_op op, const struct kv_slice *args, unsigned n)
{
    size_t len;
    void *result = NULL;
    void *cmd = encode(op, args, n, &len);
    assert_int_equal(len % 8, 0);
    assert_int_equal(kv_engine_apply(e, 1, cmd, len, &result), 0);
    free(cmd);
    return result;
}

static enum kv_result_code set(struct kv_engine *e, struct kv_slice key, struct kv_slice value)
{
    const struct kv_slice args[] = {key, value};
    return kv_result_code(apply(e, KV_OP_SET, args, 2));
}

static uint64_t del(struct kv_engine *e, const char *key)
{
    const struct kv_slice args[] = {text(key)};
    void *result = apply(e, KV_OP_DEL, args, 1);
    assert_int_equal(kv_result_code(result), KV_COUNT);
    return kv_result_count(result);
}

static void expect(const struct kv_engine *e, const char *key, const char *value)
{
    struct kv_slice got = {0};
    bool there = kv_engine_get(e, key, strlen(key), &got);
    assert_int_equal(there, value != NULL);
    if (value != NULL) {
        assert_int_equal(got.len, strlen(value));
        assert_memory_equal(got.data, value, got.len);
    }
}

static void expect_honest_digest(struct kv_engine *e)
{
    assert_int_equal(kv_engine_digest(e), kv_engine_digest_memory(e));
}

static void test_commands(void **state)
{
    struct kv_engine *e = open_engine();
    struct kv_engine_stats stats;
    (void)state;
    assert_int_equal(set(e, text("a"), text("1")), KV_OK);
    assert_int_equal(set(e, text("b"), text("two")), KV_OK);
    assert_int_equal(set(e, text("a"), text("longer than before")), KV_OK);
    assert_int_equal(set(e, text(""), text("")), KV_OK);
    expect(e, "a", "longer than before");
    expect(e, "b", "two");
    expect(e, "", "");
    expect(e, "c", NULL);
    const struct kv_slice keys[] = {text("a"), text("nope"), text("b"), text("a")};
    assert_int_equal(kv_result_count(apply(e, KV_OP_DEL, keys, 4)), 2);
    expect(e, "a", NULL);
    kv_engine_stats(e, &stats);
    assert_int_equal(stats.keys, 1);
    assert_int_equal(stats.bytes, 0);
    assert_int_equal(stats.pages, 0);
    assert_int_equal(set(e, text("x"), text("y")), KV_OK);
    expect_honest_digest(e);
    assert_int_equal(kv_result_code(apply(e, KV_OP_FLUSH, NULL, 0)), KV_OK);
    assert_int_equal(kv_engine_digest(e), 0);
    expect_honest_digest(e);
    expect(e, "x", NULL);
    kv_engine_stats(e, &stats);
    assert_int_equal(stats.keys, 0);
    kv_engine_close(e);
}

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

#define MODEL_KEYS 50

/* Random commands against a plain array; digest and snapshot on the way. */
static void test_against_a_model(void **state)
{
    struct kv_engine *e = open_engine();
    struct kv_engine *copy = open_engine();
    static char values[MODEL_KEYS][9000];
    static char value[9000];
    uint64_t seed = 5;
    (void)state;
    for (int round = 0; round < 4000; round++) {
        char key[16];
        uint64_t k = next_random(&seed) % MODEL_KEYS, what = next_random(&seed) % 100;
        snprintf(key, sizeof key, "key%u", (unsigned)k);
        if (what < 70) {
            size_t len = 1 + next_random(&seed) % (next_random(&seed) % 10 == 0 ? 8998 : 60);
            memset(value, 'a' + (int)(next_random(&seed) % 26), len);
            value[len] = '\0';
            memcpy(values[k], value, len + 1);
            assert_int_equal(set(e, text(key), text(value)), KV_OK);
        } else if (what < 99) {
            assert_int_equal(del(e, key), values[k][0] != '\0');
            values[k][0] = '\0';
        } else if (round % 7 == 0) {
            apply(e, KV_OP_FLUSH, NULL, 0);
            memset(values, 0, sizeof values);
        }
        if (round % 200 == 0) {
            void *data = NULL;
            size_t len = 0;
            expect_honest_digest(e);
            assert_int_equal(kv_engine_snapshot(e, &data, &len), 0);
            assert_int_equal(len % 8, 0);
            assert_int_equal(kv_engine_restore(copy, data, len), 0);
            free(data);
            assert_int_equal(kv_engine_digest(copy), kv_engine_digest(e));
            expect_honest_digest(copy);
        }
    }
    for (unsigned k = 0; k < MODEL_KEYS; k++) {
        char key[16];
        snprintf(key, sizeof key, "key%u", k);
        expect(e, key, values[k][0] != '\0' ? values[k] : NULL);
    }
    kv_engine_close(copy);
    kv_engine_close(e);
}

/* Equal content, different past. */
static void test_digest_is_of_content(void **state)
{
    struct kv_engine *a = open_engine();
    struct kv_engine *b = open_engine();
    (void)state;
    set(a, text("k"), text("v"));
    set(a, text("l"), text("w"));
    set(b, text("l"), text("w2"));
    set(b, text("gone"), text("x"));
    set(b, text("k"), text("v"));
    del(b, "gone");
    assert_int_not_equal(kv_engine_digest(a), kv_engine_digest(b));
    set(b, text("l"), text("w"));
    assert_int_equal(kv_engine_digest(a), kv_engine_digest(b));
    set(a, text("kv"), text(""));
    set(b, text("k"), text("v")); /* "k" + "v" is not "kv" + "" */
    assert_int_not_equal(kv_engine_digest(a), kv_engine_digest(b));
    kv_engine_close(b);
    kv_engine_close(a);
}

static void test_limits_refuse(void **state)
{
    const struct kv_engine_limits limits = {.keys = 4, .pages = 3};
    struct kv_engine *e = NULL;
    char two_pages[4097] = "";
    struct kv_slice big = {two_pages, sizeof two_pages};
    (void)state;
    assert_int_equal(kv_engine_open(&limits, &e), 0);
    assert_int_equal(set(e, text("a"), big), KV_OK);
    assert_int_equal(set(e, text("b"), big), KV_FULL);
    assert_int_equal(set(e, text("b"), text("x")), KV_OK);
    assert_int_equal(set(e, text("c"), text("x")), KV_FULL);
    assert_int_equal(set(e, text("a"), big), KV_OK); /* in place of itself */
    assert_int_equal(set(e, text("c"), text("")), KV_OK);
    assert_int_equal(set(e, text("d"), text("")), KV_OK);
    assert_int_equal(set(e, text("e"), text("")), KV_TOO_MANY_KEYS);
    assert_int_equal(set(e, text("a"), text("x")), KV_OK);
    assert_int_equal(set(e, text("d"), text("x")), KV_OK);
    expect(e, "e", NULL);
    expect_honest_digest(e);
    kv_engine_close(e);
}

static void expect_malformed(struct kv_engine *e, const void *cmd, size_t len)
{
    void *copy = malloc(len != 0 ? len : 1);
    void *result = NULL;
    memcpy(copy, cmd, len);
    assert_int_equal(kv_engine_apply(e, 1, copy, len, &result), 0);
    assert_int_equal(kv_result_code(result), KV_MALFORMED);
    free(copy);
}

static void test_malformed_commands(void **state)
{
    struct kv_engine *e = open_engine();
    const struct kv_slice args[] = {text("key"), text("value")};
    size_t len;
    unsigned char *cmd = encode(KV_OP_SET, args, 2, &len);
    uint64_t seed = 3;
    (void)state;
    set(e, text("k"), text("v"));
    uint64_t before = kv_engine_digest(e);
    for (size_t cut = 0; cut < 24; cut++) { /* 24: the first byte of padding */
        expect_malformed(e, cmd, cut);
    }
    for (size_t i = 0; i < 8 + 4; i++) { /* headers: no value but the right one */
        unsigned char whole = cmd[i];
        for (int bit = 0; bit < 8; bit++) {
            cmd[i] = whole ^ (unsigned char)(1 << bit);
            expect_malformed(e, cmd, len);
        }
        cmd[i] = whole;
    }
    free(cmd);
    char long_key[KV_MAX_KEY + 1] = "";
    const struct kv_slice too_long[] = {{long_key, sizeof long_key}, text("v")};
    cmd = encode(KV_OP_SET, too_long, 2, &len);
    expect_malformed(e, cmd, len);
    free(cmd);
    assert_int_equal(kv_engine_digest(e), before);
    unsigned malformed = 0;
    for (int round = 0; round < 20000; round++) {
        unsigned char garbage[64];
        void *result = NULL;
        for (size_t i = 0; i < sizeof garbage; i++) {
            garbage[i] = (unsigned char)next_random(&seed);
        }
        garbage[0] = 1 + garbage[0] % 2;
        garbage[1] = 0;
        garbage[2] = garbage[2] % 3;
        garbage[3] = 0;
        garbage[4] = sizeof garbage;
        memset(garbage + 5, 0, 3);
        garbage[9] = garbage[10] = garbage[11] = 0;
        assert_int_equal(kv_engine_apply(e, 1, garbage, sizeof garbage, &result), 0);
        malformed += kv_result_code(result) == KV_MALFORMED;
        expect_honest_digest(e);
    }
    assert_true(malformed > 10000 && malformed < 20000); /* some are commands, by chance */
    kv_engine_close(e);
}

static void test_a_bad_snapshot_changes_nothing(void **state)
{
    struct kv_engine *from = open_engine();
    struct kv_engine *e = open_engine();
    void *data = NULL;
    size_t len = 0;
    (void)state;
    set(from, text("a"), text("some value"));
    set(from, text("b"), text("another"));
    set(e, text("mine"), text("kept"));
    assert_int_equal(kv_engine_snapshot(from, &data, &len), 0);
    for (size_t cut = 1; cut < len; cut++) {
        unsigned char *part = malloc(cut);
        memcpy(part, data, cut);
        assert_int_not_equal(kv_engine_restore(e, part, cut), 0);
        free(part);
    }
    unsigned char *bytes = data;
    size_t used = 32 + 2 * 8 + 1 + 10 + 1 + 7; /* behind it there is padding, which means nothing */
    for (size_t bit = 0; bit < used * 8; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        if (kv_engine_restore(e, data, len) == 0) {
            fail_msg("bit %zu was believed", bit);
        }
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        expect(e, "mine", "kept");
    }
    assert_int_equal(kv_engine_restore(e, data, len), 0);
    expect(e, "mine", NULL);
    expect(e, "a", "some value");
    assert_int_equal(kv_engine_restore(e, NULL, 0), 0);
    expect(e, "a", NULL);
    assert_int_equal(kv_engine_digest(e), 0);
    free(data);
    kv_engine_close(e);
    kv_engine_close(from);
}

/* A bit that flips in memory: the two digests part, and no snapshot carries it away. */
static void test_a_flip_shows(void **state)
{
    struct kv_engine *e = open_engine();
    struct kv_slice value = {0};
    void *data = NULL;
    size_t len = 0;
    (void)state;
    set(e, text("k"), text("value"));
    assert_true(kv_engine_get(e, "k", 1, &value));
    unsigned char *stored = (unsigned char *)(uintptr_t)value.data;
    stored[2] ^= 1;
    assert_int_not_equal(kv_engine_digest(e), kv_engine_digest_memory(e));
    assert_int_equal(kv_engine_snapshot(e, &data, &len), RGUARD_ECHECKSUM);
    del(e, "k"); /* the difference stays: what was applied since is not proven right */
    assert_int_not_equal(kv_engine_digest(e), 0);
    kv_engine_close(e);
}

/* ---- in a window: each in a process of its own, because cmocka keeps SIGSEGV ----------------- */

struct entry
{
    struct kv_engine *engine;
    void *cmd;
    size_t len;
    void *result;
};

static int run_entry(void *user)
{
    struct entry *entry = user;
    return kv_engine_apply(entry->engine, 7, entry->cmd, entry->len, &entry->result);
}

enum outcome { ROLLED_BACK = 0, COMMITTED = 1, DAMAGED = 2, WRONG = 3 };

/* cmocka's asserts would go on with the next test, in the child as well. */
static bool holds(const struct kv_engine *e, const char *key, const char *value)
{
    struct kv_slice got = {0};
    return kv_engine_get(e, key, strlen(key), &got) && got.len == strlen(value) &&
           memcmp(got.data, value, got.len) == 0;
}

/* SET b in a window while @spec is armed on kv/apply. */
static int apply_with_fault(const char *spec, const char *off, uint32_t kind)
{
    struct kv_engine *e = NULL;
    rguard_window *w = NULL;
    struct rguard_violation v = {0};
    const struct kv_slice args[] = {text("b"), text("new")};
    struct rguard_window_options options = {.size = sizeof options};
    if (off != NULL) {
        setenv("RGUARD_TEST_OFF", off, 1);
    }
    if (rguard_guard_init(NULL) != 0 || kv_engine_open(NULL, &e) != 0) {
        return WRONG;
    }
    options.arenas = kv_engine_arenas(e, &options.n_arenas);
    set(e, text("a"), text("1"));
    set(e, text("b"), text("old"));
    uint64_t before = kv_engine_digest(e);
    if (rguard_window_create(&options, &w) != 0 || rguard_fp_set("kv/apply", spec, NULL) != 0) {
        return WRONG;
    }
    struct entry entry = {.engine = e};
    entry.cmd = encode(KV_OP_SET, args, 2, &entry.len);
    int rc = rguard_window_run(w, 3, 7, run_entry, &entry, &v);
    if (rc == 0) {
        return kv_engine_digest(e) == kv_engine_digest_memory(e) ? COMMITTED : DAMAGED;
    }
    if (rc != RGUARD_EVIOLATION || v.kind != kind || v.class_ != RGUARD_CLASS_PRECISE ||
        v.index != 7 || kv_engine_digest(e) != before || kv_engine_digest_memory(e) != before) {
        return DAMAGED;
    }
    if (!holds(e, "b", "old")) {
        return DAMAGED;
    }
    rguard_fp_off_all();
    rc = rguard_window_run(w, 3, 7, run_entry, &entry, &v); /* the same entry again */
    return rc == 0 && holds(e, "b", "new") && kv_engine_digest(e) == kv_engine_digest_memory(e)
               ? ROLLED_BACK
               : WRONG;
}

/* DEL and FLUSH touch the most; an abort must bring all of it back. */
static int run_and_cancel(void *user)
{
    int rc = run_entry(user);
    return rc != 0 ? rc : -ECANCELED;
}

static int cancel_every_command(const char *off)
{
    struct rguard_window_options options = {.size = sizeof options};
    struct rguard_violation v;
    struct kv_engine *e = NULL;
    rguard_window *w = NULL;
    const struct kv_slice args[] = {text("1"), text("2"), text("3")};
    struct
    {
        enum kv_op op;
        unsigned n;
    } commands[] = {{KV_OP_FLUSH, 0}, {KV_OP_DEL, 3}, {KV_OP_SET, 2}};
    if (off != NULL) {
        setenv("RGUARD_TEST_OFF", off, 1);
    }
    if (kv_engine_open(NULL, &e) != 0) {
        return WRONG;
    }
    options.arenas = kv_engine_arenas(e, &options.n_arenas);
    if (rguard_window_create(&options, &w) != 0) {
        return WRONG;
    }
    for (unsigned i = 0; i < 500; i++) {
        char key[16];
        snprintf(key, sizeof key, "%u", i);
        set(e, text(key), text(key));
    }
    uint64_t before = kv_engine_digest(e);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        struct entry entry = {.engine = e};
        struct kv_engine_stats stats;
        entry.cmd = encode(commands[i].op, args, commands[i].n, &entry.len);
        int rc = rguard_window_run(w, 1, 1, run_and_cancel, &entry, &v);
        kv_engine_stats(e, &stats);
        if (rc != -ECANCELED || kv_engine_digest(e) != before ||
            kv_engine_digest_memory(e) != before || stats.keys != 500 || !holds(e, "1", "1")) {
            return DAMAGED;
        }
        free(entry.cmd);
    }
    rguard_window_destroy(w);
    kv_engine_close(e);
    return ROLLED_BACK;
}

/* @spec NULL: the commands are cancelled instead. The outcome, or 100 + the signal. */
static int in_child(const char *spec, const char *off, uint32_t kind)
{
    int status = 0;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(spec != NULL ? apply_with_fault(spec, off, kind) : cancel_every_command(off));
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static void test_an_overrun_is_rolled_back(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* ASan reports first and ends the process */
#endif
    assert_int_equal(in_child("overrun(1)", NULL, RGUARD_V_SLOT_GUARD), ROLLED_BACK);
    assert_int_equal(in_child("overrun(64)", NULL, RGUARD_V_SLOT_GUARD), ROLLED_BACK);
}

static void test_a_double_free_is_rolled_back(void **state)
{
    (void)state;
    assert_int_equal(in_child("double_free", NULL, RGUARD_V_DOUBLE_FREE), ROLLED_BACK);
}

static void test_a_flip_is_stored_and_digested(void **state)
{
    (void)state;
    assert_int_equal(in_child("bitflip", NULL, RGUARD_V_NONE), COMMITTED);
}

/* Without its detector each fault goes through. */
static void test_detectors_off(void **state)
{
    (void)state;
#ifdef RGUARD_TESTING
    assert_int_not_equal(in_child("overrun(1)", "guard_pages", RGUARD_V_SLOT_GUARD), ROLLED_BACK);
    assert_int_not_equal(in_child("double_free", "double_free", RGUARD_V_DOUBLE_FREE), ROLLED_BACK);
    assert_int_not_equal(in_child(NULL, "undo", RGUARD_V_NONE), ROLLED_BACK);
#else
    skip();
#endif
}

static void test_every_command_can_be_undone(void **state)
{
    (void)state;
    assert_int_equal(in_child(NULL, NULL, RGUARD_V_NONE), ROLLED_BACK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commands),
        cmocka_unit_test(test_against_a_model),
        cmocka_unit_test(test_digest_is_of_content),
        cmocka_unit_test(test_limits_refuse),
        cmocka_unit_test(test_malformed_commands),
        cmocka_unit_test(test_a_bad_snapshot_changes_nothing),
        cmocka_unit_test(test_a_flip_shows),
        cmocka_unit_test(test_an_overrun_is_rolled_back),
        cmocka_unit_test(test_a_double_free_is_rolled_back),
        cmocka_unit_test(test_a_flip_is_stored_and_digested),
        cmocka_unit_test(test_detectors_off),
        cmocka_unit_test(test_every_command_can_be_undone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
