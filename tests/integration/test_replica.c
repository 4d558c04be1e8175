/* SPDX-License-Identifier: Apache-2.0 */
/* Three real replicas in one process: election, replication, restart, snapshots, and the way of one
 * fault. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <raftguard/failpoint.h>
#include <raftguard/wal.h>

#include "cluster.h"

static bool alike(struct cluster *c)
{
    return cluster_has_leader(c) && cluster_alike(c);
}

static void up_all(struct cluster *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        cluster_up(c, i);
    }
}

static void down_all(struct cluster *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        cluster_down(c, i);
    }
}

static void start_all(struct cluster *c, unsigned n)
{
    cluster_init(c, n);
    up_all(c);
    assert_true(cluster_until(c, cluster_has_leader, 5000));
}

static void test_single_node(void **state)
{
    struct cluster c;
    (void)state;
    start_all(&c, 1);
    assert_int_equal(cluster_write(&c, 20, 1), 20);
    cluster_down(&c, 0);
    cluster_up(&c, 0);
    assert_true(cluster_until(&c, alike, 3000));
    cluster_destroy(&c);
}

static void test_replicates_and_restarts(void **state)
{
    struct cluster c;
    (void)state;
    start_all(&c, 3);
    assert_int_equal(cluster_write(&c, 300, 7), 300);
    assert_true(cluster_until(&c, alike, 3000));
    uint64_t digest = cluster_info(&c, 0).digest;
    down_all(&c);
    up_all(&c);
    assert_true(cluster_until(&c, alike, 5000));
    assert_true(cluster_info(&c, 1).digest == digest);
    assert_int_equal(cluster_write(&c, 10, 8), 10);
    cluster_destroy(&c);
}

static unsigned old_leader;

static bool another_leads(struct cluster *c)
{
    int l = cluster_leader(c);
    return l >= 0 && l != (int)old_leader;
}

/* With a timeout of 1.5 s only a notice can explain a new leader within 0.7 s. */
static void test_clean_close_hands_over(void **state)
{
    struct cluster c;
    (void)state;
    cluster_init(&c, 3);
    c.election_ms = 1500;
    c.heartbeat_ms = 50;
    up_all(&c);
    assert_true(cluster_until(&c, cluster_has_leader, 30000));
    cluster_write(&c, 10, 3);
    old_leader = (unsigned)cluster_leader(&c);
    cluster_down(&c, old_leader);
    assert_true(cluster_until(&c, another_leads, 700));
    assert_int_equal(cluster_info(&c, (unsigned)cluster_leader(&c)).elections_by_notice, 1);
    assert_int_equal(cluster_write(&c, 10, 3), 10);
    cluster_destroy(&c);
}

/* Arms a site that all nodes of this process share; the first apply of the next entry is the
 * leader's. */
static void fault_on_leader(const char *site, const char *program, unsigned violations)
{
    struct cluster c;
    start_all(&c, 3);
    assert_int_equal(cluster_write(&c, 50, 5), 50);
    assert_true(cluster_until(&c, alike, 3000));
    old_leader = (unsigned)cluster_leader(&c);
    assert_int_equal(rguard_fp_set(site, program, NULL), 0);
    cluster_write(&c, 1, 9);
    assert_true(cluster_until(&c, another_leads, 1000));
    assert_true(cluster_until(&c, alike, 3000));
    struct rguard_replica_info info = cluster_info(&c, old_leader);
    assert_int_equal(info.violations, violations);
    assert_int_equal(info.rewinds, violations);
    assert_int_equal(info.notices_sent, 1);
    assert_int_equal(info.ladder, RGUARD_LADDER_SERVING);
    assert_int_equal(cluster_write(&c, 20, 5), 20);
    assert_true(cluster_until(&c, alike, 3000));
    rguard_fp_off_all();
    cluster_destroy(&c);
}

static void test_overrun_on_leader(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* ASan reports the store before it traps, and ends the process: asan-ci/ judges that */
#endif
    fault_on_leader("test/apply", "1*overrun(8)", 1);
}

