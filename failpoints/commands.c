/* SPDX-License-Identifier: Apache-2.0 */
/* The words of the control protocol: one line in, one JSON object on one line out. README.md has
 * the exact text. Invariant: a reply is one line whatever the request held, and a request that is
 * refused has changed nothing. */
#include "failpoint_internal.h"

#ifndef RGUARD_NO_FAILPOINTS

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void do_list(char *rest, struct fp_buf *reply, struct fp_plan **plan);
static void do_check(char *rest, struct fp_buf *reply, struct fp_plan **plan);
static void do_set(char *rest, struct fp_buf *reply, struct fp_plan **plan);
static void do_off(char *rest, struct fp_buf *reply, struct fp_plan **plan);
static void do_off_all(char *rest, struct fp_buf *reply, struct fp_plan **plan);
static void do_stat(char *rest, struct fp_buf *reply, struct fp_plan **plan);

static const struct command
{
    const char *word;
    const char *use; /* what may follow the word */
    int words;       /* how many words have to follow: 0, 1, or 2 for "at least one, and a text" */
    void (*run)(char *rest, struct fp_buf *reply, struct fp_plan **plan);
} commands[] = {
    {"list", "", 0, do_list},
    {"check", " SPEC", 2, do_check},
    {"set", " NAME PROGRAM", 2, do_set},
    {"off", " NAME", 1, do_off},
    {"off-all", "", 0, do_off_all},
    {"stat", " NAME", 1, do_stat},
};

static char *next_word(char **rest)
{
    char *p = *rest + strspn(*rest, " \t");
    char *end = p + strcspn(p, " \t");
    *rest = end + strspn(end, " \t");
    if (*end != '\0') {
        *end = '\0';
    }
    return p;
}

void rguard__fp_command(char *line, size_t len, struct fp_buf *reply, struct fp_plan **plan)
{
    if (strlen(line) != len) {
        rguard__fp_refuse(reply, RGUARD_EPROTO, "the line holds a NUL byte");
        return;
    }
    char *rest = line;
    const char *word = next_word(&rest);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        const struct command *c = &commands[i];
        if (strcmp(c->word, word) != 0) {
            continue;
        }
        bool one =
            strcspn(rest, " \t") + strspn(rest + strcspn(rest, " \t"), " \t") == strlen(rest);
        if ((c->words == 0) != (*rest == '\0') || (c->words == 1 && !one)) {
            char why[64];
            snprintf(why, sizeof why, "expected %s%s", c->word, c->use);
            rguard__fp_refuse(reply, RGUARD_EPROTO, why);
            return;
        }
        c->run(rest, reply, plan);
        return;
    }
    rguard__fp_refuse(reply, RGUARD_EPROTO,
                      "unknown command; expected list, check, set, off, off-all or stat");
}

void rguard__fp_refuse(struct fp_buf *reply, int code, const char *why)
{
    rguard__fp_put(reply, "{\"ok\":false,\"code\":\"%s\",\"error\":", rguard_err_name(code));
    rguard__fp_put_string(reply, why);
    rguard__fp_put(reply, "}\n");
}

/* ---- one command each ------------------------------------------------------------------------ */

static void refuse_spec(struct fp_buf *reply, int code, const struct rguard_fp_error *err)
{
    rguard__fp_put(reply, "{\"ok\":false,\"code\":\"%s\",\"error\":", rguard_err_name(code));
    rguard__fp_put_string(reply, err->message);
    if (code == RGUARD_ESPEC || code == RGUARD_EREFUSED) {
        rguard__fp_put(reply, ",\"offset\":%zu,\"length\":%zu", err->offset, err->length);
    }
    rguard__fp_put(reply, "}\n");
}

static void do_check(char *rest, struct fp_buf *reply, struct fp_plan **plan)
{
    (void)plan;
    struct rguard_fp_error err;
    int rv = rguard_fp_check(rest, &err);
    if (rv != 0) {
        refuse_spec(reply, rv, &err);
        return;
    }
    rguard__fp_put(reply, "{\"ok\":true}\n");
}

static void do_set(char *rest, struct fp_buf *reply, struct fp_plan **plan)
{
    const char *name = next_word(&rest);
    struct rguard_fp_error err;
    int rv = rguard__fp_plan(name, rest, plan, &err);
    if (rv != 0) {
        refuse_spec(reply, rv, &err);
        return;
    }
    rguard__fp_put(reply, "{\"ok\":true,\"name\":");
    rguard__fp_put_string(reply, name);
    rguard__fp_put(reply, ",\"program\":");
    rguard__fp_put_string(reply, rest);
    rguard__fp_put(reply, "}\n");
}

