/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-wal-compare: seven faults on fully synced logs, libraft's own disk and ours, one table.
 *
 *     for each fault, for each product, in a directory of its own:
 *         child: write the history, vanish      what was acknowledged
 *         damage                                one fault
 *         child: start again                    what it has, and what it says about it
 *
 * Invariant: a cell is what a real process did in this run. SILENT means that it started, told its
 * caller nothing, and does not have what it had acknowledged. The first row is the control: nothing
 * happened, so whoever loses or reports something there is not being measured, and the run fails. */
#include "compare.h"

#include <raftguard/version.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum code { CODE_DONE = 0, CODE_FAILED = 1, CODE_USAGE = 64, CODE_INTERRUPTED = 130 };

#define CHILD_SECONDS 30

static const struct
{
    const char *key, *text;
} faults[FAULTS] = {[FAULT_NONE] = {"none", "none (control)"},
                    [FAULT_BIT] = {"bit", "one bit flipped, middle of the open segment"},
                    [FAULT_BLOCK] = {"block", "one 4 KiB block zeroed, same place"},
                    [FAULT_COUNT] = {"count", "length or count field of a batch made huge"},
                    [FAULT_SWAP] = {"swap", "two neighbouring batches swapped"},
                    [FAULT_CLOSED] = {"closed", "one bit flipped, middle of a closed segment"},
                    [FAULT_META_BITS] = {"meta_bits", "one bit of term and one of vote flipped"},
                    [FAULT_META_CUT] = {"meta_cut", "newest metadata file cut to 20 bytes"}};

struct outcome
{
    struct state before, after;
    bool ran, silent;
};

static const struct product *const products[] = {&product_raft_uv, &product_raftguard};
#define PRODUCTS 2

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signo)
{
    (void)signo;
    interrupted = 1;
}

static int run_all(struct outcome outcomes[FAULTS][PRODUCTS]);
static int print(struct outcome outcomes[FAULTS][PRODUCTS], bool json);

static int usage(FILE *to)
{
    (void)fprintf(
        to,
        "usage: rguard-wal-compare [--json]\n"
        "\n"
        "Damages logs in which every record was synced and acknowledged, in seven ways,\n"
        "starts libraft's own disk (raft_uv, defaults) and raftguard's log on them, and\n"
        "says what is left and who was told. Works below $TMPDIR (/tmp), leaves nothing.\n"
        "\n"
        "      --json      one JSON object instead of the table\n"
        "  -h, --help      this text\n"
        "      --version   version\n"
        "\n"
        "exit: 0 everything could be run, 1 something could not, 64 bad usage\n");
    return to == stdout ? CODE_DONE : CODE_USAGE;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {"version", no_argument, NULL, 'v'},
                                          {NULL, 0, NULL, 0}};
    static struct outcome outcomes[FAULTS][PRODUCTS];
    const struct sigaction stop = {.sa_handler = on_interrupt};
    bool json = false;
    int opt;
    while ((opt = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        switch (opt) {
            case 'j':
                json = true;
                break;
            case 'h':
                return usage(stdout);
            case 'v':
                (void)printf("rguard-wal-compare %s\n", rguard_version());
                return CODE_DONE;
            default:
                return usage(stderr);
        }
    }
    if (optind != argc) {
        return usage(stderr);
    }
    (void)sigaction(SIGINT, &stop, NULL);
    (void)sigaction(SIGTERM, &stop, NULL);
    int code = run_all(outcomes);
    if (interrupted) {
        return CODE_INTERRUPTED;
    }
    if (print(outcomes, json) != 0) {
        (void)fprintf(stderr, "rguard-wal-compare: standard output: %s\n", strerror(errno));
        code = CODE_FAILED;
    }
    return code;
}

/* ---- running ---- */

static int complain(const char *product, enum fault fault, const char *what, const char *why)
{
    if (!interrupted) {
        (void)fprintf(stderr, "rguard-wal-compare: %s, %s: %s: %s\n", product, faults[fault].key,
                      what, why);
    }
    return -1;
}

/* Runs one step of a product in a process of its own, which ends without ceremony. A death is a
 * result, and so is a step that takes too long: SIGALRM ends it. */
