/* SPDX-License-Identifier: Apache-2.0 */

/* Connections, and the order of things.
 *
 *     socket -> resp_next() -> command -+- propose --- applied --+
 *                                       +- read ------ barrier --+-> head of the queue -> reply
 *                                       +- at once --------------+
 *
 *     client->head -> op -> op -> op     oldest first; only the head may be answered
 *
 * Invariants:
 *  - Replies leave in the order of the requests, and a connection sees its own commands in order: a
 *    read looks into the engine only when everything before it has been answered, and a write is
 * not proposed while an earlier read of the same connection is unanswered.
 *  - A read is answered after a barrier that began after the read arrived. All reads that wait
 * share one barrier, and there is at most one under way.
 *  - A client that sends faster than it reads, or than the cluster applies, is not read: no more
 * than MAX_OPS commands and about MAX_QUEUED bytes of it wait here.
 *  - A client outlives its socket until the last of its proposals has come back.
 *
 * Work that any callback makes due is done in on_turn(), once per loop turn: one write per client.
 */

#include "server.h"

#include "commands.h"
#include "log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CLIENTS 1024u
#define MAX_OPS     1024u
#define MAX_QUEUED  ((size_t)1 << 20)
#define LINGER_MS   500
#define BACKLOG     511

/* One command, or one finished reply, that waits for its turn. */
struct op
{
    struct op *next;  /* of the same client */
    struct op *after; /* in the same batch of reads */
    struct client *client;
    const struct kv_command *command; /* NULL: bytes is a reply */
    bool waiting;                     /* for the backend */
    int status;
    void *result;
    uint64_t index;
    size_t len;            /* what it counts for in client->queued */
    unsigned char bytes[]; /* arguments, encoded as a command; empty for a write */
};

struct client
{
    uv_tcp_t tcp;
    uv_write_t write;
    struct kv_server *server;
    struct client *prev, *next;
    struct client *next_due;
    struct resp_parser in;
    struct resp_request held; /* argc 0, or a request that may not run yet */
    struct resp_out out;      /* the next write */
    struct resp_out sending;  /* the one under way, len 0: none */
    struct op *head, *tail;
    unsigned ops, reads; /* in the queue; reads among them */
    unsigned waiting;    /* ops the backend holds, also those whose socket is gone */
    size_t queued;       /* bytes of the ops in the queue */
    bool due;            /* in server->due */
    bool reading;        /* from the socket */
    bool more;           /* parsing stopped because too much is queued */
    bool eof;            /* the client sends nothing more */
    bool deaf;           /* nothing more is parsed: the connection ends when all is said */
    bool closing, closed;
};

struct kv_server
{
    struct kv_context ctx;
    uv_loop_t *loop;
    uv_tcp_t listener;
    uv_prepare_t turn;
    uv_timer_t linger;
    unsigned max_clients;
    bool stopped;
    unsigned handles; /* listener, turn, linger */
    struct client *clients;
    struct client *due;
    struct op *reads, **reads_end; /* wait for the next barrier */
    struct op *barrier;            /* wait for the one under way */
    void *scratch;                 /* one encoded command */
    size_t scratch_cap;
    struct kv_slice argv[RESP_MAX_ARGS];
    void (*closed)(void *user);
    void *user;
};

static void on_connection(uv_stream_t *stream, int status);
static void on_turn(uv_prepare_t *turn);
static void mark_due(struct client *c);
static void parse(struct client *c);
static void answer(struct client *c);
static void transmit(struct client *c);
static void start_barrier(struct kv_server *s);
static void close_client(struct client *c);
static void on_handle_closed(uv_handle_t *handle);

