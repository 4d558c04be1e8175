/* SPDX-License-Identifier: Apache-2.0 */
/* The catalogue: what can be injected, and which names are reserved for later versions. */
#include <string.h>

#include "converge.h"

const struct cv_fault cv_faults[] = {
    {"oob_write", CV_FAULT_MEMORY, "kv/apply", "1*overrun(16)", "leader, follower",
     "the engine stores 16 bytes past the end of a value while it applies a command"},
    {"double_free", CV_FAULT_MEMORY, "kv/apply", "1*double_free", "leader, follower",
     "the engine frees the slot of a value twice while it applies a command"},
    {"kill", CV_FAULT_PROCESS, NULL, NULL, "leader, follower",
     "SIGKILL; the supervisor starts the process again at once"},
    {0},
};

static const char *const reserved[] = {"oob_write",
                                       "oob_read",
                                       "use_after_free",
                                       "double_free",
                                       "canary_smash",
                                       "sealed_write",
                                       "undeclared_write",
                                       "stack_overflow",
                                       "bit_flip",
                                       "wild_pointer",
                                       "poison_entry",
                                       "abort",
                                       "kill",
                                       "hang",
                                       "torn_tail",
                                       "wal_bit_flip",
                                       "wal_zero_sector",
                                       "lost_write",
                                       "read_eio",
                                       "sync_eio",
                                       "misdirected_write",
                                       "no_space",
                                       "slow_disk",
                                       "partition",
                                       "meta_bit_flip",
                                       "snapshot_bit_flip",
                                       "partition_one_way",
                                       "delay",
                                       "drop",
                                       "duplicate",
                                       "message_bit_flip",
                                       "ctrl",
                                       "old_leader",
                                       "second_fault"};

static bool same(const char *a, const char *b, size_t len)
{
    return strlen(a) == len && memcmp(a, b, len) == 0;
}

const struct cv_fault *cv_fault_find(const char *name, size_t len)
{
    for (const struct cv_fault *f = cv_faults; f->name != NULL; f++) {
        if (same(f->name, name, len)) {
            return f;
        }
    }
    return NULL;
}

bool cv_fault_reserved(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++) {
        if (same(reserved[i], name, len)) {
            return true;
        }
    }
    return false;
}

const char *cv_system_name(int system)
{
    return system == CV_RAFTGUARD ? "raftguard" : "libraft";
}

const char *cv_role_name(int role)
{
    return role == CV_LEADER ? "leader" : "follower";
}
