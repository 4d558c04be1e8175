/* SPDX-License-Identifier: Apache-2.0 */

/* One line is one write(2): lines of three nodes that share a terminal do not mix. */

#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static unsigned long long node;

void kv_log_node(unsigned long long id)
{
    node = id;
}

void kv_log(int level, const char *fmt, ...)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};
    char line[1024];
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t at = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    at += (size_t)snprintf(line + at, sizeof line - at,
                           ".%03ldZ rguard-kv[%llu] %s: ", now.tv_nsec / 1000000, node,
                           names[level & 3]);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line + at, sizeof line - at, fmt, ap);
    va_end(ap);
    at += n < 0 ? 0 : (size_t)n;
    at = at < sizeof line - 1 ? at : sizeof line - 2; /* a longer line is cut */
    line[at++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, at);
    (void)written; /* nowhere to complain */
}
