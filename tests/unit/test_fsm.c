/* SPDX-License-Identifier: Apache-2.0 */
/* raft_fsm around an engine that says no: to an entry once (a new process may do better), to the
 * same entry again (it is poison: quiet, intact, nothing is applied any more), to a snapshot. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "shell.h"

#include <cmocka.h>

#define TERM    5u
#define INDEX   7u
#define COMMAND "a command"
#define BYTES   (RGUARD_ENVELOPE_BYTES + sizeof COMMAND)

struct node
{
    struct shell s;
    char dir[128];
    unsigned applied, restored;
    int answer; /* the engine's */
    uint8_t bytes[BYTES];
};

/* ---- life ------------------------------------------------------------------------------------ */

static int engine_apply(void *user, uint64_t index, const void *cmd, size_t len, void **result)
{
    struct node *n = user;
    (void)result;
    assert_int_equal(index, n->s.raft.last_applied + 1);
    assert_int_equal(len, sizeof COMMAND);
    assert_string_equal(cmd, COMMAND);
    n->applied++;
    return n->answer;
}

static int engine_restore(void *user, const void *data, size_t len)
{
    struct node *n = user;
    (void)data;
    (void)len;
    n->restored++;
    return n->answer;
}

/* A follower whose next entry to apply is INDEX; the one after it is in the log, too. */
static void start(struct node *n)
{
    shell_init(&n->s, 1, 3);
    for (unsigned i = 0; i < INDEX + 1; i++) {
        shell_append(&n->s, TERM, true);
    }
    n->s.raft.last_applied = INDEX - 1;
    shell_follow(&n->s, 2, TERM);
    n->s.rep.engine = (struct rguard_engine){.size = sizeof n->s.rep.engine,
                                             .user = n,
                                             .apply = engine_apply,
                                             .restore = engine_restore};
    assert_int_equal(rguard__disk_open(n->dir, "sync", &n->s.rep.disk), 0);
    assert_int_equal(rguard__handover_open(&n->s.rep), 0);
    rguard__fsm_init(&n->s.rep);
}

static void stop(struct node *n)
{
    n->s.rep.disk->ops->destroy(n->s.rep.disk);
    shell_fini(&n->s);
}

static int setup(void **state)
{
    struct node *n = calloc(1, sizeof *n);
    const char *tmp = getenv("TMPDIR");
    *state = n;
    snprintf(n->dir, sizeof n->dir, "%s/rguard-fsm-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(n->dir) == NULL) {
        return -1;
    }
    memcpy(n->bytes + RGUARD_ENVELOPE_BYTES, COMMAND, sizeof COMMAND);
    rguard__envelope_write(n->bytes, COMMAND, sizeof COMMAND);
    start(n);
    return 0;
}

static int teardown(void **state)
{
    struct node *n = *state;
    char command[160];
    stop(n);
    snprintf(command, sizeof command, "rm -rf '%s'", n->dir);
    int rv = system(command);
    free(n);
    return rv;
}

/* As after a new start of the process in the same directory. */
static void restart(struct node *n)
{
    stop(n);
    start(n);
}

/* As libraft does it: the index is counted up when the entry was applied. */
static int apply(struct node *n)
{
    struct raft_buffer buf = {n->bytes, sizeof n->bytes};
    void *result;
    int rv = n->s.rep.fsm.apply(&n->s.rep.fsm, &buf, &result);
    if (rv == 0) {
        n->s.raft.last_applied++;
    }
    return rv;
}

static void apply_in_child(void *user)
{
    _exit(apply(user) == 0 ? 0 : 1);
}

/* The engine refuses INDEX; the process ends, as it must. */
static void refuse_once(struct node *n)
{
    char text[1024];
    n->answer = -ENOSPC;
    assert_true(died_of(forked(apply_in_child, n, text, sizeof text), SIGABRT));
    assert_non_null(strstr(text, "engine cannot apply entry 7"));
    restart(n);
}

/* ---- an entry -------------------------------------------------------------------------------- */

static void test_first_refusal_is_noted(void **state)
{
    struct node *n = *state;
    assert_int_equal(n->s.rep.retry_count, 0);
    refuse_once(n);
    assert_int_equal(n->s.rep.retry_index, INDEX);
    assert_int_equal(n->s.rep.retry_count, 1);
    assert_int_equal(n->s.rep.ladder, RGUARD_LADDER_SERVING);
}

