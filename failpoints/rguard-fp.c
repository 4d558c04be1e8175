/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-fp: lists, arms and disarms failpoints of a running process over its control socket, and
 * judges specs without one.
 *
 *     command -> one line -> socket -> one JSON line -> --json: as it is; else a table or a line
 *
 * Invariant: the exit code says what happened to the request (the table in usage()); when it is 0
 * after `set`, the program is armed or the process has already been ended by it. */
#include "failpoint_internal.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define REPLY_MS  10000
#define MAX_REPLY (64u << 20)

enum code {
    CODE_OK = 0,
    CODE_FAILED = 1,
    CODE_SPEC = 2,
    CODE_UNKNOWN = 3,
    CODE_TIMEOUT = 4,
    CODE_GONE = 5,
    CODE_REFUSED = 6,
    CODE_ABSENT = 7,
    CODE_USAGE = 64
};

struct options
{
    const char *socket;
    bool json;
};

static int run(const struct options *o, int argc, char **argv);
static int check(const struct options *o, const char *text);
static int request(const struct options *o, int argc, char **argv);

static int usage(FILE *to)
{
    fprintf(
        to,
        "usage: rguard-fp [-s SOCK] [--json] COMMAND\n"
        "\n"
        "  list               every site: name, place, what is armed, hits, fired\n"
        "  set NAME PROGRAM   arm: 5*return(1), 1%%errno(EIO)->sleep(10ms), 1*overrun(16), ...\n"
        "  off NAME           disarm, and wake whoever sleeps there\n"
        "  off-all            disarm everything\n"
        "  stat NAME          counts of one name\n"
        "  check SPEC         judge a program or a config (name=program;...); no process needed\n"
        "\n"
        "  -s, --socket SOCK  control socket of the process; default $RGUARD_FAILPOINTS_SOCK\n"
        "      --json         print JSON instead\n"
        "  -h, --help         this text\n"
        "      --version      version\n"
        "\n"
        "program: term { \"->\" term }; term: [P%%] [N*] action [(arg)]; actions: off return "
        "errno\n"
        "sleep panic abort kill print bitflip overrun double_free.\n"
        "\n"
        "exit: 0 done, 2 bad spec, 3 unknown name, 4 timeout, 5 target gone, 6 refused,\n"
        "      7 not compiled in, 64 bad usage, 1 anything else\n");
    return to == stdout ? CODE_OK : CODE_USAGE;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"socket", required_argument, NULL, 's'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {"version", no_argument, NULL, 'v'},
                                          {NULL, 0, NULL, 0}};
    struct options o = {NULL, false};
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "+s:h", longs, NULL)) != -1;) {
        switch (c) {
            case 's':
                o.socket = optarg;
                break;
            case 'j':
                o.json = true;
                break;
            case 'h':
                return usage(stdout);
            case 'v':
                printf("rguard-fp %s\n", rguard_version());
                return CODE_OK;
            default:
                fprintf(stderr, "rguard-fp: %s: unknown option, or one without its value\n",
                        argv[optind - 1]);
                return CODE_USAGE;
        }
    }
    int rv = run(&o, argc - optind, argv + optind);
    if (fflush(stdout) != 0) {
        fprintf(stderr, "rguard-fp: standard output: %s\n", strerror(errno));
        return CODE_FAILED;
    }
    return rv;
}

static int run(const struct options *o, int argc, char **argv)
{
    static const struct
    {
        const char *word;
        int args;
    } commands[] = {{"list", 0}, {"check", 1}, {"set", 2}, {"off", 1}, {"off-all", 0}, {"stat", 1}};
    if (argc == 0) {
        fprintf(stderr, "rguard-fp: no command; see rguard-fp --help\n");
        return CODE_USAGE;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(commands[i].word, argv[0]) != 0) {
            continue;
        }
        if (argc - 1 != commands[i].args) {
            fprintf(stderr, "rguard-fp: %s: expected %d argument%s, got %d\n", argv[0],
                    commands[i].args, commands[i].args == 1 ? "" : "s", argc - 1);
            return CODE_USAGE;
        }
        if (strcmp(argv[0], "check") == 0) {
            return check(o, argv[1]);
        }
        if (!rguard_fp_compiled()) {
            fprintf(stderr, "rguard-fp: %s: this build has no failpoints\n", argv[0]);
            return CODE_ABSENT;
        }
        return request(o, argc, argv);
    }
    fprintf(stderr, "rguard-fp: %s: unknown command; see rguard-fp --help\n", argv[0]);
    return CODE_USAGE;
}