int kv_server_open(const struct kv_server_options *options, struct kv_server **out, char *errmsg,
                   size_t cap)
{
    char host[32];
    struct sockaddr_in address;
    const char *colon = strchr(options->listen, ':');
    struct kv_server *s = calloc(1, sizeof *s);
    if (s == NULL || colon == NULL || (size_t)(colon - options->listen) >= sizeof host) {
        snprintf(errmsg, cap, "%s: not host:port, or out of memory", options->listen);
        free(s);
        return -EINVAL;
    }
    snprintf(host, sizeof host, "%.*s", (int)(colon - options->listen), options->listen);
    s->ctx = (struct kv_context){
        .engine = options->engine, .shutdown = options->shutdown, .user = options->user};
    s->loop = options->loop;
    s->max_clients = options->max_clients != 0 ? options->max_clients : MAX_CLIENTS;
    s->reads_end = &s->reads;
    uv_tcp_init(s->loop, &s->listener);
    uv_prepare_init(s->loop, &s->turn);
    uv_timer_init(s->loop, &s->linger);
    s->listener.data = s->turn.data = s->linger.data = s;
    s->handles = 3;
    int rc = uv_ip4_addr(host, atoi(colon + 1), &address);
    if (rc == 0) {
        rc = uv_tcp_bind(&s->listener, (const struct sockaddr *)&address, 0);
    }
    if (rc == 0) {
        rc = uv_listen((uv_stream_t *)&s->listener, BACKLOG, on_connection);
    }
    if (rc == 0) {
        rc = uv_prepare_start(&s->turn, on_turn);
    }
    if (rc != 0) {
        snprintf(errmsg, cap, "%s: %s", options->listen, uv_strerror(rc));
        kv_server_stop(s);
        kv_server_close(s, NULL, NULL);
        uv_run(options->loop, UV_RUN_NOWAIT);
        return rc;
    }
    *out = s;
    return 0;
}

void kv_server_attach(struct kv_server *s, const struct kv_backend_ops *ops,
                      struct kv_backend *backend)
{
    s->ctx.ops = ops;
    s->ctx.backend = backend;
}

void kv_server_stop(struct kv_server *s)
{
    if (!s->stopped) {
        s->stopped = true;
        uv_close((uv_handle_t *)&s->listener, on_handle_closed);
        for (struct client *c = s->clients; c != NULL; c = c->next) {
            c->deaf = true;
            c->held.argc = 0;
            mark_due(c);
        }
    }
}

static void end_if_empty(struct kv_server *s)
{
    if (s->ctx.backend == NULL && s->stopped && s->clients == NULL &&
        !uv_is_closing((uv_handle_t *)&s->turn)) {
        uv_close((uv_handle_t *)&s->turn, on_handle_closed);
        uv_close((uv_handle_t *)&s->linger, on_handle_closed);
    }
}

static void on_linger(uv_timer_t *timer)
{
    struct kv_server *s = timer->data;
    for (struct client *c = s->clients, *next; c != NULL; c = next) {
        next = c->next;
        close_client(c);
    }
}

void kv_server_close(struct kv_server *s, void (*cb)(void *user), void *user)
{
    s->closed = cb;
    s->user = user;
    s->ctx.backend = NULL;
    uv_timer_start(&s->linger, on_linger, LINGER_MS, 0);
    end_if_empty(s);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct kv_server *s = handle->data;
    if (--s->handles == 0) {
        void (*closed)(void *) = s->closed;
        void *user = s->user;
        free(s->scratch);
        free(s);
        if (closed != NULL) {
            closed(user);
        }
    }
}

/* ---- the turn -------------------------------------------------------------------------------- */

static void mark_due(struct client *c)
{
    if (!c->due && !c->closing) {
        c->due = true;
        c->next_due = c->server->due;
        c->server->due = c;
    }
}

static void on_turn(uv_prepare_t *turn)
{
    struct kv_server *s = turn->data;
    while (s->due != NULL) {
        struct client *c = s->due;
        s->due = c->next_due;
        c->due = false;
        answer(c);
        parse(c);
        answer(c);
        transmit(c);
        if (s->due == NULL) {
            start_barrier(s); /* when it fails at once, its reads are due now */
        }
    }
}