static void test_double_free_on_leader(void **state)
{
    (void)state;
    fault_on_leader("test/apply", "1*double_free", 1);
}

static void test_rollback_site(void **state)
{
    (void)state;
    fault_on_leader("raftlog/rollback", "1*return(1)", 1);
}

static void test_reelect_site(void **state)
{
    (void)state;
    fault_on_leader("raftlog/reelect", "1*return(1)", 0);
}

/* A lagging follower is brought back by a snapshot; a restart loads snapshot and log. */
static void test_snapshots(void **state)
{
    struct cluster c;
    (void)state;
    cluster_init(&c, 3);
    c.snapshot_threshold = 50;
    c.snapshot_trailing = 10;
    up_all(&c);
    assert_true(cluster_until(&c, cluster_has_leader, 5000));
    unsigned lagging = ((unsigned)cluster_leader(&c) + 1) % 3;
    cluster_down(&c, lagging);
    for (int k = 0; k < 10; k++) {
        cluster_write(&c, 50, 2);
    }
    cluster_up(&c, lagging);
    assert_true(cluster_until(&c, alike, 10000));
    assert_true(c.nodes[lagging].engine.restored >= 1);
    down_all(&c);
    up_all(&c);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(c.nodes[i].engine.restored, 1);
    }
    assert_true(cluster_until(&c, alike, 5000));
    cluster_destroy(&c);
}

static void on_read(void *user, int status)
{
    struct cluster *c = user;
    c->read_done = true;
    c->read_status = status;
}

static bool read_done(struct cluster *c)
{
    return c->read_done;
}

static void test_reads(void **state)
{
    struct cluster c;
    (void)state;
    start_all(&c, 3);
    unsigned l = (unsigned)cluster_leader(&c);
    assert_int_equal(rguard_read_barrier(c.nodes[(l + 1) % 3].rep, on_read, &c), RGUARD_ENOTLEADER);
    assert_int_equal(rguard_read_barrier(c.nodes[l].rep, on_read, &c), 0);
    assert_true(cluster_until(&c, read_done, 2000));
    assert_int_equal(c.read_status, 0);
    /* Alone, a leader cannot answer. */
    cluster_down(&c, (l + 1) % 3);
    cluster_down(&c, (l + 2) % 3);
    c.read_done = false;
    if (rguard_read_barrier(c.nodes[l].rep, on_read, &c) == 0) {
        assert_true(cluster_until(&c, read_done, 3000));
        assert_int_not_equal(c.read_status, 0);
    }
    cluster_destroy(&c);
}

static int failed_write_child(const char *site)
{
    struct cluster c;
    start_all(&c, 3);
    cluster_write(&c, 10, 1);
    char config[96]; /* the election writes metadata, the proposals append */
    snprintf(config, sizeof config, "%s=1*errno(EIO);raftlog/reelect=1*return(1)", site);
    if (rguard_fp_configure(config, NULL) != 0) {
        return 3;
    }
    cluster_write(&c, 10, 1);
    cluster_run(&c, 2000);
    return 0; /* not reached: the replica whose write failed ends the process */
}

