/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-converge: the command line, the order of the runs, the exit code.
 *
 * Rows are (system, fault, role). Round by round every row gets one run, in an order that the seed
 * decides, so that a slow minute of the machine hurts all of them alike. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <raftguard/version.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "converge.h"

#define EX_USAGE   64
#define MAX_REDONE 5u /* in a row, for one run */

__attribute__((format(printf, 1, 2), noreturn)) static void usage_error(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("rguard-converge: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputs("\nrguard-converge --help lists the options\n", stderr);
    va_end(ap);
    exit(EX_USAGE);
}

/* ---- options --------------------------------------------------------------------------------- */

static const char help[] =
    "usage: rguard-converge [options]\n"
    "Runs real clusters of rguard-kv, injects faults, times convergence and judges it.\n\n"
    "  --fault NAME[,NAME...]|all  what to inject (--list); default all\n"
    "  --role leader|follower|both where; default leader\n"
    "  --runs N                    runs of each row, default 12\n"
    "  --nodes N                   3 to 7, default 3\n"
    "  --engine arena              state machine of rguard-kv\n"
    "  --election MS               election timeout, default 150\n"
    "  --heartbeat MS              default 15\n"
    "  --seed S                    decides keys, jitter, victims and order; default random\n"
    "  --baseline none|libraft|all the same engine on libraft without raftguard, interleaved\n"
    "  --handover gasp|timeout     timeout: a failing leader tells nobody\n"
    "  --out DIR                   report.html, report.txt, run.json; default build/converge\n"
    "  --keep                      keep the data of every run, not only of failed ones\n"
    "  --json                      print run.json instead of the table\n"
    "  --list                      print the faults and stop\n"
    "  --help, --version\n\n"
    "rguard-kv is taken from RGUARD_KV or from the directory of this program.\n"
    "exit: 0 every raftguard run correct, 3 a process died that should not, 4 no convergence in\n"
    "time, 5 unsafe, 64 usage, 1 could not run, 130 interrupted\n";

static void list_faults(FILE *to)
{
    for (const struct cv_fault *f = cv_faults; f->name != NULL; f++) {
        fprintf(to, "%-14s %-18s %s\n", f->name, f->roles, f->description);
    }
}

static void parse_faults(struct cv_options *o, const char *text)
{
    o->n_faults = 0;
    if (strcmp(text, "all") == 0) {
        for (const struct cv_fault *f = cv_faults; f->name != NULL; f++) {
            o->faults[o->n_faults++] = f;
        }
        return;
    }
    for (const char *p = text;; p++) {
        size_t len = strcspn(p, ",");
        const struct cv_fault *f = cv_fault_find(p, len);
        if (f == NULL || o->n_faults == sizeof o->faults / sizeof *o->faults) {
            fprintf(stderr, "rguard-converge: --fault: '%.*s' is %s; known:\n", (int)len, p,
                    cv_fault_reserved(p, len) ? "not offered by this version" : "no fault");
            list_faults(stderr);
            exit(EX_USAGE);
        }
        for (size_t i = 0; i < o->n_faults; i++) {
            if (o->faults[i] == f) {
                usage_error("--fault: '%s' is named twice", f->name);
            }
        }
        o->faults[o->n_faults++] = f;
        p += len;
        if (*p == '\0') {
            return;
        }
    }
}

static uint64_t parse_number(const char *option, const char *text, int base, uint64_t low,
                             uint64_t high)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, base);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || v < low || v > high) {
        usage_error("--%s: '%s' is not a number from %" PRIu64 " to %" PRIu64, option, text, low,
                    high);
    }
    return v;
}

static bool one_of(const char *option, const char *text, const char *a, const char *b)
{
    if (strcmp(text, a) != 0 && strcmp(text, b) != 0) {
        usage_error("--%s: '%s' is neither %s nor %s", option, text, a, b);
    }
    return strcmp(text, b) == 0;
}

static void parse_role(struct cv_options *o, const char *text)
{
    bool both = strcmp(text, "both") == 0;
    o->roles[CV_LEADER] = both || strcmp(text, "leader") == 0;
    o->roles[CV_FOLLOWER] = both || strcmp(text, "follower") == 0;
    if (!o->roles[CV_LEADER] && !o->roles[CV_FOLLOWER]) {
        usage_error("--role: '%s' is none of leader, follower, both", text);
    }
}