static bool is_backed_up(const struct client *c)
{
    return c->ops >= MAX_OPS || c->queued + c->out.len + c->sending.len >= MAX_QUEUED;
}

/* ---- sockets --------------------------------------------------------------------------------- */

static void on_client_closed(uv_handle_t *handle);
static void free_if_unused(struct client *c);

static void on_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct client *c = handle->data;
    char *where = NULL;
    size_t room = 0;
    (void)suggested;
    if (resp_reserve(&c->in, &where, &room) != 0) {
        room = 0; /* libuv reports UV_ENOBUFS to on_read */
    }
    *buf = uv_buf_init(where, (unsigned)room);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct client *c = stream->data;
    (void)buf;
    if (n > 0) {
        resp_received(&c->in, (size_t)n);
        mark_due(c);
    } else if (n == UV_EOF) {
        c->eof = true; /* it may still wait for replies */
        mark_due(c);
    } else if (n < 0) {
        close_client(c);
    }
}

static void on_connection(uv_stream_t *stream, int status)
{
    static char full[] = "-ERR max number of clients reached\r\n";
    struct kv_server *s = stream->data;
    struct client *c = status == 0 ? calloc(1, sizeof *c) : NULL;
    if (c == NULL) {
        kv_log(RGUARD_LOG_WARN, "a connection was not accepted: %s",
               status != 0 ? uv_strerror(status) : "out of memory");
        return;
    }
    c->server = s;
    resp_init(&c->in);
    uv_tcp_init(s->loop, &c->tcp);
    c->tcp.data = c;
    c->write.data = c;
    c->next = s->clients;
    if (c->next != NULL) {
        c->next->prev = c;
    }
    s->clients = c;
    s->ctx.clients++;
    s->ctx.connections++;
    int rc = uv_accept(stream, (uv_stream_t *)&c->tcp);
    if (rc != 0 || s->ctx.clients > s->max_clients) {
        uv_buf_t text = uv_buf_init(full, sizeof full - 1);
        if (rc == 0) {
            (void)uv_try_write((uv_stream_t *)&c->tcp, &text, 1);
        }
        s->ctx.refused++;
        close_client(c);
        return;
    }
    (void)uv_tcp_nodelay(&c->tcp, 1);
    mark_due(c);
}

static void on_written(uv_write_t *write, int status)
{
    struct client *c = write->data;
    c->sending.len = 0;
    if (status != 0) {
        close_client(c);
    } else {
        mark_due(c);
    }
}

/* Starts the next write, stops or resumes reading, closes what has nothing left to say. */
static void transmit(struct client *c)
{
    if (c->closing) {
        return;
    }
    if (c->out.failed) {
        close_client(c);
        return;
    }
    if (c->sending.len == 0 && c->out.len > 0) {
        struct resp_out done = c->sending;
        c->sending = c->out;
        c->out = done;
        if (c->out.cap > MAX_QUEUED / 4) {
            resp_out_free(&c->out); /* one large reply must not be paid for ever after */
        }
        uv_buf_t buf = uv_buf_init(c->sending.data, (unsigned)c->sending.len);
        if (uv_write(&c->write, (uv_stream_t *)&c->tcp, &buf, 1, on_written) != 0) {
            close_client(c);
            return;
        }
    }
    bool read = !c->eof && !c->deaf && c->held.argc == 0 && !is_backed_up(c);
    if (read != c->reading) {
        c->reading = read;
        if (read) {
            (void)uv_read_start((uv_stream_t *)&c->tcp, on_room, on_read);
        } else {
            (void)uv_read_stop((uv_stream_t *)&c->tcp);
        }
    }
    if (c->deaf && c->head == NULL && c->sending.len == 0) {
        close_client(c);
    } else if (c->more && !is_backed_up(c)) {
        mark_due(c);
    }
}