static void test_second_refusal_is_poison(void **state)
{
    struct node *n = *state;
    refuse_once(n);
    n->applied = 0;
    assert_int_equal(apply(n), RAFT_SHUTDOWN);
    assert_int_equal(n->applied, 1);
    assert_int_equal(n->s.rep.ladder, RGUARD_LADDER_POISONED);
    assert_true(n->s.rep.muted);
    assert_non_null(strstr(n->s.log, "entry 7 of term 5 failed 2 times"));
    n->answer = 0; /* too late in this process */
    n->s.raft.last_applied++;
    assert_int_equal(apply(n), RAFT_SHUTDOWN);
    assert_int_equal(n->applied, 1);
    n->s.raft.last_applied--;
    restart(n);
    assert_int_equal(n->s.rep.retry_count, 2);
}

/* A leader steps down before it falls silent, and does not start an election about it again. */
static void test_poison_on_a_leader(void **state)
{
    struct node *n = *state;
    uint8_t datagram[512];
    refuse_once(n);
    shell_lead(&n->s, TERM);
    rguard__handover_lead(&n->s.rep);
    assert_int_equal(apply(n), RAFT_SHUTDOWN);
    assert_int_equal(n->s.n_got, 1);
    assert_int_equal(n->s.got[0].type, RAFT_IO_APPEND_ENTRIES_RESULT);
    assert_int_equal(n->s.got[0].append_entries_result.term, TERM + 1);
    assert_int_equal(n->s.rep.ladder, RGUARD_LADDER_POISONED);
    assert_int_equal(fake_channel_datagram(&n->s.net, 2, datagram, sizeof datagram), 0);
}

/* The engine was mended, or the disk has room again: the note goes. */
static void test_mended_engine(void **state)
{
    struct node *n = *state;
    refuse_once(n);
    n->answer = 0;
    assert_int_equal(apply(n), 0);
    assert_int_equal(n->s.rep.retry_count, 0);
    n->s.raft.last_applied--;
    restart(n);
    assert_int_equal(n->s.rep.retry_count, 0);
    refuse_once(n); /* and counting begins anew */
    assert_int_equal(n->s.rep.retry_count, 1);
}

/* What is noted is one entry. Another one that is refused has its own first time. */
static void test_another_entry_is_not_the_same(void **state)
{
    struct node *n = *state;
    refuse_once(n);
    n->answer = 0;
    assert_int_equal(apply(n), 0);
    n->answer = -ENOSPC;
    char text[1024];
    assert_true(died_of(forked(apply_in_child, n, text, sizeof text), SIGABRT));
    assert_non_null(strstr(text, "engine cannot apply entry 8"));
    n->s.raft.last_applied--;
    restart(n);
    assert_int_equal(n->s.rep.retry_index, INDEX + 1);
    assert_int_equal(n->s.rep.retry_count, 1);
}

/* A damaged note is no note: the engine is asked again, and nothing is poisoned by rumour. */
static void test_damaged_note(void **state)
{
    struct node *n = *state;
    char path[192];
    refuse_once(n);
    snprintf(path, sizeof path, "%s/poison", n->dir);
    FILE *f = fopen(path, "r+e");
    assert_non_null(f);
    assert_int_equal(fseek(f, 9, SEEK_SET), 0);
    assert_int_equal(fputc(0x55, f), 0x55);
    fclose(f);
    restart(n);
    assert_int_equal(n->s.rep.retry_count, 0);
}

/* ---- a snapshot ------------------------------------------------------------------------------ */

static void restore_in_child(void *user)
{
    struct node *n = user;
    struct raft_buffer buf = {raft_malloc(4), 4};
    int rv = n->s.rep.fsm.restore(&n->s.rep.fsm, &buf);
    if (rv != 0) {
        raft_free(buf.base); /* as libraft does */
    }
    _exit(rv == 0 ? 0 : rv == RAFT_MALFORMED ? 1 : 2);
}

static int status_of_restore(struct node *n, bool started, char text[1024])
{
    n->s.rep.started = started;
    return forked(restore_in_child, n, text, 1024);
}

/* At a start libraft reports it. Later it would go on with a log that the state does not fit. */
static void test_snapshot_that_cannot_be_restored(void **state)
{
    struct node *n = *state;
    char text[1024];
    assert_int_equal(status_of_restore(n, true, text), 0);
    n->answer = -EINVAL;
    assert_true(died_of(status_of_restore(n, true, text), SIGABRT));
    assert_non_null(strstr(text, "a snapshot from the leader cannot be restored"));
    int status = status_of_restore(n, false, text);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    assert_non_null(strstr(text, "engine refused the snapshot"));
}

int main(void)
{
#define FSM_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        FSM_TEST(test_first_refusal_is_noted),
        FSM_TEST(test_second_refusal_is_poison),
        FSM_TEST(test_poison_on_a_leader),
        FSM_TEST(test_mended_engine),
        FSM_TEST(test_another_entry_is_not_the_same),
        FSM_TEST(test_damaged_note),
        FSM_TEST(test_snapshot_that_cannot_be_restored),
    };
    return cmocka_run_group_tests_name("fsm", tests, NULL, NULL);
}