/* ---- errors in a spec ------------------------------------------------------------------------ */

/* The text around the place, and carets under it. Bytes that would move the cursor become spaces.
 */
static void point_at(const char *text, size_t offset, size_t length)
{
    enum { BEFORE = 40, WIDTH = 76 };
    size_t len = strlen(text);
    offset = offset < len ? offset : len;
    size_t from = offset > BEFORE ? offset - BEFORE : 0;
    fprintf(stderr, "  ");
    for (size_t i = from; i < len && i < from + WIDTH; i++) {
        fputc(text[i] >= 0x20 && text[i] < 0x7f ? text[i] : ' ', stderr);
    }
    fprintf(stderr, "\n  %*s^", (int)(offset - from), "");
    for (size_t i = offset + 1; i < offset + length && i < len && i < from + WIDTH; i++) {
        fputc('~', stderr);
    }
    fputc('\n', stderr);
}

static void complain_spec(const char *command, const char *text, const char *message, size_t offset,
                          size_t length)
{
    fprintf(stderr, "rguard-fp: %s: col %zu: %s\n", command, offset + 1, message);
    point_at(text, offset, length);
}

static int check(const struct options *o, const char *text)
{
    struct rguard_fp_error err = {0, 0, ""};
    int rv = rguard_fp_check(text, &err);
    if (o->json) {
        struct fp_buf out = {NULL, 0, 0, false};
        if (rv == 0) {
            rguard__fp_put(&out, "{\"ok\":true}");
        } else {
            rguard__fp_put(&out, "{\"ok\":false,\"code\":\"%s\",\"error\":", rguard_err_name(rv));
            rguard__fp_put_string(&out, err.message);
            rguard__fp_put(&out, ",\"offset\":%zu,\"length\":%zu}", err.offset, err.length);
        }
        if (!out.failed) {
            printf("%.*s\n", (int)out.len, out.data);
        }
        free(out.data);
    }
    if (rv != 0) {
        complain_spec("check", text, err.message, err.offset, err.length);
        return rv == RGUARD_ESPEC ? CODE_SPEC : CODE_FAILED;
    }
    return CODE_OK;
}

/* ---- reading our own JSON ---------------------------------------------------------------------
 * Enough for the replies of commands.c: objects, arrays, strings, numbers, true, false. Every
 * function takes the start of a value and never reads past the NUL. */

static const char *skip_string(const char *p)
{
    for (p++; *p != '\0' && *p != '"'; p++) {
        p += *p == '\\' && p[1] != '\0';
    }
    return *p == '"' ? p + 1 : p;
}

static const char *skip_value(const char *p)
{
    if (*p == '"') {
        return skip_string(p);
    }
    if (*p != '{' && *p != '[') {
        return p + strcspn(p, ",]}");
    }
    int depth = 0;
    do {
        if (*p == '"') {
            p = skip_string(p);
            continue;
        }
        depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
        p++;
    } while (depth > 0 && *p != '\0');
    return p;
}

/* The value of @key in the object at @p; "" when there is none. */
static const char *member(const char *p, const char *key)
{
    size_t len = strlen(key);
    if (*p != '{') {
        return "";
    }
    p++;
    while (*p == '"') {
        const char *name = p + 1;
        p = skip_string(p);
        bool found = (size_t)(p - name) == len + 1 && memcmp(name, key, len) == 0;
        p += *p == ':';
        if (found) {
            return p;
        }
        p = skip_value(p);
        p += *p == ',';
    }
    return "";
}

/* The string at @p without quotes and escapes, cut to fit. Returns @out. */
static char *unquote(const char *p, char *out, size_t cap)
{
    size_t n = 0;
    if (*p == '"') {
        for (p++; *p != '\0' && *p != '"' && n + 1 < cap; p++) {
            if (*p == '\\' && p[1] == 'u' && strnlen(p, 6) == 6) {
                out[n++] = ' '; /* control bytes, which is all that we escape this way */
                p += 5;
                continue;
            }
            p += *p == '\\' && p[1] != '\0';
            out[n++] = *p;
        }
    }
    out[n] = '\0';
    return out;
}

/* ---- showing a reply ------------------------------------------------------------------------- */