static void parse_baseline(struct cv_options *o, const char *text)
{
    if (strcmp(text, "etcd") == 0) {
        usage_error("--baseline: etcd is not offered by this version; none, libraft or all");
    }
    o->baseline_libraft = strcmp(text, "libraft") == 0 || strcmp(text, "all") == 0;
    if (!o->baseline_libraft && strcmp(text, "none") != 0) {
        usage_error("--baseline: '%s' is none of none, libraft, etcd, all", text);
    }
}

static void parse_engine(struct cv_options *o, const char *text)
{
    if (strcmp(text, "lmdb") == 0) {
        usage_error("--engine: lmdb is not offered by this version; arena");
    }
    if (strcmp(text, "arena") != 0) {
        usage_error("--engine: '%s' is neither arena nor lmdb", text);
    }
    o->engine = "arena";
}

static void parse_one(struct cv_options *o, int which, const char *arg)
{
    switch (which) {
        case 'f':
            parse_faults(o, arg);
            break;
        case 'r':
            parse_role(o, arg);
            break;
        case 'n':
            o->runs = (unsigned)parse_number("runs", arg, 10, 1, 1000000);
            break;
        case 'N':
            o->nodes = (unsigned)parse_number("nodes", arg, 10, 3, CV_MAX_NODES);
            break;
        case 'e':
            parse_engine(o, arg);
            break;
        case 'E':
            o->election_ms = (unsigned)parse_number("election", arg, 10, 20, 60000);
            break;
        case 'H':
            o->heartbeat_ms = (unsigned)parse_number("heartbeat", arg, 10, 1, 20000);
            break;
        case 's':
            o->seed = parse_number("seed", arg, 0, 0, UINT64_MAX);
            break;
        case 'b':
            parse_baseline(o, arg);
            break;
        case 'h':
            o->timeout_handover = one_of("handover", arg, "gasp", "timeout");
            break;
        case 'o':
            o->out = arg;
            break;
        case 'k':
            o->keep = true;
            break;
        case 'j':
            o->json = true;
            break;
        default:
            usage_error("unknown option or missing argument");
    }
}

static const struct option long_options[] = {{"fault", required_argument, NULL, 'f'},
                                             {"role", required_argument, NULL, 'r'},
                                             {"runs", required_argument, NULL, 'n'},
                                             {"nodes", required_argument, NULL, 'N'},
                                             {"engine", required_argument, NULL, 'e'},
                                             {"election", required_argument, NULL, 'E'},
                                             {"heartbeat", required_argument, NULL, 'H'},
                                             {"seed", required_argument, NULL, 's'},
                                             {"baseline", required_argument, NULL, 'b'},
                                             {"handover", required_argument, NULL, 'h'},
                                             {"out", required_argument, NULL, 'o'},
                                             {"keep", no_argument, NULL, 'k'},
                                             {"json", no_argument, NULL, 'j'},
                                             {"list", no_argument, NULL, 'l'},
                                             {"help", no_argument, NULL, '?'},
                                             {"version", no_argument, NULL, 'v'},
                                             {0}};

static void parse(struct cv_options *o, int argc, char **argv)
{
    opterr = 0;
    int which, index = -1;
    while (index = -1, (which = getopt_long(argc, argv, ":", long_options, &index)) != -1) {
        if (which == ':') {
            usage_error("%s: its argument is missing", argv[optind - 1]);
        } else if (index < 0) {
            usage_error("unknown option '%s'", argv[optind - 1]);
        } else if (which == '?') {
            fputs(help, stdout);
            exit(0);
        } else if (which == 'v') {
            printf("rguard-converge %s\n", rguard_version());
            exit(0);
        } else if (which == 'l') {
            list_faults(stdout);
            exit(0);
        }
        parse_one(o, which, optarg);
    }
    if (optind < argc) {
        usage_error("'%s' is not an option", argv[optind]);
    }
    if (o->election_ms < 3 * o->heartbeat_ms) {
        usage_error("--election %u must be at least three times --heartbeat %u", o->election_ms,
                    o->heartbeat_ms);
    }
}

