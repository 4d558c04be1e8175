/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_FAILPOINT_H
#define RGUARD_FAILPOINT_H

#include <raftguard/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* failpoints: named places where a fault can be made to happen.
 *
 * A site costs one relaxed load of one hot byte while it is off. Builds with
 * -DRGUARD_NO_FAILPOINTS have no sites at all; the functions below stay and answer RGUARD_ENOTSUP.
 *
 * Grammar:  config  = name "=" program { ";" name "=" program } [ ";" ]
 *           program = term { "->" term }          the first term that fires wins
 *           term    = [ P "%" ] [ N "*" ] action [ "(" arg ")" ]
 *           action  = off | return | errno | sleep | panic | abort | kill | print
 *                   | bitflip | overrun | double_free
 * Blanks between tokens are free. P is 0..100, fractions allowed; N >= 1 is how often the term
 * fires before the next one takes over. Parsing is all or nothing. */

#ifdef __cplusplus
extern "C" {
#endif

enum rguard_fp_action {
    RGUARD_FP_NONE = 0, /* nothing fired */
    RGUARD_FP_OFF,
    RGUARD_FP_RETURN,      /* arg: integer value */
    RGUARD_FP_ERRNO,       /* arg: EIO, ENOSPC, ... or a number */
    RGUARD_FP_SLEEP,       /* arg: 10 (ms), 10us, 10ms, 1s */
    RGUARD_FP_PANIC,       /* message to stderr, then abort() */
    RGUARD_FP_ABORT,       /* abort() */
    RGUARD_FP_KILL,        /* SIGKILL to the own process */
    RGUARD_FP_PRINT,       /* line to stderr */
    RGUARD_FP_BITFLIP,     /* arg: how many bits, default 1; MUTATE sites */
    RGUARD_FP_OVERRUN,     /* arg: bytes written past the end, default 1; MUTATE sites */
    RGUARD_FP_DOUBLE_FREE, /* the site itself frees the same slot twice */
    RGUARD_FP_ACTION_MAX
};

/* Capabilities of a site: what may be armed on it. Checked when it is armed, never when it is hit.
 */
#define RGUARD_FP_CAN_RETURN      1u
#define RGUARD_FP_CAN_ERRNO       2u
#define RGUARD_FP_CAN_MUTATE      4u
#define RGUARD_FP_CAN_DOUBLE_FREE 8u

/* What a hit decided. Returned in registers. */
struct rguard_fp_hit
{
    uint32_t action; /* enum rguard_fp_action */
    uint32_t len;    /* OVERRUN: bytes, BITFLIP: bits */
    int64_t value;   /* RETURN: value, ERRNO: positive errno */
};

/* One site. Lives in the object file of the site; a pointer to it in section rguard_fp_sites makes
 * it visible before it is ever hit. */
struct rguard_fp_site
{
    const char *name;
    const char *desc;
    const char *file;
    const char *function;
    uint32_t line;
    uint32_t caps;
    uint8_t *hot;  /* non-zero while a program is armed */
    void *program; /* atomic; owned by the registry */
};

struct rguard_fp_error
{
    size_t offset;     /* byte offset into the text */
    size_t length;     /* of the offending token */
    char message[160]; /* "unknown action "retrun" (did you mean "return"?)" */
};

/* Evaluates an armed site. Called by the macros only. Sleeps, prints, panics and kills by itself
 * and returns what the site must do. errno is preserved. */
RGUARD_API struct rguard_fp_hit rguard_fp_eval(struct rguard_fp_site *site);

/* Applies BITFLIP or OVERRUN of @hit to @buf of @len bytes; other actions do nothing. OVERRUN
 * writes
 * @hit.len bytes from buf + len on, with ordinary stores. Returns hit.action. */
RGUARD_API uint32_t rguard_fp_mutate(struct rguard_fp_hit hit, void *buf, size_t len);

/* Parses @config and arms all of it or nothing. 0, RGUARD_ESPEC, RGUARD_EUNKNOWN (no such site),
 * RGUARD_EREFUSED (the site cannot do that); @err (may be NULL) says where and why. Any thread. */
RGUARD_API int rguard_fp_configure(const char *config, struct rguard_fp_error *err);

/* One site (a name arms every site of that name). */
RGUARD_API int rguard_fp_set(const char *name, const char *program, struct rguard_fp_error *err);

/* Disarms; 0 also when it was not armed, RGUARD_EUNKNOWN when there is no such site. */
RGUARD_API int rguard_fp_off(const char *name);
RGUARD_API void rguard_fp_off_all(void);

/* Judges the grammar of one program or one config alone: no names, no capabilities. */
RGUARD_API int rguard_fp_check(const char *text, struct rguard_fp_error *err);

/* Reads RGUARD_FAILPOINTS (config), RGUARD_FAILPOINTS_SEED, RGUARD_FAILPOINTS_NODE (name of this
 * node), RGUARD_FAILPOINTS_JOURNAL and RGUARD_FAILPOINTS_SOCK (paths; %p is the process id, %n the
 * node) from the environment and acts on them; ignored in a setuid process. On any error nothing is
 * armed and nothing listens: RGUARD_ESPEC, RGUARD_EUNKNOWN or RGUARD_EREFUSED, after which programs
 * exit with 78, or what opening the journal or the socket answered; @err->message says which. In a
 * build without failpoints 0 while none of them asks for anything, else RGUARD_ENOTSUP. Call it
 * once, before threads are started. */
RGUARD_API int rguard_fp_init_from_env(struct rguard_fp_error *err);

/* Stops the control thread, removes the socket, closes the journal. */
RGUARD_API void rguard_fp_fini(void);

/* Serves the line protocol of rguard-fp on a Unix socket (mode 0600, peer uid checked). The thread
 * blocks all signals but SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGABRT. A socket file that nobody
 * listens on any more is replaced. RGUARD_ESTATE when there is one already, -EADDRINUSE when
 * another process listens there, -EEXIST when the path is no socket, or -errno. */
RGUARD_API int rguard_fp_listen(const char *path);

struct rguard_fp_stat
{
    size_t size;
    uint64_t hits; /* while armed */
    uint64_t fired;
    uint64_t last_ns; /* CLOCK_MONOTONIC of the last firing */
};
/* The caller sets stat->size. 0, RGUARD_EUNKNOWN, -EINVAL. The numbers are those of the name, all
 * its sites together, and outlive off. */
RGUARD_API int rguard_fp_stat(const char *name, struct rguard_fp_stat *stat);

/* Calls @fn for every site, sorted by name, then file and line. @spec is the armed program or "".
 */
RGUARD_API void rguard_fp_foreach(void (*fn)(void *user, const struct rguard_fp_site *site,
                                             const char *spec),
                                  void *user);

/* true when this library was built with sites. */
RGUARD_API bool rguard_fp_compiled(void);

/* Makes the sites of one executable or shared object known, and forgets them. The constructor at
 * the end of this header does it; nobody else needs to. */
RGUARD_API void rguard_fp_register(struct rguard_fp_site *const *start,
                                   struct rguard_fp_site *const *stop);
RGUARD_API void rguard_fp_unregister(struct rguard_fp_site *const *start);

#ifdef __cplusplus
}
#endif