static void close_client(struct client *c)
{
    if (c->closing) {
        return;
    }
    c->closing = true;
    for (struct op *op = c->head, *next; op != NULL; op = next) {
        next = op->next;
        if (!op->waiting) {
            free(op); /* the others are freed when the backend gives them back */
        }
    }
    c->head = NULL;
    uv_close((uv_handle_t *)&c->tcp, on_client_closed);
}

static void on_client_closed(uv_handle_t *handle)
{
    struct client *c = handle->data;
    struct kv_server *s = c->server;
    struct client **due = &s->due;
    while (c->due && *due != c) {
        due = &(*due)->next_due;
    }
    if (c->due) {
        *due = c->next_due;
    }
    if (c->prev != NULL) {
        c->prev->next = c->next;
    } else {
        s->clients = c->next;
    }
    if (c->next != NULL) {
        c->next->prev = c->prev;
    }
    s->ctx.clients--;
    resp_free(&c->in);
    resp_out_free(&c->out);
    resp_out_free(&c->sending);
    c->closed = true;
    free_if_unused(c);
    end_if_empty(s);
}

static void free_if_unused(struct client *c)
{
    if (c->closed && c->waiting == 0) {
        free(c);
    }
}

/* ---- commands -------------------------------------------------------------------------------- */

static struct op *add_op(struct client *c, const struct kv_command *command, const void *bytes,
                         size_t len)
{
    struct op *op = malloc(sizeof *op + (bytes != NULL ? len : 0));
    if (op == NULL) {
        close_client(c); /* an order with a gap in it is no order */
        return NULL;
    }
    *op = (struct op){.client = c, .command = command, .len = len};
    if (bytes != NULL) {
        memcpy(op->bytes, bytes, len);
    }
    if (c->head == NULL) {
        c->head = op;
    } else {
        c->tail->next = op;
    }
    c->tail = op;
    c->ops++;
    c->queued += len;
    c->reads += command != NULL && command->class_ == KV_READ ? 1 : 0;
    return op;
}

/* A reply that is known already, in its place. */
static void add_reply(struct client *c, struct resp_out *reply)
{
    if (reply->failed) {
        close_client(c);
    } else if (c->head == NULL) {
        resp_raw(&c->out, reply->data, reply->len);
    } else {
        (void)add_op(c, NULL, reply->data, reply->len);
    }
    resp_out_free(reply);
}

/* The backend is done with @op, successfully or not. */
static void complete(struct op *op, int status)
{
    struct client *c = op->client;
    op->status = status;
    op->waiting = false;
    c->waiting--;
    if (c->closing) {
        free(op);
        free_if_unused(c);
    } else {
        mark_due(c);
    }
}

static void on_applied(void *user, int status, void *result, uint64_t index)
{
    struct op *op = user;
    op->result = result;
    op->index = index;
    complete(op, status);
}

static void on_barrier(void *user, int status)
{
    struct kv_server *s = user;
    struct op *op = s->barrier;
    s->barrier = NULL;
    while (op != NULL) {
        struct op *after = op->after;
        complete(op, status);
        op = after;
    }
}

static void start_barrier(struct kv_server *s)
{
    if (s->barrier != NULL || s->reads == NULL) {
        return;
    }
    s->barrier = s->reads;
    s->reads = NULL;
    s->reads_end = &s->reads;
    int rc =
        s->ctx.backend != NULL ? s->ctx.ops->read(s->ctx.backend, on_barrier, s) : RGUARD_ECANCELED;
    if (rc != 0) {
        on_barrier(s, rc);
    }
}

/* Encodes @argv into s->scratch. Its length, or 0 when memory ran out. */
static size_t encode(struct kv_server *s, enum kv_op op, const struct kv_slice *argv, unsigned n)
{
    size_t size = kv_command_size(argv, n);
    if (size > s->scratch_cap) {
        void *grown = realloc(s->scratch, size);
        if (grown == NULL) {
            return 0;
        }
        s->scratch = grown;
        s->scratch_cap = size;
    }
    kv_command_encode(s->scratch, op, argv, n);
    return size;
}