static int in_child(const struct product *p, const char *dir, enum fault fault, bool write_it,
                    struct state *out)
{
    int fds[2], status;
    if (pipe2(fds, O_CLOEXEC) != 0) {
        return -errno;
    }
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        struct state s = {0};
        (void)alarm(CHILD_SECONDS);
        (void)signal(SIGTERM, SIG_DFL);
        (void)signal(SIGINT, SIG_DFL);
        int rc = write_it ? p->write(dir, fault, &s) : p->reopen(dir, &s);
        ssize_t n = write(fds[1], &s, sizeof s);
        _exit(rc != 0 || n != (ssize_t)sizeof s);
    }
    (void)close(fds[1]);
    ssize_t n = -1;
    if (pid > 0) {
        do {
            n = read(fds[0], out, sizeof *out);
        } while (n < 0 && errno == EINTR && !interrupted);
        if (interrupted) {
            (void)kill(pid, SIGKILL);
        }
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        }
    }
    (void)close(fds[0]);
    if (pid < 0 || interrupted) {
        return pid < 0 ? -EAGAIN : -EINTR;
    }
    if (n != (ssize_t)sizeof *out) {
        *out = (struct state){0};
    }
    if (WIFSIGNALED(status)) {
        out->signal = WTERMSIG(status);
        return 0;
    }
    return WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static bool same(const struct state *a, const struct state *b)
{
    return b->last == a->last && b->wrong == 0 && b->term == a->term && b->vote == a->vote;
}

static int run_one(const struct product *p, const char *dir, enum fault fault, struct outcome *o)
{
    int rc = in_child(p, dir, fault, true, &o->before);
    if (rc != 0 || o->before.signal != 0 || o->before.last != RECORDS) {
        return complain(p->name, fault, "cannot write the history", o->before.said);
    }
    rc = p->damage(dir, fault);
    if (rc != 0) {
        return complain(p->name, fault, "cannot do the damage", strerror(-rc));
    }
    rc = in_child(p, dir, fault, false, &o->after);
    if (rc != 0) {
        return complain(p->name, fault, "cannot start it again", o->after.said);
    }
    bool up = o->after.rc == 0 && o->after.signal == 0;
    o->silent = up && !o->after.told && !same(&o->before, &o->after);
    o->ran = true;
    if (fault == FAULT_NONE && (!up || o->after.told || o->silent || !o->after.serves)) {
        return complain(p->name, fault, "not whole although nothing happened", o->after.said);
    }
    return 0;
}

static void remove_dir(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    while (d != NULL && (entry = readdir(d)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            (void)unlinkat(dirfd(d), entry->d_name, 0);
        }
    }
    if (d != NULL) {
        (void)closedir(d);
    }
    (void)rmdir(dir);
}

static void progress(const char *what)
{
    if (isatty(STDERR_FILENO)) {
        (void)fprintf(stderr, what != NULL ? "\r\033[K%s" : "\r\033[K", what);
    }
}

static int run_all(struct outcome outcomes[FAULTS][PRODUCTS])
{
    const char *tmp = getenv("TMPDIR");
    int code = CODE_DONE;
    for (enum fault f = FAULT_NONE; f < FAULTS; f++) {
        for (size_t i = 0; i < PRODUCTS && !interrupted; i++) {
            char dir[256], what[128];
            (void)snprintf(what, sizeof what, "%s: %s", products[i]->name, faults[f].text);
            progress(what);
            (void)snprintf(dir, sizeof dir, "%s/rguard-compare-XXXXXX", tmp != NULL ? tmp : "/tmp");
            if (mkdtemp(dir) == NULL) {
                (void)complain(products[i]->name, f, dir, strerror(errno));
                return CODE_FAILED;
            }
            if (run_one(products[i], dir, f, &outcomes[f][i]) != 0) {
                code = CODE_FAILED;
            }
            remove_dir(dir);
        }
    }
    progress(NULL);
    return code;
}

/* ---- printing ---- */

static void describe(const struct state *a, const struct state *b, char *text, size_t len)
{
    if (b->rc != 0 && b->damage_first != 0 && b->damage_first == b->damage_last) {
        (void)snprintf(text, len, "refuses: %s, record %" PRIu64, b->verdict, b->damage_first);
    } else if (b->rc != 0 && b->damage_first != 0) {
        (void)snprintf(text, len, "refuses: %s, records %" PRIu64 " to %" PRIu64, b->verdict,
                       b->damage_first, b->damage_last);
    } else if (b->rc != 0) {
        (void)snprintf(text, len, "refuses: %s", b->verdict[0] != '\0' ? b->verdict : b->said);
    } else if (b->term != a->term) {
        (void)snprintf(text, len,
                       "starts, term %" PRIu64 " -> %" PRIu64 ", vote %" PRIu64 " -> %" PRIu64,
                       a->term, b->term, a->vote, b->vote);
    } else if (b->vote != a->vote) {
        (void)snprintf(text, len, "starts, vote %" PRIu64 " -> %" PRIu64, a->vote, b->vote);
    } else if (b->wrong != 0) {
        (void)snprintf(text, len, "starts, record %" PRIu64 " is another", b->wrong);
    } else {
        (void)snprintf(text, len, "starts");
    }
}

