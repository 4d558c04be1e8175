/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_FAILPOINT_INTERNAL_H
#define RGUARD_FAILPOINT_INTERNAL_H

/* What the files of this room share. The way of a program:
 *
 *     text --parse.c--> fp_spec --registry.c: names, capabilities--> fp_plan --publish--> eval.c
 *
 * Everything that can fail happens before publish; publish cannot fail. */

#include <raftguard/failpoint.h>

#include <stdarg.h>

#define FP_MAX_TEXT     65536u /* bytes of a program, a config or a protocol line */
#define FP_MAX_TERMS    20u
#define FP_MAX_BINDINGS 1024u
#define FP_MAX_NAME     127u
#define FP_MAX_MESSAGE  128u             /* bytes of a print or panic text */
#define FP_MAX_SPAN     (1u << 20)       /* bits of a bitflip, bytes of an overrun */
#define FP_MAX_SLEEP_NS 86400000000000LL /* a day */

/* ---- parse.c: grammar alone, no names, no allocation for a program --------------------------- */

struct fp_term
{
    uint64_t chance; /* fires when a 63-bit draw is below; 2^63 is always */
    uint64_t count;  /* how often it may fire; 0 is no limit */
    int64_t value;   /* RETURN: value, ERRNO: errno, SLEEP: nanoseconds */
    uint32_t action; /* enum rguard_fp_action */
    uint32_t len;    /* BITFLIP: bits, OVERRUN: bytes, PRINT and PANIC: bytes of text */
    uint32_t text;   /* PRINT and PANIC: where the text starts in the spec */
    uint32_t offset; /* of the action's word in the spec, for errors of later phases */
    uint32_t length;
};

struct fp_spec
{
    uint32_t nterms;
    struct fp_term terms[FP_MAX_TERMS];
};

struct fp_binding
{
    size_t name; /* offsets and lengths in the config's text */
    size_t name_len;
    size_t text;
    size_t text_len;
    struct fp_spec spec;
};

struct fp_config
{
    struct fp_binding *bindings;
    size_t n;
};

/* 0, RGUARD_ESPEC or -ENOMEM. @text_off and @text_len are the program without outer blanks. */
int rguard__fp_parse_program(const char *text, struct fp_spec *spec, size_t *text_off,
                             size_t *text_len, struct rguard_fp_error *err);
/* On success the caller frees config->bindings. */
int rguard__fp_parse_config(const char *text, struct fp_config *config,
                            struct rguard_fp_error *err);

const char *rguard__fp_action_name(uint32_t action);

/* ---- eval.c: what is armed and how it decides ------------------------------------------------ */

struct fp_program;

/* One per name that was ever armed, never freed, shared by all sites of the name; site->program
 * points here. */
struct fp_point
{
    struct fp_point *next;
    uint64_t hash; /* FNV-1a of the name */
    char *name;
    struct fp_program *program;  /* atomic; NULL while disarmed */
    struct fp_program *retired;  /* under the registry's lock */
    uint64_t hits;               /* of programs that were freed; under the registry's lock */
    _Alignas(64) uint32_t users; /* atomic: threads between loading program and leaving it */
    uint64_t fired;              /* atomic */
    uint64_t last_ns;            /* atomic */
};

uint64_t rguard__fp_hash(const char *name, size_t len);
uint64_t rguard__fp_key(uint64_t seed, const char *node, uint64_t name_hash);

/* NULL when memory is short. @text of @len bytes is copied. */
struct fp_program *rguard__fp_program_new(const struct fp_spec *spec, uint64_t key,
                                          const char *text, size_t len);
void rguard__fp_program_free(struct fp_program *program);
const char *rguard__fp_program_text(const struct fp_program *program);

/* Puts @program (NULL disarms) in place of the present one, wakes who sleeps in that one and frees
 * what nobody can be in any more. Under the registry's lock. */
void rguard__fp_swap(struct fp_point *point, struct fp_program *program);
uint64_t rguard__fp_hits(const struct fp_point *point);

/* In the child of a fork: only this thread is left. */
void rguard__fp_point_forked(struct fp_point *point);

/* Sites that this thread reaches do nothing from now on. */
void rguard__fp_mask_thread(void);