/* The line that repeats this invocation, seed included. */
static void replay_line(struct cv_options *o)
{
    char faults[400] = "";
    for (size_t i = 0; i < o->n_faults; i++) {
        size_t at = strlen(faults);
        snprintf(faults + at, sizeof faults - at, "%s%s", i == 0 ? "" : ",", o->faults[i]->name);
    }
    snprintf(o->command, sizeof o->command,
             "rguard-converge --fault %s --role %s --runs %u --nodes %u --engine %s --election %u "
             "--heartbeat %u --baseline %s --handover %s --seed 0x%" PRIx64 " --out %s%s",
             faults, o->roles[0] && o->roles[1] ? "both" : cv_role_name(o->roles[0] ? 0 : 1),
             o->runs, o->nodes, o->engine, o->election_ms, o->heartbeat_ms,
             o->baseline_libraft ? "libraft" : "none", o->timeout_handover ? "timeout" : "gasp",
             o->seed, o->out, o->keep ? " --keep" : "");
}

/* ---- environment ----------------------------------------------------------------------------- */

static void on_signal(int signo)
{
    if (signo != SIGCHLD) {
        cv_interrupted = 1;
    }
}

/* SIGCHLD is taken only while the run sleeps, so that a death wakes it and nothing else. */
static void set_up_signals(void)
{
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGHUP, &sa, NULL);
    sigaction(SIGCHLD, &sa, NULL);
    signal(SIGPIPE, SIG_IGN);
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    prctl(PR_SET_TIMERSLACK, 1000);
}

static int find_kv(struct cv_options *o, char *buf, size_t cap)
{
    const char *env = getenv("RGUARD_KV");
    if (env != NULL && env[0] != '\0') {
        snprintf(buf, cap, "%s", env);
    } else {
        ssize_t n = readlink("/proc/self/exe", buf, cap - 16);
        buf[n > 0 ? n : 0] = '\0';
        char *slash = strrchr(buf, '/');
        if (slash == NULL) {
            return -1;
        }
        snprintf(slash, 16, "/rguard-kv");
    }
    o->kv = realpath(buf, NULL);
    if (o->kv == NULL || access(o->kv, X_OK) != 0) {
        fprintf(stderr, "rguard-converge: %s: %s\n", buf, strerror(errno));
        return -1;
    }
    return 0;
}

