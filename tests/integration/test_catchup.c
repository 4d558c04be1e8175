/* SPDX-License-Identifier: Apache-2.0 */
/* Replicas that come back and have to catch up: one with a tail that nobody else has, one whose disk
 * has no room for the snapshot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster.h"
#include "lab.h"

static bool alike(struct cluster *c)
{
    return cluster_has_leader(c) && cluster_alike(c);
}

static void on_cancelled(void *user, int status, void *result, uint64_t index)
{
    unsigned *acked = user;
    (void)result;
    (void)index;
    *acked += status == 0;
}

#define COMMON 600u /* 2.4 MB: three frames, and the tail begins in none of the first two */
#define TAIL   25u

/* What all have in common is more than one frame, so that the leader's first frames end before the
 * tail does. libraft 0.15 takes the leader's whole commit index from each of them. */
static void test_old_leader_comes_back_with_a_tail(void **state)
{
    struct cluster c;
    unsigned acked = 0;
    (void)state;
    cluster_init(&c, 3);
    c.election_ms = 500;
    c.heartbeat_ms = 25;
    c.command_bytes = 4000;
    for (unsigned i = 0; i < 3; i++) {
        cluster_up(&c, i);
    }
    assert_true(cluster_until(&c, cluster_has_leader, 5000));
    assert_int_equal(cluster_write(&c, COMMON, 1), COMMON);
    assert_true(cluster_until(&c, alike, 5000));
    unsigned old = (unsigned)cluster_leader(&c), one = (old + 1) % 3, other = (old + 2) % 3;
    cluster_down(&c, one);
    cluster_down(&c, other);
    uint64_t last = cluster_info(&c, old).last_index;
    assert_int_equal(cluster_propose(&c, old, TAIL, 1000, on_cancelled, &acked), TAIL);
    cluster_run(&c, 100);
    assert_int_equal(cluster_info(&c, old).last_index, last + TAIL);
    assert_true(cluster_info(&c, old).applied_index <= last);
    cluster_down(&c, old);
    assert_int_equal(acked, 0);

    cluster_up(&c, one);
    cluster_up(&c, other);
    assert_true(cluster_until(&c, cluster_has_leader, 10000));
    assert_int_equal(cluster_write(&c, COMMON, 2), COMMON);
    for (int life = 0; life < 2; life++) {
        cluster_up(&c, old);
        assert_true(cluster_until(&c, alike, 10000));
        assert_int_equal(cluster_info(&c, old).violations, 0);
        cluster_down(&c, old);
    }
    cluster_destroy(&c);
}

#define BIG  2500u                /* 10 MB of values: the snapshot */
#define KEYS 9000u                /* far enough ahead for one */
#define DISK ((size_t)9216 << 10) /* room for segments of the log, not for the snapshot */

static size_t big_then_small(unsigned key)
{
    return key < BIG ? 4000 : 8;
}

static void put(const struct lab *l, int node, unsigned from, unsigned to, uint8_t *acked)
{
    int fd = lab_dial(l->nodes[node].port);
    for (unsigned key = from; key < to; key += 50) {
        REQUIRE(lab_set_many(fd, key, 50, big_then_small, acked) == 50);
    }
    close(fd);
}

/* libraft 0.15 empties its log before the snapshot is stored and takes the leader's next attempt for
 * done: what followed went behind the old end of the log, one shift away from what was acknowledged.
 * Afterwards the node that had no room is half of the majority, and then leads. */
static void test_no_room_for_the_snapshot(void **state)
{
    static uint8_t acked[KEYS + 100];
    (void)state;
    lab_make(&lab, "guarded");
    lab_start_all(&lab);
    int leader = lab_leader(&lab), full = (leader + 1) % LAB_NODES,
        third = (leader + 2) % LAB_NODES;
    put(&lab, leader, 0, 50, acked);
    lab_kill(&lab, full);
    put(&lab, leader, 50, KEYS, acked);

    lab_start(&lab, full);
    lab_limit_files(&lab, full, DISK);
    REQUIRE(lab_wait(lab.nodes[full].pid) == 128 + SIGABRT);
    lab.nodes[full].pid = 0;
    REQUIRE(lab_count_in_log(&lab, full, "not stored", "File too large") == 1);

    lab_start(&lab, full);
    lab_require_equal(&lab);
    lab_kill(&lab, third);
    put(&lab, lab_leader(&lab), KEYS, KEYS + 100, acked);
    lab_require_acked(&lab, acked, KEYS + 100, big_then_small);
    lab_kill(&lab, leader);
    lab_start(&lab, third);
    REQUIRE(lab_leader(&lab) == full); /* the third lacks the last hundred */
    lab_require_acked(&lab, acked, KEYS + 100, big_then_small);
    lab_start(&lab, leader);
    lab_require_equal(&lab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_old_leader_comes_back_with_a_tail),
        cmocka_unit_test_teardown(test_no_room_for_the_snapshot, lab_tear_down),
    };
    if (getenv("RGUARD_BIN") == NULL) {
        fputs("test_catchup: RGUARD_BIN: not set; run it by make test\n", stderr);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* also in the nodes */
    return cmocka_run_group_tests_name("catchup", tests, NULL, NULL);
}
