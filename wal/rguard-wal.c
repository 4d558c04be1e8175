/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-wal: looks at logs, repairs them, takes records out of them, and makes them for tests.
 *
 * Invariant: the only command that changes a log which it has not made is repair --drop-tail. verify,
 * dump and export do not even take the lock. The exit code is the verdict (the table in usage()). */
#include "tool_internal.h"

#include <raftguard/failpoint.h>
#include <raftguard/version.h>

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every option has a bit; a command says which it takes. */
enum option_bit {
    OPT_JSON = 1 << 0,
    OPT_DROP_TAIL = 1 << 1,
    OPT_ACCEPT = 1 << 2,
    OPT_FROM = 1 << 3,
    OPT_TO = 1 << 4,
    OPT_OUT = 1 << 5,
    OPT_BINARY = 1 << 6,
    OPT_RECORDS = 1 << 7,
    OPT_SIZE = 1 << 8,
    OPT_SEED = 1 << 9,
    OPT_BATCH = 1 << 10,
    OPT_NO_CLOSE = 1 << 11,
    OPT_VERSION = 1 << 12,
    OPT_HELP = 1 << 13
};

static const struct command
{
    const char *name;
    int (*run)(const struct tool_args *a);
    unsigned options;
} commands[] = {
    {"verify", tool_verify, OPT_JSON},
    {"dump", tool_dump, OPT_JSON},
    {"repair", tool_repair, OPT_JSON | OPT_DROP_TAIL | OPT_ACCEPT},
    {"export", tool_export, OPT_JSON | OPT_FROM | OPT_TO | OPT_OUT | OPT_BINARY},
    {"fill", tool_fill, OPT_JSON | OPT_RECORDS | OPT_SIZE | OPT_SEED | OPT_BATCH | OPT_NO_CLOSE}};

static const struct option longs[] = {{"json", no_argument, NULL, OPT_JSON},
                                      {"help", no_argument, NULL, OPT_HELP},
                                      {"version", no_argument, NULL, OPT_VERSION},
                                      {"drop-tail", no_argument, NULL, OPT_DROP_TAIL},
                                      {"accept-data-loss", no_argument, NULL, OPT_ACCEPT},
                                      {"from", required_argument, NULL, OPT_FROM},
                                      {"to", required_argument, NULL, OPT_TO},
                                      {"out", required_argument, NULL, OPT_OUT},
                                      {"binary", no_argument, NULL, OPT_BINARY},
                                      {"records", required_argument, NULL, OPT_RECORDS},
                                      {"size", required_argument, NULL, OPT_SIZE},
                                      {"seed", required_argument, NULL, OPT_SEED},
                                      {"batch", required_argument, NULL, OPT_BATCH},
                                      {"no-close", no_argument, NULL, OPT_NO_CLOSE},
                                      {NULL, 0, NULL, 0}};

static int usage(FILE *to)
{
    (void)fprintf(
        to,
        "usage: rguard-wal verify DIR [--json]\n"
        "       rguard-wal dump DIR [--json]\n"
        "       rguard-wal repair DIR [--drop-tail [--accept-data-loss]] [--json]\n"
        "       rguard-wal export DIR [--from I] [--to J] [--out FILE] [--json | --binary]\n"
        "       rguard-wal fill DIR [--records N] [--size B] [--seed S] [--batch K] [--no-close]\n"
        "\n"
        "  verify   reads every byte of the log in DIR and says whether it is whole; everything\n"
        "           that is damaged, which records that concerns, and what to do about it\n"
        "  dump     the same, and every batch and live record\n"
        "  repair   says what cutting the log before its first damage would lose. Does it with\n"
        "           --drop-tail, after keeping a copy of all that goes in DIR/quarantine-<lsn>.\n"
        "           Where acknowledged records would be lost, --accept-data-loss is needed too.\n"
        "           A member of a cluster had better be repaired from its peers\n"
        "  export   records I to J (all), each verified, one JSON object a line (data in hex) or,\n"
        "           with --binary, framed: a header of 40 bytes, little endian (\"RGRX\", u32 "
        "CRC32C\n"
        "           of the header with 0 here, u64 index, u64 term, u32 type, u32 len, u32 CRC32C\n"
        "           of the data, u32 0), then the data.\n"
        "           A damaged record is refused by name; FILE appears only when it is complete\n"
        "  fill     appends N records (1000) of B bytes (512), K to a batch (16), whose contents\n"
        "           follow from S (1); makes DIR if it is missing. The same arguments make the\n"
        "           same bytes. --no-close leaves the log as a killed process would\n"
        "\n"
        "verify, dump and export write nothing into DIR and take no lock; they work on a log that\n"
        "is in use. repair wants the log for itself.\n"
        "\n"
        "      --json      print JSON instead\n"
        "  -h, --help      this text\n"
        "      --version   version\n"
        "\n"
        "exit: 0 clean, repaired or exported, 1 torn tail (the next open drops it), 2 suspect\n"
        "      tail, 3 corrupt, 4 I/O error or could not run, 5 foreign or unsupported,\n"
        "      64 bad usage, 78 bad RGUARD_FAILPOINTS, 130 interrupted\n");
    return to == stdout ? CODE_CLEAN : CODE_USAGE;
}