static void cell(const struct outcome *o, char *text, size_t len)
{
    char what[160];
    if (!o->ran) {
        (void)snprintf(text, len, "could not be run");
    } else if (o->after.signal != 0) {
        (void)snprintf(text, len, "dies: %s", strsignal(o->after.signal));
    } else {
        describe(&o->before, &o->after, what, sizeof what);
        (void)snprintf(text, len, "%s; last %" PRIu64 " -> %" PRIu64 "; %s%s", what, o->before.last,
                       o->after.last, o->after.told ? "told" : "not told",
                       o->silent ? ": SILENT" : "");
    }
}

static size_t count_silent(struct outcome outcomes[FAULTS][PRODUCTS], size_t product)
{
    size_t n = 0;
    for (int f = FAULT_NONE + 1; f < FAULTS; f++) {
        n += outcomes[f][product].silent;
    }
    return n;
}

/* A table that also is one in Markdown. */
static void print_table(struct outcome outcomes[FAULTS][PRODUCTS])
{
    char cells[FAULTS][PRODUCTS][256];
    size_t width[PRODUCTS];
    for (size_t i = 0; i < PRODUCTS; i++) {
        width[i] = strlen(products[i]->title);
        for (int f = 0; f < FAULTS; f++) {
            cell(&outcomes[f][i], cells[f][i], sizeof cells[f][i]);
            size_t n = strlen(cells[f][i]);
            width[i] = n > width[i] ? n : width[i];
        }
    }
    (void)printf("| %-44s | %-*s | %-*s |\n", "fault", (int)width[0], products[0]->title,
                 (int)width[1], products[1]->title);
    (void)printf("|---|---|---|\n");
    for (int f = 0; f < FAULTS; f++) {
        (void)printf("| %-44s | %-*s | %-*s |\n", faults[f].text, (int)width[0], cells[f][0],
                     (int)width[1], cells[f][1]);
    }
    (void)printf(
        "\nsilent losses: libraft %zu of %d, raftguard %zu of %d (%u records of %u bytes, "
        "all synced)\n",
        count_silent(outcomes, 0), FAULTS - 1, count_silent(outcomes, 1), FAULTS - 1, RECORDS,
        RECORD_SIZE);
}

static void json_text(const char *text)
{
    (void)putchar('"');
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c >= 0x7f) {
            (void)printf("\\u%04x", c);
        } else {
            (void)printf(c == '"' || c == '\\' ? "\\%c" : "%c", c);
        }
    }
    (void)putchar('"');
}

static void json_outcome(const char *name, const struct outcome *o)
{
    const struct state *a = &o->before, *b = &o->after;
    (void)printf(
        ",\n    \"%s\": {\"ran\": %s, \"silent\": %s, \"told\": %s, \"serves\": %s, "
        "\"rc\": %d, \"signal\": %d,\n      \"last_before\": %" PRIu64 ", \"last_after\": %" PRIu64
        ", \"term_before\": %" PRIu64 ", \"term_after\": %" PRIu64 ", \"vote_before\": %" PRIu64
        ", \"vote_after\": %" PRIu64 ",\n      \"first_wrong\": %" PRIu64
        ", \"damage_first_index\": %" PRIu64 ", \"damage_last_index\": %" PRIu64 ", \"verdict\": ",
        name, o->ran ? "true" : "false", o->silent ? "true" : "false", b->told ? "true" : "false",
        b->serves ? "true" : "false", b->rc, b->signal, a->last, b->last, a->term, b->term, a->vote,
        b->vote, b->wrong, b->damage_first, b->damage_last);
    json_text(b->verdict);
    (void)printf(", \"message\": ");
    json_text(b->said);
    (void)printf("}");
}

static void print_json(struct outcome outcomes[FAULTS][PRODUCTS])
{
    (void)printf(
        "{\"records\": %u, \"record_size\": %u, \"of\": %d, \"libraft_silent\": %zu, "
        "\"raftguard_silent\": %zu,\n \"faults\": [",
        RECORDS, RECORD_SIZE, FAULTS - 1, count_silent(outcomes, 0), count_silent(outcomes, 1));
    for (int f = 0; f < FAULTS; f++) {
        (void)printf("%s\n   {\"fault\": \"%s\", \"text\": ", f > 0 ? "," : "", faults[f].key);
        json_text(faults[f].text);
        for (size_t i = 0; i < PRODUCTS; i++) {
            json_outcome(products[i]->name, &outcomes[f][i]);
        }
        (void)printf("}");
    }
    (void)printf("\n ]}\n");
}

static int print(struct outcome outcomes[FAULTS][PRODUCTS], bool json)
{
    if (json) {
        print_json(outcomes);
    } else {
        print_table(outcomes);
    }
    return fflush(stdout) != 0 || ferror(stdout) ? -1 : 0;
}