static void show_list(const char *reply)
{
    const char *p = member(reply, "sites");
    p += *p == '[';
    size_t n = 0;
    while (*p == '{') {
        char name[FP_MAX_NAME + 1];
        char desc[256];
        char file[256];
        char spec[512];
        unquote(member(p, "name"), name, sizeof name);
        unquote(member(p, "desc"), desc, sizeof desc);
        unquote(member(p, "file"), file, sizeof file);
        unquote(member(p, "program"), spec, sizeof spec);
        printf("%-24s %s:%" PRIu64 "  %s\n", name, file,
               (uint64_t)strtoull(member(p, "line"), NULL, 10), desc);
        uint64_t hits = strtoull(member(p, "hits"), NULL, 10);
        uint64_t fired = strtoull(member(p, "fired"), NULL, 10);
        if (spec[0] != '\0' || hits > 0) {
            printf("%-24s %s  hits %" PRIu64 "  fired %" PRIu64 "\n", "",
                   spec[0] != '\0' ? spec : "off", hits, fired);
        }
        p = skip_value(p);
        p += *p == ',';
        n++;
    }
    if (n == 0) {
        printf("no sites\n");
    }
}

static void show_stat(const char *reply)
{
    char name[FP_MAX_NAME + 1];
    char spec[512];
    unquote(member(reply, "name"), name, sizeof name);
    unquote(member(reply, "program"), spec, sizeof spec);
    printf("%s  %s  hits %" PRIu64 "  fired %" PRIu64 "  last_ns %" PRIu64 "\n", name,
           spec[0] != '\0' ? spec : "off", (uint64_t)strtoull(member(reply, "hits"), NULL, 10),
           (uint64_t)strtoull(member(reply, "fired"), NULL, 10),
           (uint64_t)strtoull(member(reply, "last_ns"), NULL, 10));
}

static int exit_code(const char *code)
{
    static const struct
    {
        const char *name;
        int exit;
    } codes[] = {{"RGUARD_ESPEC", CODE_SPEC},
                 {"RGUARD_ETOOBIG", CODE_SPEC},
                 {"RGUARD_EUNKNOWN", CODE_UNKNOWN},
                 {"RGUARD_EREFUSED", CODE_REFUSED},
                 {"RGUARD_ENOTSUP", CODE_ABSENT}};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        if (strcmp(codes[i].name, code) == 0) {
            return codes[i].exit;
        }
    }
    return CODE_FAILED;
}

static int show_error(const char *reply, int argc, char **argv)
{
    char code[64];
    char message[256];
    unquote(member(reply, "code"), code, sizeof code);
    unquote(member(reply, "error"), message, sizeof message);
    const char *offset = member(reply, "offset");
    if (*offset != '\0' && argc == 3) {
        complain_spec(argv[0], argv[2], message, strtoul(offset, NULL, 10),
                      strtoul(member(reply, "length"), NULL, 10));
    } else {
        fprintf(stderr, "rguard-fp: %s: %s\n", argc > 1 ? argv[1] : argv[0], message);
    }
    return exit_code(code);
}

/* ---- talking to the process ------------------------------------------------------------------ */

static int find_socket(const struct options *o, char *path, size_t cap)
{
    const char *tmpl = o->socket != NULL ? o->socket : getenv("RGUARD_FAILPOINTS_SOCK");
    const char *node = getenv("RGUARD_FAILPOINTS_NODE");
    if (tmpl == NULL || *tmpl == '\0') {
        fprintf(stderr, "rguard-fp: no socket: give -s SOCK or set RGUARD_FAILPOINTS_SOCK\n");
        return CODE_USAGE;
    }
    if (o->socket != NULL) { /* a path, not a template */
        if (strlen(tmpl) >= cap) {
            fprintf(stderr, "rguard-fp: %s: %s\n", tmpl, strerror(ENAMETOOLONG));
            return CODE_USAGE;
        }
        memcpy(path, tmpl, strlen(tmpl) + 1);
        return CODE_OK;
    }
    if (strstr(tmpl, "%p") != NULL) {
        fprintf(stderr,
                "rguard-fp: RGUARD_FAILPOINTS_SOCK: %%p is the other process's id, give -s\n");
        return CODE_USAGE;
    }
    struct rguard_fp_error err;
    if (rguard__fp_expand(tmpl, node != NULL ? node : "", path, cap, &err) != 0) {
        fprintf(stderr, "rguard-fp: RGUARD_FAILPOINTS_SOCK: %s\n", err.message);
        return CODE_USAGE;
    }
    return CODE_OK;
}

static int fail_io(const char *path, int error)
{
    fprintf(stderr, "rguard-fp: %s: %s\n", path, strerror(error));
    return error == EACCES || error == EPERM       ? CODE_REFUSED
           : error == EAGAIN || error == ETIMEDOUT ? CODE_TIMEOUT
                                                   : CODE_GONE;
}

