/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_COMMANDS_H
#define KV_COMMANDS_H

#include "backend.h"
#include "resp.h"

/* The commands: names, arity, what they replicate, what they answer. No sockets, no order; those
 * are the server's. */

struct kv_context
{
    struct kv_engine *engine;
    const struct kv_backend_ops *ops;
    struct kv_backend *backend;
    void (*shutdown)(void *user); /* SHUTDOWN was asked for */
    void *user;
    uint64_t acked; /* writes answered with success */
    uint64_t connections, refused, protocol_errors;
    unsigned clients;
};

enum kv_class {
    KV_NOW,   /* answered as soon as everything before it is */
    KV_READ,  /* and when a read barrier that began after it has passed */
    KV_WRITE, /* and when it is applied */
};

struct kv_command
{
    const char *name; /* upper case */
    enum kv_class class_;
    unsigned min, max; /* arguments, the name included */
    enum kv_op op;     /* KV_WRITE: what is proposed, its arguments are argv[1..] */
    bool closes;       /* the connection ends behind the reply */
    void (*run)(struct kv_context *ctx, const struct kv_slice *argv, unsigned argc,
                struct resp_out *out); /* not KV_WRITE */
};

/* The command of a request, or NULL when it must not run; then @out has got the error. */
const struct kv_command *kv_command_find(const struct kv_slice *argv, unsigned argc,
                                         struct resp_out *out);

/* The reply to a write that was applied: @result is the engine's. */
void kv_reply_applied(struct kv_context *ctx, uint64_t index, const void *result,
                      struct resp_out *out);

/* The reply to a read or write that was not carried out (@status), or whose outcome is not known
 * (RGUARD_ELOST, RGUARD_ECANCELED of a write). */
void kv_reply_failed(struct kv_context *ctx, enum kv_class class_, int status,
                     struct resp_out *out);

#endif
