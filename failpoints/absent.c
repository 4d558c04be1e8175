/* SPDX-License-Identifier: Apache-2.0 */
/* The library without failpoints: the functions stay, so that a program links against either build,
 * and say so. The grammar check (parse.c) works in both. */
#include "failpoint_internal.h"

#ifdef RGUARD_NO_FAILPOINTS

#include <stdlib.h>

static int absent(struct rguard_fp_error *err)
{
    return rguard__fp_error(err, RGUARD_ENOTSUP, 0, 0, "this build has no failpoints");
}

struct rguard_fp_hit rguard_fp_eval(struct rguard_fp_site *site)
{
    (void)site;
    return (struct rguard_fp_hit){0, 0, 0};
}

uint32_t rguard_fp_mutate(struct rguard_fp_hit hit, void *buf, size_t len)
{
    (void)buf;
    (void)len;
    return hit.action;
}

int rguard_fp_configure(const char *config, struct rguard_fp_error *err)
{
    (void)config;
    return absent(err);
}

int rguard_fp_set(const char *name, const char *program, struct rguard_fp_error *err)
{
    (void)name;
    (void)program;
    return absent(err);
}

int rguard_fp_off(const char *name)
{
    (void)name;
    return RGUARD_ENOTSUP;
}

void rguard_fp_off_all(void)
{
}

/* Only who asks for faults is told that there are none. */
int rguard_fp_init_from_env(struct rguard_fp_error *err)
{
    static const char *const names[] = {"RGUARD_FAILPOINTS", "RGUARD_FAILPOINTS_SOCK",
                                        "RGUARD_FAILPOINTS_JOURNAL"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = secure_getenv(names[i]);
        if (value != NULL && *value != '\0') {
            return rguard__fp_error(err, RGUARD_ENOTSUP, 0, 0,
                                    "%s is set, but this build has no failpoints", names[i]);
        }
    }
    return 0;
}

void rguard_fp_fini(void)
{
}

int rguard_fp_listen(const char *path)
{
    (void)path;
    return RGUARD_ENOTSUP;
}

int rguard_fp_stat(const char *name, struct rguard_fp_stat *stat)
{
    (void)name;
    (void)stat;
    return RGUARD_ENOTSUP;
}

void rguard_fp_foreach(void (*fn)(void *user, const struct rguard_fp_site *site, const char *spec),
                       void *user)
{
    (void)fn;
    (void)user;
}

bool rguard_fp_compiled(void)
{
    return false;
}

void rguard_fp_register(struct rguard_fp_site *const *start, struct rguard_fp_site *const *stop)
{
    (void)start;
    (void)stop;
}

void rguard_fp_unregister(struct rguard_fp_site *const *start)
{
    (void)start;
}

#endif