/* D1, D2: a replica whose log failed does not go on as if nothing had happened. */
static void failed_write(const char *site)
{
    char dir[] = "/tmp/rguard-failed-XXXXXX";
    char cmd[64];
    int status;
    assert_non_null(mkdtemp(dir)); /* what the child cannot clean up is removed with it */
    pid_t pid = fork();
    if (pid == 0) {
        setenv("TMPDIR", dir, 1);
        if (getenv("RGUARD_TEST_VERBOSE") == NULL) {
            close(STDERR_FILENO);
        }
        signal(SIGABRT, SIG_DFL);
        _exit(failed_write_child(site));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    assert_int_equal(system(cmd), 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT) {
        fail_msg("%s: child ended with status 0x%x", site, (unsigned)status);
    }
}

static void test_failed_append_ends_the_process(void **state)
{
    (void)state;
    failed_write("wal/append");
}

static void test_failed_write_ends_the_process(void **state)
{
    (void)state;
    failed_write("wal/write");
}

static void test_failed_metadata_ends_the_process(void **state)
{
    (void)state;
    failed_write("wal/meta");
}

/* ---- an engine that cannot ------------------------------------------------------------------- */

static void on_refused(void *user, int status, void *result, uint64_t index)
{
    (void)user;
    (void)status;
    (void)result;
    (void)index;
}

static bool is_poisoned(struct cluster *c, unsigned i)
{
    return cluster_info(c, i).ladder == RGUARD_LADDER_POISONED;
}

static bool majority_is_poisoned(struct cluster *c)
{
    return is_poisoned(c, 0) + is_poisoned(c, 1) + is_poisoned(c, 2) >= 2;
}

/* Nobody leads, nobody campaigns, nothing is served, and the entry is still in the log. */
static void assert_silence(struct cluster *c)
{
    struct rguard_replica_info before[3];
    for (unsigned i = 0; i < 3; i++) {
        before[i] = cluster_info(c, i);
    }
    cluster_run(c, 1000);
    assert_int_equal(cluster_leader(c), -1);
    for (unsigned i = 0; i < 3; i++) {
        struct rguard_replica_info after = cluster_info(c, i);
        assert_int_equal(after.term, before[i].term);
        assert_int_equal(after.last_index, before[i].last_index);
        if (is_poisoned(c, i)) {
            assert_int_equal(after.role, RGUARD_ROLE_CONTAINED);
            assert_true(after.last_index > after.applied_index);
            assert_int_equal(cluster_propose(c, i, 1, 1, on_refused, NULL), 0);
        }
    }
}

/* One life of the process: until the first refusal of some replica's engine ends it, or two of the
 * three have refused twice. */
static void refusing_child(struct cluster *c, bool propose)
{
    if (getenv("RGUARD_TEST_VERBOSE") == NULL) {
        close(STDERR_FILENO);
    }
    signal(SIGABRT, SIG_DFL);
    uv_loop_init(&c->loop); /* the parent's is the parent's */
    up_all(c);
    if (propose) {
        assert_true(cluster_until(c, cluster_has_leader, 5000));
        cluster_write(c, 5, 1);
        rguard_propose(c->nodes[cluster_leader(c)].rep, "bad", 3, on_refused, NULL);
    }
    assert_true(cluster_until(c, majority_is_poisoned, 8000));
    assert_silence(c);
    down_all(c);
    _exit(0);
}

/* Every replica's engine refuses the same entry: each ends its process once, and no more. Then there
 * is silence, with the log intact, and the replicas can be closed. */
static void test_shared_engine_bug_ends_in_silence(void **state)
{
    struct cluster c;
    int status = 0, deaths = 0;
    (void)state;
    cluster_init(&c, 3);
    for (;; deaths++) {
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            refusing_child(&c, deaths == 0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || deaths == 3) {
            break;
        }
    }
    assert_int_equal(status, 0);
    assert_in_range(deaths, 1, 3);
    cluster_destroy(&c);
}

/* ---- what a crash leaves, what a callback does ----------------------------------------------- */

/* Killed after term 1 was written and before the first entry was. */
static void test_bootstrap_cut_short(void **state)
{
    struct cluster c;
    struct rguard_wal_options options = {.size = sizeof options, .node_id = 1};
    struct rguard_wal_report report = {.size = sizeof report};
    rguard_wal *wal;
    (void)state;
    cluster_init(&c, 1);
    assert_int_equal(rguard_wal_open(c.nodes[0].dir, &options, &wal, &report), 0);
    assert_int_equal(rguard_wal_meta_set(wal, 1, 0), 0);
    assert_int_equal(rguard_wal_close(wal), 0);
    cluster_up(&c, 0);
    assert_true(cluster_until(&c, cluster_has_leader, 3000));
    assert_int_equal(cluster_write(&c, 5, 1), 5);
    cluster_destroy(&c);
}

struct again
{
    rguard_replica *rep;
    unsigned answered, tried;
    int refusal;
};

/* A client library that repeats at once what was lost. */
static void on_lost(void *user, int status, void *result, uint64_t index)
{
    struct again *a = user;
    (void)result;
    (void)index;
    a->answered++;
    if (status != 0 && a->tried < 4) {
        uint64_t value = 9;
        a->tried++;
        a->refusal = rguard_propose(a->rep, &value, sizeof value, on_lost, a);
    }
}

/* The quorum is gone and the leader steps down: libraft fails its requests while it still calls
 * itself the leader, but has freed what a leader needs. */
static void test_proposal_from_a_callback(void **state)
{
    struct cluster c;
    (void)state;
    start_all(&c, 3);
    unsigned l = (unsigned)cluster_leader(&c);
    struct again a = {.rep = c.nodes[l].rep};
    cluster_write(&c, 10, 1);
    cluster_down(&c, (l + 1) % 3);
    cluster_down(&c, (l + 2) % 3);
    assert_int_equal(cluster_propose(&c, l, 5, 1, on_lost, &a), 5);
    cluster_run(&c, 1000);
    assert_int_equal(a.answered, 5);
    assert_int_equal(a.tried, 4);
    assert_int_equal(a.refusal, RGUARD_ENOTLEADER);
    cluster_destroy(&c);
}

static void test_sigpipe_is_ignored(void **state)
{
    struct cluster c;
    struct sigaction sa;
    (void)state;
    signal(SIGPIPE, SIG_DFL);
    start_all(&c, 1);
    assert_int_equal(sigaction(SIGPIPE, NULL, &sa), 0);
    assert_ptr_equal(sa.sa_handler, SIG_IGN);
    cluster_destroy(&c);
}

static void test_bad_options(void **state)
{
    struct cluster c;
    char err[256];
    rguard_replica *rep = NULL;
    (void)state;
    start_all(&c, 1);
    struct rguard_engine engine = c.nodes[0].engine.engine;
    engine.n_arenas = 0;
    cluster_down(&c, 0);
    struct rguard_replica_options o = {.size = sizeof o,
                                       .raft = &c.nodes[0].raft,
                                       .loop = &c.loop,
                                       .dir = c.nodes[0].dir,
                                       .id = 2,
                                       .address = c.nodes[0].address,
                                       .engine = &engine};
    engine.digest = NULL;
    assert_int_equal(rguard_replica_open(&o, &rep, err, sizeof err), RGUARD_EFOREIGN);
    assert_non_null(strstr(err, "1"));
    o.id = 1;
    o.address = "10.0.0.1:7000";
    assert_int_equal(rguard_replica_open(&o, &rep, err, sizeof err), RGUARD_EREFUSED);
    o.address = "127.0.0.1:nonsense";
    assert_int_equal(rguard_replica_open(&o, &rep, err, sizeof err), -EINVAL);
    o.address = c.nodes[0].address;
    o.dir = "/nonexistent/raftguard";
    assert_int_equal(rguard_replica_open(&o, &rep, err, sizeof err), -ENOENT);
    assert_null(rep);
    cluster_destroy(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_node),
        cmocka_unit_test(test_replicates_and_restarts),
        cmocka_unit_test(test_clean_close_hands_over),
        cmocka_unit_test(test_overrun_on_leader),
        cmocka_unit_test(test_double_free_on_leader),
        cmocka_unit_test(test_rollback_site),
        cmocka_unit_test(test_reelect_site),
        cmocka_unit_test(test_snapshots),
        cmocka_unit_test(test_reads),
        cmocka_unit_test(test_failed_append_ends_the_process),
        cmocka_unit_test(test_failed_write_ends_the_process),
        cmocka_unit_test(test_failed_metadata_ends_the_process),
        cmocka_unit_test(test_shared_engine_bug_ends_in_silence),
        cmocka_unit_test(test_bootstrap_cut_short),
        cmocka_unit_test(test_proposal_from_a_callback),
        cmocka_unit_test(test_sigpipe_is_ignored),
        cmocka_unit_test(test_bad_options),
    };
    return cmocka_run_group_tests_name("replica", tests, NULL, NULL);
}
