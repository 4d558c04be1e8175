/* SPDX-License-Identifier: Apache-2.0 */
/* Twenty seconds of everything at once: three rguard-kv under load are killed, stopped, ended and
 * started again, hurt in memory and on disk, one fault after the other, several at a time.
 *
 * Invariant: what was acknowledged is there afterwards, the three hold the same, their memory is what
 * their digests say, and no process ended for a reason that was not given to it.
 *
 * RGUARD_TEST_SEED picks another run. The seed decides on which faults come in which order; the
 * machine decides what they meet. */
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lab.h"

#define SEED    20260101u
#define SECONDS 20
#define WRITERS 4
#define RATE    650    /* keys a second: a table of which the whole memory is digested */
#define KEYS    14000u /* all of it */

struct life
{
    bool stopped, may_abort, was_told_to_go; /* since its start */
    double until;                            /* stopped, or gone, until then */
};

static struct
{
    uint64_t random;
    double began;
    struct life nodes[LAB_NODES];
    unsigned faults, deaths;
    pthread_t writers[WRITERS];
    unsigned n_writers;
    atomic_bool stop;
    atomic_uint next; /* key */
    uint8_t acked[KEYS];
} t;

/* splitmix64 */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static unsigned pick(unsigned n)
{
    return (unsigned)(draw(&t.random) % n);
}

/* ---- load ------------------------------------------------------------------------------------ */

static size_t value_bytes(unsigned key)
{
    static const size_t lengths[] = {8, 40, 200, 700};
    return lengths[key % 4];
}