static void refuse_name(struct fp_buf *reply, int code)
{
    rguard__fp_refuse(reply, code, rguard_strerror(code));
}

static void do_off(char *rest, struct fp_buf *reply, struct fp_plan **plan)
{
    (void)plan;
    int rv = rguard_fp_off(next_word(&rest));
    if (rv != 0) {
        refuse_name(reply, rv);
        return;
    }
    rguard__fp_put(reply, "{\"ok\":true}\n");
}

static void do_off_all(char *rest, struct fp_buf *reply, struct fp_plan **plan)
{
    (void)rest;
    (void)plan;
    rguard_fp_off_all();
    rguard__fp_put(reply, "{\"ok\":true}\n");
}

static void put_stat(struct fp_buf *reply, const char *name)
{
    struct rguard_fp_stat s = {.size = sizeof s};
    (void)rguard_fp_stat(name, &s); /* a name that has just gone has zeroes */
    rguard__fp_put(reply, ",\"hits\":%" PRIu64 ",\"fired\":%" PRIu64 ",\"last_ns\":%" PRIu64,
                   s.hits, s.fired, s.last_ns);
}

struct find
{
    const char *name;
    struct fp_buf *reply;
    bool found;
};

static void put_armed(void *user, const struct rguard_fp_site *site, const char *spec)
{
    struct find *f = user;
    if (!f->found && strcmp(site->name, f->name) == 0) {
        f->found = true;
        rguard__fp_put(f->reply, "{\"ok\":true,\"name\":");
        rguard__fp_put_string(f->reply, site->name);
        rguard__fp_put(f->reply, ",\"program\":");
        rguard__fp_put_string(f->reply, spec);
    }
}

static void do_stat(char *rest, struct fp_buf *reply, struct fp_plan **plan)
{
    (void)plan;
    struct find f = {next_word(&rest), reply, false};
    rguard_fp_foreach(put_armed, &f);
    if (!f.found) {
        refuse_name(reply, RGUARD_EUNKNOWN);
        return;
    }
    put_stat(reply, f.name);
    rguard__fp_put(reply, "}\n");
}

struct listing
{
    struct fp_buf *reply;
    size_t n;
};

static void put_caps(struct fp_buf *reply, uint32_t caps)
{
    static const struct
    {
        uint32_t cap;
        const char *word;
    } words[] = {{RGUARD_FP_CAN_RETURN, "return"},
                 {RGUARD_FP_CAN_ERRNO, "errno"},
                 {RGUARD_FP_CAN_MUTATE, "bitflip"},
                 {RGUARD_FP_CAN_MUTATE, "overrun"},
                 {RGUARD_FP_CAN_DOUBLE_FREE, "double_free"}};
    const char *comma = "";
    rguard__fp_put(reply, ",\"can\":[");
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (caps & words[i].cap) {
            rguard__fp_put(reply, "%s\"%s\"", comma, words[i].word);
            comma = ",";
        }
    }
    rguard__fp_put(reply, "]");
}

static void put_site(void *user, const struct rguard_fp_site *site, const char *spec)
{
    struct listing *l = user;
    rguard__fp_put(l->reply, "%s{\"name\":", l->n++ > 0 ? "," : "");
    rguard__fp_put_string(l->reply, site->name);
    rguard__fp_put(l->reply, ",\"desc\":");
    rguard__fp_put_string(l->reply, site->desc);
    rguard__fp_put(l->reply, ",\"file\":");
    rguard__fp_put_string(l->reply, site->file);
    rguard__fp_put(l->reply, ",\"line\":%u,\"function\":", site->line);
    rguard__fp_put_string(l->reply, site->function);
    put_caps(l->reply, site->caps);
    rguard__fp_put(l->reply, ",\"program\":");
    rguard__fp_put_string(l->reply, spec);
    put_stat(l->reply, site->name);
    rguard__fp_put(l->reply, "}");
}

static void do_list(char *rest, struct fp_buf *reply, struct fp_plan **plan)
{
    (void)rest;
    (void)plan;
    char node[FP_MAX_NODE + 1];
    uint64_t seed = rguard__fp_seed(node);
    struct listing l = {reply, 0};
    rguard__fp_put(reply, "{\"ok\":true,\"pid\":%ld,\"node\":\"%s\",\"seed\":\"%" PRIu64 "\"",
                   (long)getpid(), node, seed);
    rguard__fp_put(reply, ",\"sites\":[");
    rguard_fp_foreach(put_site, &l);
    rguard__fp_put(reply, "]}\n");
}

#endif