/* Starts a command of which s->argv holds the arguments. */
static void begin(struct client *c, const struct kv_command *command, unsigned argc)
{
    struct kv_server *s = c->server;
    c->deaf = command->closes;
    if (command->class_ == KV_NOW && c->head == NULL) {
        command->run(&s->ctx, s->argv, argc, &c->out);
        return;
    }
    bool write = command->class_ == KV_WRITE;
    size_t len = write ? encode(s, command->op, s->argv + 1, argc - 1)
                       : encode(s, command->op, s->argv, argc);
    struct op *op = len > 0 ? add_op(c, command, write ? NULL : s->scratch, len) : NULL;
    if (op == NULL) {
        close_client(c);
        return;
    }
    if (command->class_ == KV_NOW) {
        return;
    }
    op->waiting = true;
    c->waiting++;
    if (command->class_ == KV_READ) {
        *s->reads_end = op;
        s->reads_end = &op->after;
        return;
    }
    bool room = command->op != KV_OP_SET || kv_engine_has_room(s->ctx.engine);
    int rc = room ? s->ctx.ops->propose(s->ctx.backend, s->scratch, len, on_applied, op)
                  : RGUARD_EARENAFULL;
    if (rc != 0) {
        complete(op, rc);
    }
}

static void parse(struct client *c)
{
    struct kv_server *s = c->server;
    struct resp_out text = {0};
    c->more = false;
    while (!c->closing && !c->deaf) {
        if (is_backed_up(c)) {
            c->more = true;
            return;
        }
        struct resp_request request = c->held;
        int status = request.argc > 0 ? RESP_REQUEST : resp_next(&c->in, &request);
        c->held.argc = 0;
        if (status == RESP_MORE) {
            c->deaf = c->eof;
            return;
        }
        if (status != RESP_REQUEST) {
            s->ctx.protocol_errors++;
            resp_error(&text, "ERR Protocol error: %s",
                       status == RESP_ERROR ? c->in.error : "out of memory");
            add_reply(c, &text);
            c->deaf = true;
            return;
        }
        for (unsigned i = 0; i < request.argc; i++) {
            s->argv[i] = (struct kv_slice){request.argv[i].data, request.argv[i].len};
        }
        const struct kv_command *command = kv_command_find(s->argv, request.argc, &text);
        if (command == NULL) {
            add_reply(c, &text);
        } else if (command->class_ == KV_WRITE && c->reads > 0) {
            c->held = request; /* until those reads are answered */
            return;
        } else {
            begin(c, command, request.argc);
        }
    }
}

static void reply(struct kv_server *s, struct op *op, struct resp_out *out)
{
    const struct kv_command *command = op->command;
    if (command == NULL) {
        resp_raw(out, op->bytes, op->len);
    } else if (op->status != 0) {
        kv_reply_failed(&s->ctx, command->class_, op->status, out);
    } else if (command->class_ == KV_WRITE) {
        kv_reply_applied(&s->ctx, op->index, op->result, out);
    } else {
        size_t cursor = KV_COMMAND_HEADER;
        unsigned argc = kv_command_argc(op->bytes);
        for (unsigned i = 0; i < argc; i++) {
            s->argv[i] = kv_command_next(op->bytes, &cursor);
        }
        command->run(&s->ctx, s->argv, argc, out);
    }
}

/* Answers from the head of the queue on, as far as results and the socket allow. */
static void answer(struct client *c)
{
    while (!c->closing && c->head != NULL && !c->head->waiting &&
           c->out.len + c->sending.len < MAX_QUEUED) {
        struct op *op = c->head;
        c->head = op->next;
        c->ops--;
        c->queued -= op->len;
        c->reads -= op->command != NULL && op->command->class_ == KV_READ ? 1 : 0;
        reply(c->server, op, &c->out);
        free(op);
    }
}