static int dial(const char *path, int *out)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    memcpy(addr.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        fprintf(stderr, "rguard-fp: socket: %s\n", strerror(errno));
        return CODE_FAILED;
    }
    /* Bounds connect() and send(), when the other side is stopped. */
    struct timeval limit = {.tv_sec = REPLY_MS / 1000};
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) != 0 ||
        connect(fd, (const struct sockaddr *)&addr, sizeof addr) != 0) {
        int error = errno;
        close(fd);
        return fail_io(path, error);
    }
    *out = fd;
    return CODE_OK;
}

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Reads until the other side closes: by then a program that was set is armed, or has ended it. */
static int read_reply(int fd, const char *path, struct fp_buf *reply)
{
    int64_t deadline = now_ms() + REPLY_MS;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = deadline - now_ms();
        int n = left <= 0 ? 0 : poll(&p, 1, (int)left);
        if (n == 0) {
            fprintf(stderr, "rguard-fp: %s: no answer within %d s\n", path, REPLY_MS / 1000);
            return CODE_TIMEOUT;
        }
        char chunk[16384];
        ssize_t got = n < 0 ? -1 : recv(fd, chunk, sizeof chunk, 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        bool whole = memchr(reply->len > 0 ? reply->data : "", '\n', reply->len) != NULL;
        if (got <= 0 && whole) {
            return CODE_OK;
        }
        if (got < 0) {
            return fail_io(path, errno);
        }
        if (got == 0) {
            fprintf(stderr, "rguard-fp: %s: the process closed the socket without an answer\n",
                    path);
            return CODE_GONE;
        }
        rguard__fp_put_bytes(reply, chunk, (size_t)got);
        if (reply->failed || reply->len > MAX_REPLY) {
            fprintf(stderr, "rguard-fp: %s: the answer is too long\n", path);
            return CODE_FAILED;
        }
    }
}

static int send_request(int fd, const char *path, int argc, char **argv)
{
    struct fp_buf line = {NULL, 0, 0, false};
    for (int i = 0; i < argc; i++) {
        size_t start = line.len;
        rguard__fp_put(&line, "%s%s", i > 0 ? " " : "", argv[i]);
        for (size_t k = start; k < line.len; k++) {
            /* A newline is a blank to the grammar but ends a line of the protocol. */
            line.data[k] = line.data[k] == '\n' || line.data[k] == '\r' ? ' ' : line.data[k];
        }
    }
    rguard__fp_put(&line, "\n");
    int rv = line.failed ? CODE_FAILED : CODE_OK;
    for (size_t sent = 0; rv == CODE_OK && sent < line.len;) {
        ssize_t n = send(fd, line.data + sent, line.len - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) {
            rv = fail_io(path, errno);
        }
        sent += n > 0 ? (size_t)n : 0;
    }
    free(line.data);
    return rv;
}

static int request(const struct options *o, int argc, char **argv)
{
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    struct fp_buf reply = {NULL, 0, 0, false};
    int fd = -1;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '\0' || (i == 1 && strpbrk(argv[i], " \t\r\n") != NULL)) {
            fprintf(stderr, "rguard-fp: %s: \"%s\" is not the name of a site or a program\n",
                    argv[0], argv[i]);
            return i == 1 ? CODE_UNKNOWN : CODE_SPEC;
        }
    }
    int rv = find_socket(o, path, sizeof path);
    if (rv == CODE_OK) {
        rv = dial(path, &fd);
    }
    if (rv == CODE_OK) {
        rv = send_request(fd, path, argc, argv);
    }
    if (rv == CODE_OK) {
        shutdown(fd, SHUT_WR);
        rv = read_reply(fd, path, &reply);
    }
    if (rv != CODE_OK) {
        goto out;
    }
    *(char *)memchr(reply.data, '\n', reply.len) = '\0';
    if (o->json) {
        printf("%s\n", reply.data);
    }
    if (strncmp(member(reply.data, "ok"), "true", 4) != 0) {
        rv = show_error(reply.data, argc, argv);
    } else if (!o->json && strcmp(argv[0], "list") == 0) {
        show_list(reply.data);
    } else if (!o->json && strcmp(argv[0], "stat") == 0) {
        show_stat(reply.data);
    }
out:
    free(reply.data);
    if (fd >= 0) {
        close(fd);
    }
    return rv;
}