/* Unique keys, one pipeline at a time, at whoever takes them; what had no answer is not repeated. */
static void *write_keys(void *arg)
{
    uint64_t random = (uintptr_t)arg;
    int fd = -1;
    while (!t.stop) {
        unsigned n = 1u << draw(&random) % 5;
        if (t.next + n > KEYS || t.next + n > RATE * (lab_now() - t.began)) {
            lab_nap();
            continue;
        }
        fd = fd >= 0 ? fd : lab_dial(lab.nodes[draw(&random) % LAB_NODES].port);
        if (fd < 0) {
            lab_nap();
            continue;
        }
        unsigned first = atomic_fetch_add(&t.next, n);
        if (first + n > KEYS || lab_set_many(fd, first, n, value_bytes, t.acked) < (int)n) {
            close(fd);
            fd = -1;
            lab_nap();
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return NULL;
}

static void stop_writers(void)
{
    t.stop = true;
    while (t.n_writers > 0) {
        pthread_join(t.writers[--t.n_writers], NULL);
    }
}

/* ---- faults ---------------------------------------------------------------------------------- */

enum kind { KILL, STOP, TERM, SITE };

static const struct fault
{
    enum kind kind;
    unsigned weight;
    const char *site, *program;
} faults[] = {
    {KILL, 4, "kill", "-9"},
    {STOP, 4, "stop", "and continue"},
    {TERM, 2, "term", "and start"},
    {SITE, 2, "kv/apply", "1*overrun(16)"},
    {SITE, 2, "kv/apply", "1*double_free"},
    {SITE, 2, "raftlog/reelect", "1*return(1)"},
    {SITE, 2, "raftlog/rollback", "1*return(1)"},
    {SITE, 1, "wal/write", "1*errno(EIO)"},
};

#define N_FAULTS (sizeof faults / sizeof faults[0])

static const struct fault *pick_fault(void)
{
    unsigned sum = 0, at = 0;
    for (size_t i = 0; i < N_FAULTS; i++) {
        sum += faults[i].weight;
    }
    unsigned n = pick(sum);
    while (n >= faults[at].weight) {
        n -= faults[at++].weight;
    }
    return &faults[at];
}

static bool is_up(int i)
{
    return lab.nodes[i].pid > 0 && !t.nodes[i].stopped;
}

static bool says(int i, const char *name, const char *value)
{
    char text[32];
    return is_up(i) && lab_info(&lab, i, name, text, sizeof text) && strcmp(text, value) == 0;
}

/* Any node, and as often the leader. */
static int pick_node(void)
{
    int node = (int)pick(LAB_NODES);
    if (pick(2) == 0) {
        for (int i = 0; i < LAB_NODES; i++) {
            node = says(i, "role", "leader") ? i : node;
        }
    }
    return node;
}

static void strike(const struct fault *f, int i)
{
    struct life *n = &t.nodes[i];
    /* Until it listens, SIGTERM ends it as any process; a second one ends it at once. */
    if (!is_up(i) || (f->kind == TERM && (n->was_told_to_go || !says(i, "raft", "guarded")))) {
        return;
    }
    printf("# %5.2f node %d: %s %s\n", lab_now() - t.began, i + 1, f->site, f->program);
    t.faults++;
    switch (f->kind) {
        case KILL:
            n->was_told_to_go = true;
            kill(lab.nodes[i].pid, SIGKILL);
            break;
        case STOP:
            n->stopped = true;
            n->until = lab_now() + 0.05 * (1 + pick(20));
            kill(lab.nodes[i].pid, SIGSTOP);
            break;
        case TERM:
            n->was_told_to_go = true;
            kill(lab.nodes[i].pid, SIGTERM);
            break;
        case SITE:
        default:
            n->may_abort = n->may_abort || strcmp(f->site, "wal/write") == 0;
            lab_try_arm(&lab, i, f->site, f->program); /* it may be on its way out */
            break;
    }
}

/* ---- a supervisor ---------------------------------------------------------------------------- */

static void reap(int i)
{
    struct life *n = &t.nodes[i];
    int status;
    if (lab.nodes[i].pid == 0 || waitpid(lab.nodes[i].pid, &status, WNOHANG) == 0) {
        return;
    }
    bool abort_ = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && n->may_abort;
    bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && n->was_told_to_go;
    bool ended = WIFEXITED(status) && WEXITSTATUS(status) == 0 && n->was_told_to_go;
    lab.nodes[i].pid = 0;
    if (!abort_ && !killed && !ended) {
        lab_fail("node %d ended with status 0x%x", i + 1, (unsigned)status);
    }
    *n = (struct life){.until = lab_now() + 0.01 * pick(80)};
    t.deaths++;
}

/* Continues, starts again, and restarts a node whose engine failed an entry twice: two faults that
 * waited at two sites, here; somebody mends the engine, elsewhere. */
static void supervise(bool at_once)
{
    for (int i = 0; i < LAB_NODES; i++) {
        struct life *n = &t.nodes[i];
        reap(i);
        if (lab_now() < n->until && !at_once) {
            continue;
        }
        if (lab.nodes[i].pid == 0) {
            lab_start(&lab, i);
        } else if (n->stopped) {
            n->stopped = false;
            kill(lab.nodes[i].pid, SIGCONT);
        } else if (says(i, "ladder", "poisoned")) {
            strike(&faults[TERM], i);
        }
    }
}

static bool all_agree(void)
{
    char text[LAB_NODES][2][32];
    for (int i = 0; i < LAB_NODES; i++) {
        if (!says(i, "ladder", "serving") ||
            !lab_info(&lab, i, "digest", text[i][0], sizeof text[i][0]) ||
            !lab_info(&lab, i, "applied_index", text[i][1], sizeof text[i][1]) ||
            strcmp(text[i][0], text[0][0]) != 0 || strcmp(text[i][1], text[0][1]) != 0) {
            return false;
        }
    }
    return true;
}

static void heal(void)
{
    for (int i = 0; i < LAB_NODES; i++) {
        for (size_t f = 0; f < N_FAULTS; f++) {
            supervise(true);
            if (faults[f].kind == SITE) {
                lab_try_arm(&lab, i, faults[f].site, "off");
            }
        }
    }
    for (double end = lab_now() + LAB_PATIENCE_S; !all_agree(); lab_nap()) {
        REQUIRE(lab_now() < end);
        supervise(true);
    }
}

/* ---- the case -------------------------------------------------------------------------------- */

static void start_torture(void)
{
    const char *seed = getenv("RGUARD_TEST_SEED");
    t.random = seed != NULL ? strtoull(seed, NULL, 0) : SEED;
    printf("# RGUARD_TEST_SEED=%" PRIu64 "\n", t.random);
    lab_make(&lab, "guarded");
    lab_start_all(&lab);
    lab_leader(&lab);
    t.began = lab_now();
    for (; t.n_writers < WRITERS; t.n_writers++) {
        void *random = (void *)(uintptr_t)draw(&t.random);
        assert_int_equal(pthread_create(&t.writers[t.n_writers], NULL, write_keys, random), 0);
    }
}

/* The digest of memory and the one that was kept differ exactly when memory changed behind the
 * engine's back; every abort was for its disk. */
static void require_sound(int i)
{
    char memory[32], kept[32];
    REQUIRE(says(i, "digest_source", "memory"));
    REQUIRE(lab_info(&lab, i, "digest", memory, sizeof memory));
    REQUIRE(lab_info(&lab, i, "digest_incremental", kept, sizeof kept));
    REQUIRE(strcmp(memory, kept) == 0);
    int for_its_disk = lab_count_in_log(&lab, i, "the process ends", "its storage failed") +
                       lab_count_in_log(&lab, i, "the process ends", "could not be stored");
    REQUIRE(lab_count_in_log(&lab, i, "the process ends", "") == for_its_disk);
}

static void test_torture(void **state)
{
    static const unsigned pauses_ms[] = {20, 100, 250, 600};
    unsigned acked = 0;
    (void)state;
    start_torture();
    while (lab_now() < t.began + SECONDS) {
        double pause = lab_now() + pauses_ms[pick(4)] / 1e3;
        for (; lab_now() < pause; lab_nap()) {
            supervise(false);
        }
        const struct fault *f = pick_fault();
        strike(f, pick_node());
    }
    stop_writers();
    heal();
    lab_require_acked(&lab, t.acked, KEYS, value_bytes);
    lab_require_equal(&lab);
    for (int i = 0; i < LAB_NODES; i++) {
        require_sound(i);
    }
    for (unsigned k = 0; k < KEYS; k++) {
        acked += t.acked[k];
    }
    printf("# %u faults, %u deaths, %u of %u keys acknowledged\n", t.faults, t.deaths, acked,
           (unsigned)t.next);
    assert_true(t.faults >= 20 && t.deaths >= 5 && acked >= 1000); /* else it proved nothing */
}

static int tear_down(void **state)
{
    stop_writers();
    return lab_tear_down(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_torture, tear_down),
    };
    if (getenv("RGUARD_BIN") == NULL) {
        fputs("test_torture: RGUARD_BIN: not set; run it by make test\n", stderr);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests_name("torture", tests, NULL, NULL);
}