static bool number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    char *end;
    errno = 0;
    if (text[0] < '0' || text[0] > '9') {
        return false;
    }
    unsigned long long v = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || v < min || v > max) {
        return false;
    }
    *out = v;
    return true;
}

/* false: not a number in range. */
static bool take(struct tool_args *a, unsigned opt)
{
    switch (opt) {
        case OPT_JSON:
            a->json = true;
            return true;
        case OPT_DROP_TAIL:
            a->drop_tail = true;
            return true;
        case OPT_ACCEPT:
            a->accept_data_loss = true;
            return true;
        case OPT_FROM:
            return number(optarg, 1, UINT64_MAX, &a->from);
        case OPT_TO:
            return number(optarg, 1, UINT64_MAX, &a->to);
        case OPT_OUT:
            a->out = optarg;
            return true;
        case OPT_BINARY:
            a->binary = true;
            return true;
        case OPT_RECORDS:
            return number(optarg, 1, 1000000000, &a->records);
        case OPT_SIZE:
            return number(optarg, 0, 8 * 1024 * 1024, &a->size);
        case OPT_SEED:
            return number(optarg, 0, UINT64_MAX, &a->seed);
        case OPT_BATCH:
            return number(optarg, 1, 65536, &a->batch);
        default:
            a->no_close = true;
            return true;
    }
}

static const struct command *find(const char *name, unsigned given)
{
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(name, commands[i].name) == 0) {
            return (given & ~commands[i].options) == 0 ? &commands[i] : NULL;
        }
    }
    return NULL;
}

static int run(int argc, char **argv)
{
    struct tool_args a = {.records = 1000, .size = 512, .seed = 1, .batch = 16};
    struct rguard_fp_error err;
    unsigned given = 0;
    int opt;
    while ((opt = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        if (opt == 'h' || opt == OPT_HELP) {
            return usage(stdout);
        }
        if (opt == OPT_VERSION) {
            (void)printf("rguard-wal %s\n", rguard_version());
            return CODE_CLEAN;
        }
        if (opt == '?') {
            return usage(stderr);
        }
        if (!take(&a, (unsigned)opt)) {
            return tool_complain(argv[optind - 1], "not a number in range (see --help)",
                                 CODE_USAGE);
        }
        given |= (unsigned)opt;
    }
    const struct command *command = argc - optind == 2 ? find(argv[optind], given) : NULL;
    if (command == NULL || (a.accept_data_loss && !a.drop_tail) || (a.json && a.binary)) {
        return usage(stderr);
    }
    a.dir = argv[optind + 1];
    if (rguard_fp_init_from_env(&err) != 0) {
        return tool_complain("RGUARD_FAILPOINTS", err.message, CODE_FAILPOINTS);
    }
    int code = command->run(&a);
    rguard_fp_fini();
    return code;
}

int main(int argc, char **argv)
{
    int code = run(argc, argv);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        return tool_complain("standard output", strerror(errno), CODE_IO);
    }
    return code;
}
