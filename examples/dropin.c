/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest adoption: a replicated counter of one node. dropin DIR adds 1 and prints the sum. */
#include <errno.h>
#include <raftguard/raftlog.h>
#include <stdio.h>
#include <uv.h>

static rguard_replica *replica;

static int apply(void *sum, uint64_t index, const void *cmd, size_t len, void **result)
{
    (void)index, (void)len;
    rguard_touch(sum, sizeof(uint64_t)); /* about to be written: a fault from here on is undone */
    *(uint64_t *)sum += *(const unsigned char *)cmd;
    *result = sum;
    return 0;
}

static void applied(void *user, int status, void *sum, uint64_t index)
{
    (void)user;
    printf("entry %lu: %s, sum %lu\n", index, rguard_strerror(status), sum ? *(uint64_t *)sum : 0);
    rguard_replica_close(replica, NULL, NULL);
}

int main(int argc, char **argv)
{
    struct raft raft;
    struct rguard_peer self = {1, "127.0.0.1:9001"};
    struct rguard_arena_options memory = {sizeof memory, "sum", 1 << 16, RGUARD_SLOTS_GUARDED};
    rguard_arena *arena = NULL;
    uint64_t *sum = NULL;
    char why[256] = "";
    int rc = argc == 2 ? rguard_arena_create(&memory, &arena) : -EINVAL;
    rc = rc == 0 ? rguard_alloc(arena, sizeof *sum, (void **)&sum) : rc;
    if (rc == 0) {
        *sum = 0;
    }
    struct rguard_engine engine = {sizeof engine, sum, apply, NULL, NULL, NULL, &arena, 1};
    struct rguard_replica_options options = {.size = sizeof options,
                                             .raft = &raft,
                                             .loop = uv_default_loop(),
                                             .dir = argv[1],
                                             .id = 1,
                                             .address = self.address,
                                             .peers = &self,
                                             .n_peers = 1,
                                             .engine = &engine,
                                             .policy = RGUARD_POLICY_REWIND};
    rc = rc == 0 ? rguard_replica_open(&options, &replica, why, sizeof why) : rc;
    rc = rc == 0 ? rguard_replica_start(replica, why, sizeof why) : rc;
    rc = rc == 0 ? rguard_propose(replica, "\1", 1, applied, NULL) : rc;
    if (rc != 0) {
        return fprintf(stderr, "dropin DIR: %s\n", why[0] ? why : rguard_strerror(rc)), 1;
    }
    return uv_run(options.loop, UV_RUN_DEFAULT);
}
