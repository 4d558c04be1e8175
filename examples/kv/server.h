/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_SERVER_H
#define KV_SERVER_H

#include "backend.h"

/* RESP over TCP for many clients on one loop. */

struct kv_server;

struct kv_server_options
{
    uv_loop_t *loop;
    const char *listen; /* "host:port", numeric IPv4 */
    struct kv_engine *engine;
    unsigned max_clients;         /* 0 = 1024 */
    void (*shutdown)(void *user); /* a client sent SHUTDOWN */
    void *user;
};

/* Binds and listens; nobody is accepted before the loop runs. On failure nothing is left open. */
int kv_server_open(const struct kv_server_options *options, struct kv_server **out, char *errmsg,
                   size_t cap);

/* Whom to propose to and read from. Before the loop runs. */
void kv_server_attach(struct kv_server *s, const struct kv_backend_ops *ops,
                      struct kv_backend *backend);

/* Accepts nobody and reads nothing from now on; what was read is still answered. */
void kv_server_stop(struct kv_server *s);

/* After stop, and after the backend has closed: gives the last replies half a second to leave, then
 * closes every connection. @cb runs when the server is gone. */
void kv_server_close(struct kv_server *s, void (*cb)(void *user), void *user);

#endif