static int make_dirs(const char *path)
{
    char buf[512];
    if ((size_t)snprintf(buf, sizeof buf, "%s", path) >= sizeof buf || path[0] == '\0') {
        return -ENAMETOOLONG;
    }
    for (char *p = buf + 1;; p++) {
        if (*p == '/' || *p == '\0') {
            char was = *p;
            *p = '\0';
            if (mkdir(buf, 0755) != 0 && errno != EEXIST) {
                return -errno;
            }
            *p = was;
            if (was == '\0') {
                return 0;
            }
        }
    }
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void make_rows(struct cv_report *r)
{
    const struct cv_options *o = r->options;
    r->rows = calloc(o->n_faults * 4, sizeof *r->rows);
    for (size_t f = 0; f < o->n_faults && r->rows != NULL; f++) {
        for (int role = CV_LEADER; role <= CV_FOLLOWER; role++) {
            for (int system = CV_RAFTGUARD; system <= CV_LIBRAFT; system++) {
                if (o->roles[role] && (system == CV_RAFTGUARD || o->baseline_libraft)) {
                    r->rows[r->n_rows++] =
                        (struct cv_row){.system = system, .role = role, .fault = o->faults[f]};
                }
            }
        }
    }
}

static void progress(const struct cv_row *row, const struct cv_run *run, unsigned done,
                     unsigned total)
{
    fprintf(stderr, "[%u/%u] %s %s/%s: ", done, total, cv_system_name(row->system),
            cv_role_name(row->role), row->fault->name);
    if (!run->fired) {
        fprintf(stderr, "the fault did not hit what was meant; once more\n");
        return;
    }
    char back[32] = "never", converged[32] = "never";
    if (isfinite(run->write_recovery_ms)) {
        snprintf(back, sizeof back, "after %.1f ms", run->write_recovery_ms);
    }
    if (isfinite(run->convergence_ms)) {
        snprintf(converged, sizeof converged, "after %.1f ms", run->convergence_ms);
    }
    fprintf(stderr, "%s, writes back %s, converged %s%s\n", cv_verdict_name(run->judgement.verdict),
            back, converged, run->fast ? ", by notice" : "");
    for (unsigned i = 0; i < run->judgement.n_reasons; i++) {
        fprintf(stderr, "        %s\n", run->judgement.reasons[i]);
    }
}

/* Runs @row once, again while the fault did not fire. */
static int run_row(const struct cv_report *r, struct cv_row *row, unsigned done, uint64_t seed)
{
    const struct cv_options *o = r->options;
    for (unsigned tries = 0; tries < MAX_REDONE; tries++) {
        struct cv_run run;
        struct cv_trial trial;
        int rv = cv_run_once(o, row->system, row->role, row->fault, done, cv_random(&seed), &run,
                             &trial);
        if (rv == 0) {
            cv_row_add(row, &run, &trial);
            progress(row, &run, done, o->runs * (unsigned)r->n_rows);
        }
        cv_trial_free(&trial);
        if (rv != 0 || run.fired) {
            return rv;
        }
    }
    fprintf(stderr, "rguard-converge: %s: was not carried out in %u attempts\n", row->fault->name,
            MAX_REDONE);
    return -1;
}

static int run_all(struct cv_report *r)
{
    uint64_t rng = r->options->seed;
    size_t *order = cv_grow(NULL, r->n_rows * sizeof *order);
    int rv = 0;
    unsigned done = 0;
    for (unsigned round = 0; round < r->options->runs && rv == 0; round++) {
        for (size_t i = 0; i < r->n_rows; i++) {
            size_t k = (size_t)(cv_random(&rng) % (i + 1));
            order[i] = order[k];
            order[k] = i;
        }
        for (size_t i = 0; i < r->n_rows && rv == 0; i++) {
            rv = run_row(r, &r->rows[order[i]], ++done, cv_random(&rng));
        }
    }
    free(order);
    return rv;
}

static int write_files(const struct cv_report *r)
{
    static void (*const writers[])(const struct cv_report *, struct cv_text *) = {
        cv_report_json, cv_report_text, cv_report_html};
    static const char *const names[] = {"run.json", "report.txt", "report.html"};
    for (size_t i = 0; i < 3; i++) {
        struct cv_text t = {0};
        char path[600];
        writers[i](r, &t);
        snprintf(path, sizeof path, "%s/%s", r->options->out, names[i]);
        int rv = cv_text_save(&t, path);
        if (rv == 0 && i == (r->options->json ? 0 : 1)) {
            fputs(t.data, stdout);
        }
        cv_text_free(&t);
        if (rv != 0) {
            fprintf(stderr, "rguard-converge: %s: %s\n", path, strerror(-rv));
            return rv;
        }
    }
    return 0;
}

static int converge(struct cv_options *o)
{
    struct cv_machine machine = {0};
    struct cv_report report = {.options = o, .machine = &machine};
    int rv = make_dirs(o->out);
    if (rv == 0) {
        rv = cv_machine_measure(&machine, o->out);
    }
    if (rv != 0) {
        fprintf(stderr, "rguard-converge: %s: %s\n", o->out, strerror(-rv));
        return 1;
    }
    cv_commit(report.commit, sizeof report.commit);
    make_rows(&report);
    fprintf(stderr, "replay: %s\n", o->command);
    rv = run_all(&report);
    if (rv == 0) {
        rv = write_files(&report);
    }
    int code = rv == 0 ? cv_exit_code(&report) : rv == CV_INTERRUPTED ? CV_INTERRUPTED : 1;
    for (size_t i = 0; i < report.n_rows; i++) {
        cv_row_free(&report.rows[i]);
    }
    free(report.rows);
    cv_samples_free(&machine.fsync_us);
    cv_samples_free(&machine.rtt_us);
    return code;
}

int main(int argc, char **argv)
{
    struct cv_options o = {.roles = {true, false},
                           .runs = 12,
                           .nodes = 3,
                           .election_ms = 150,
                           .heartbeat_ms = 15,
                           .engine = "arena",
                           .out = "build/converge"};
    char kv[600];
    parse_faults(&o, "all");
    if (getrandom(&o.seed, sizeof o.seed, 0) != (ssize_t)sizeof o.seed) {
        o.seed = (uint64_t)getpid();
    }
    o.seed &= 0xffffffffu; /* short enough to type */
    parse(&o, argc, argv);
    replay_line(&o);
    if (find_kv(&o, kv, sizeof kv) != 0) {
        return 1;
    }
    set_up_signals();
    int code = converge(&o);
    free((void *)(uintptr_t)o.kv);
    return code;
}