/* ---- registry.c ------------------------------------------------------------------------------ */

struct fp_plan;

/* Parses, resolves and checks @text: a program for @name, or a config when @name is NULL. */
int rguard__fp_plan(const char *name, const char *text, struct fp_plan **plan,
                    struct rguard_fp_error *err);
void rguard__fp_plan_publish(struct fp_plan *plan); /* arms all of it and frees it */
void rguard__fp_plan_drop(struct fp_plan *plan);

#define FP_MAX_NODE 63u
/* What programs that are planned from now on draw from. */
void rguard__fp_set_seed(uint64_t seed, const char *node);
uint64_t rguard__fp_seed(char node[FP_MAX_NODE + 1]);

/* ---- journal.c ------------------------------------------------------------------------------- */

#define FP_JOURNAL_MAGIC    0x314e524a50464752ULL /* "RGFPJRN1" */
#define FP_JOURNAL_CAPACITY 4096u
#define FP_JOURNAL_HEADER   4096u

struct fp_journal_header
{
    uint64_t magic;
    uint32_t version;     /* 1 */
    uint32_t record_size; /* 128 */
    uint64_t capacity;
    uint64_t head; /* records ever written; atomic */
    uint64_t seed; /* of the last process that opened it */
    char node[FP_MAX_NODE + 1];
};

/* Valid if and only if seq == n + 1 for the slot's n: written last, as in the trace ring. */
struct fp_journal_record
{
    uint64_t ns; /* CLOCK_MONOTONIC */
    uint64_t hash;
    uint64_t ordinal; /* which hit since the program was armed; 1 is the first */
    int64_t value;
    uint32_t action;
    uint32_t len;
    uint32_t term; /* which one of the chain fired; 0 is the first */
    uint32_t pid;
    uint32_t tid;
    uint32_t reserved;
    char name[64]; /* cut when longer; hash is of the whole name */
    uint64_t seq;
};

int rguard__fp_journal_open(const char *path, uint64_t seed, const char *node);
/* Any thread, async-signal-safe; does nothing when no journal is open. Fills pid, tid and seq. */
void rguard__fp_journal_write(struct fp_journal_record *record, const char *name);
void rguard__fp_journal_close(void);
void rguard__fp_journal_forked(void);

/* ---- control.c ------------------------------------------------------------------------------- */

void rguard__fp_unlisten(void);
void rguard__fp_control_lock(void);
void rguard__fp_control_unlock(void);
void rguard__fp_control_forked(void);

/* ---- commands.c ------------------------------------------------------------------------------ */

struct fp_buf;

/* Carries out one line of the protocol (without its LF; NUL-terminated at @len) and appends one
 * line of JSON. For a `set` that can be done it leaves the plan: the caller publishes it once the
 * reply has been sent, because the program may end the process. */
void rguard__fp_command(char *line, size_t len, struct fp_buf *reply, struct fp_plan **plan);
void rguard__fp_refuse(struct fp_buf *reply, int code, const char *why);

/* ---- text.c ---------------------------------------------------------------------------------- */

/* Edits (insert, delete, replace, swap neighbours) between two words, case ignored. Words longer
 * than 64 bytes are UINT_MAX apart from everything. */
unsigned rguard__fp_distance(const char *a, size_t alen, const char *b, size_t blen);

/* true when @distance is close enough to suggest a word to who wrote @len bytes. */
bool rguard__fp_close_enough(unsigned distance, size_t len);

/* Fills @err (may be NULL) and returns @code. */
int rguard__fp_error(struct rguard_fp_error *err, int code, size_t offset, size_t length,
                     const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* Writes @tmpl with %p, %n and %% replaced; RGUARD_ESPEC or -ENAMETOOLONG. */
int rguard__fp_expand(const char *tmpl, const char *node, char *out, size_t cap,
                      struct rguard_fp_error *err);

struct fp_buf
{
    char *data;
    size_t len;
    size_t cap;
    bool failed; /* memory ran out; len stays where it was */
};

void rguard__fp_put(struct fp_buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void rguard__fp_put_bytes(struct fp_buf *buf, const char *data, size_t len);
/* A JSON string with its quotes. */
void rguard__fp_put_string(struct fp_buf *buf, const char *text);

#endif
