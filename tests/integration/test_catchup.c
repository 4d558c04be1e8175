/* SPDX-License-Identifier: Apache-2.0 */
/* Replicas that come back and have to catch up: one with a tail that nobody else has, one whose disk
 * has no room for the snapshot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cluster.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_old_leader_comes_back_with_a_tail),
    };
    return cmocka_run_group_tests_name("catchup", tests, NULL, NULL);
}
