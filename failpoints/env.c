/* SPDX-License-Identifier: Apache-2.0 */
/* The environment of a process with sites. Invariant: everything that can be wrong is found before
 * anything is armed; on an error nothing is armed, nothing listens and no journal is open. */
#include "failpoint_internal.h"

#ifndef RGUARD_NO_FAILPOINTS

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int read_seed(struct rguard_fp_error *err);
static int open_journal(const char *node, struct rguard_fp_error *err);
static int open_socket(const char *node, struct rguard_fp_error *err);

/* An empty variable is an absent one; secure_getenv() finds nothing in a setuid process. */
static const char *env(const char *name)
{
    const char *value = secure_getenv(name);
    return value != NULL && *value != '\0' ? value : NULL;
}

int rguard_fp_init_from_env(struct rguard_fp_error *err)
{
    struct fp_plan *plan = NULL;
    char node[FP_MAX_NODE + 1];
    int rv = read_seed(err);
    if (rv != 0) {
        return rv;
    }
    rguard__fp_seed(node);
    const char *config = env("RGUARD_FAILPOINTS");
    if (config != NULL) {
        rv = rguard__fp_plan(NULL, config, &plan, err);
        if (rv != 0) {
            return rv;
        }
    }
    rv = open_journal(node, err);
    if (rv != 0) {
        goto drop;
    }
    rv = open_socket(node, err);
    if (rv != 0) {
        goto close;
    }
    if (plan != NULL) {
        rguard__fp_plan_publish(plan);
    }
    return 0;
close:
    rguard__fp_journal_close();
drop:
    rguard__fp_plan_drop(plan);
    return rv;
}

void rguard_fp_fini(void)
{
    rguard__fp_unlisten();
    rguard__fp_journal_close();
}

/* A node's name becomes part of paths and of decisions: [A-Za-z0-9_.-]. */
static int read_seed(struct rguard_fp_error *err)
{
    const char *node = env("RGUARD_FAILPOINTS_NODE");
    node = node != NULL ? node : "";
    size_t len = strlen(node);
    for (size_t i = 0; i < len; i++) {
        if (i == FP_MAX_NODE ||
            (!isalnum((unsigned char)node[i]) && strchr("_.-", node[i]) == NULL)) {
            return rguard__fp_error(err, RGUARD_ESPEC, i, 1,
                                    "RGUARD_FAILPOINTS_NODE: expected at most %u letters, digits "
                                    "or any of _ . -",
                                    FP_MAX_NODE);
        }
    }
    const char *text = env("RGUARD_FAILPOINTS_SEED");
    char ignored[FP_MAX_NODE + 1];
    uint64_t seed = text != NULL ? 0 : rguard__fp_seed(ignored);
    if (text != NULL) {
        char *end;
        errno = 0;
        seed = strtoull(text, &end, 0);
        if (!isdigit((unsigned char)*text) || *end != '\0' || errno != 0) {
            return rguard__fp_error(err, RGUARD_ESPEC, (size_t)(end - text), 1,
                                    "RGUARD_FAILPOINTS_SEED: expected a number of 64 bits");
        }
    }
    rguard__fp_set_seed(seed, node);
    return 0;
}

static int expand_env(const char *name, const char *node, char *path, size_t cap,
                      struct rguard_fp_error *err)
{
    int rv = rguard__fp_expand(env(name), node, path, cap, err);
    if (rv != 0 && err != NULL) {
        char why[sizeof err->message];
        memcpy(why, err->message, sizeof why);
        snprintf(err->message, sizeof err->message, "%s: %.100s", name, why);
    }
    return rv;
}

static int fail_path(struct rguard_fp_error *err, int code, const char *name, const char *path)
{
    return rguard__fp_error(err, code, 0, 0, "%s: %.60s: %.60s", name, path, rguard_strerror(code));
}

static int open_journal(const char *node, struct rguard_fp_error *err)
{
    static const char name[] = "RGUARD_FAILPOINTS_JOURNAL";
    char path[PATH_MAX];
    if (env(name) == NULL) {
        return 0;
    }
    int rv = expand_env(name, node, path, sizeof path, err);
    if (rv != 0) {
        return rv;
    }
    char same[FP_MAX_NODE + 1];
    rv = rguard__fp_journal_open(path, rguard__fp_seed(same), node);
    return rv == 0 ? 0 : fail_path(err, rv, name, path);
}

static int open_socket(const char *node, struct rguard_fp_error *err)
{
    static const char name[] = "RGUARD_FAILPOINTS_SOCK";
    char path[PATH_MAX];
    if (env(name) == NULL) {
        return 0;
    }
    int rv = expand_env(name, node, path, sizeof path, err);
    if (rv != 0) {
        return rv;
    }
    rv = rguard_fp_listen(path);
    return rv == 0 ? 0 : fail_path(err, rv, name, path);
}

#endif
