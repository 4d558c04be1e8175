/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands of rguard-wal say in common: diagnostics, progress, JSON, exit codes. */
#include "tool_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

volatile sig_atomic_t tool_interrupted;

static void on_interrupt(int signo)
{
    (void)signo;
    tool_interrupted = 1;
}

void tool_catch_interrupts(void)
{
    (void)signal(SIGINT, on_interrupt);
    (void)signal(SIGTERM, on_interrupt);
}

int tool_complain(const char *what, const char *why, int code)
{
    (void)fflush(stdout); /* in the order in which it happened, where both go to one place */
    (void)fprintf(stderr, "rguard-wal: %s: %s\n", what, why);
    return code;
}

int tool_code(const struct rguard_wal_report *r, int error)
{
    static const int codes[] = {CODE_CLEAN, CODE_TORN,    CODE_SUSPECT, CODE_CORRUPT,
                                CODE_IO,    CODE_FOREIGN, CODE_FOREIGN};
    return error != 0 ? CODE_IO : codes[r->verdict];
}

int tool_open_failed(const char *dir, int rc, const struct rguard_wal_report *r)
{
    bool verdict = r->verdict != RGUARD_WAL_CLEAN_END && r->verdict != RGUARD_WAL_TORN_TAIL;
    const char *why = r->message[0] != '\0' ? r->message : rguard_strerror(rc);
    return tool_complain(dir, why, verdict ? tool_code(r, 0) : CODE_IO);
}

static uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void tool_progress(const char *verb, uint64_t n, const char *unit)
{
    static uint64_t started, shown;
    uint64_t now = now_ms();
    started = started == 0 ? now : started;
    if (!isatty(STDERR_FILENO)) {
        return;
    }
    if (verb == NULL) {
        (void)fprintf(stderr, shown != 0 ? "\r\033[K" : "");
    } else if (now - started > 1000 && now - shown > 200) {
        (void)fprintf(stderr, "\r%s %" PRIu64 " %s", verb, n, unit);
        shown = now;
    }
}

void tool_json_string(const char *key, const char *text, const char *after)
{
    (void)printf("\"%s\": \"", key);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            (void)printf("\\%c", c);
        } else if (c < 0x20 || c >= 0x7f) {
            (void)printf("\\u%04x", c);
        } else {
            (void)putchar(c);
        }
    }
    (void)printf("\"%s", after);
}

void tool_range(uint64_t first, uint64_t last, char *text, size_t len)
{
    if (first == 0) {
        text[0] = '\0';
    } else if (first == last) {
        (void)snprintf(text, len, ", record %" PRIu64, first);
    } else {
        (void)snprintf(text, len, ", records %" PRIu64 " to %" PRIu64, first, last);
    }
}