/* ---- sites ----------------------------------------------------------------------------------- */

#ifndef RGUARD_NO_FAILPOINTS

#define RGUARD_FP_SITE_(name_, desc_, caps_)                                              \
    __extension__({                                                                       \
        static uint8_t rguard_fp_hot_ __attribute__((section("rguard_fp_hot")));          \
        static struct rguard_fp_site rguard_fp_site_ = {                                  \
            (name_), (desc_), __FILE__, __func__, __LINE__, (caps_), &rguard_fp_hot_, 0}; \
        static struct rguard_fp_site *const rguard_fp_entry_                              \
            __attribute__((section("rguard_fp_sites"), used, retain)) = &rguard_fp_site_; \
        __builtin_expect(__atomic_load_n(&rguard_fp_hot_, __ATOMIC_RELAXED) != 0, 0)      \
            ? rguard_fp_eval(&rguard_fp_site_)                                            \
            : (struct rguard_fp_hit){0, 0, 0};                                            \
    })

/* Each executable and each shared object has its own section, which only its own code can see: the
 * linker makes the two symbols, hidden and per object. Weak, so that every file that includes this
 * may carry the pair of functions, one pair is linked, and an object without a site links too. */
#ifdef __cplusplus
extern "C" {
#endif
extern struct rguard_fp_site *const __start_rguard_fp_sites[]
    __attribute__((weak, visibility("hidden")));
extern struct rguard_fp_site *const __stop_rguard_fp_sites[]
    __attribute__((weak, visibility("hidden")));

__attribute__((constructor, weak, visibility("hidden"))) void rguard_fp_module_init_(void);
__attribute__((destructor, weak, visibility("hidden"))) void rguard_fp_module_fini_(void);

void rguard_fp_module_init_(void)
{
    rguard_fp_register(__start_rguard_fp_sites, __stop_rguard_fp_sites);
}

void rguard_fp_module_fini_(void)
{
    rguard_fp_unregister(__start_rguard_fp_sites);
}
#ifdef __cplusplus
}
#endif

#else

#define RGUARD_FP_SITE_(name_, desc_, caps_) ((struct rguard_fp_hit){0, 0, 0})

#endif

/* Sleep, print, panic, abort, kill; nothing for the code around it to do. */
#define RGUARD_FP_POINT(name, desc) ((void)RGUARD_FP_SITE_(name, desc, 0u))

/* bool: true when the site fired with return (whatever its value, but return(0) is false). */
#define RGUARD_FP_IF(name, desc)                                                               \
    (__extension__({                                                                           \
        struct rguard_fp_hit rguard_fp_h_ = RGUARD_FP_SITE_(name, desc, RGUARD_FP_CAN_RETURN); \
        rguard_fp_h_.action == RGUARD_FP_RETURN &&rguard_fp_h_.value != 0;                     \
    }))

/* int: 0, or a negative errno when the site fired with errno(E). */
#define RGUARD_FP_NEGERR(name, desc)                                                          \
    (__extension__({                                                                          \
        struct rguard_fp_hit rguard_fp_h_ = RGUARD_FP_SITE_(name, desc, RGUARD_FP_CAN_ERRNO); \
        rguard_fp_h_.action == RGUARD_FP_ERRNO ? -(int)rguard_fp_h_.value : 0;                \
    }))

/* uint32_t: the action that fired. BITFLIP and OVERRUN have been done to buf; the site handles what
 * else it declared in @caps, e.g. RGUARD_FP_CAN_DOUBLE_FREE. @buf and @len are evaluated only when
 * something fired. */
#define RGUARD_FP_MUTATE(name, desc, caps, buf, len)                                              \
    (__extension__({                                                                              \
        struct rguard_fp_hit rguard_fp_h_ =                                                       \
            RGUARD_FP_SITE_(name, desc, RGUARD_FP_CAN_MUTATE | (caps));                           \
        rguard_fp_h_.action != RGUARD_FP_NONE ? rguard_fp_mutate(rguard_fp_h_, (buf), (len)) : 0; \
    }))

#endif
