/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_CHANNEL_H
#define RGUARD_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* The seam between raftlog and the world: frames, notices, timers, clocks, readiness of the log's
 * descriptor and background work. Not installed. channel_uv.c is libuv on real sockets; a simulator
 * supplies another one. Everything runs on one thread.
 *
 * Delivery: frames of one peer arrive in order or not at all, each at most once per connection, and
 * only after their checksum has been verified; notices arrive any number of times in any order. */

#define RGUARD_CHANNEL_MAX_PEERS 16

/* Timers are numbered, one-shot and restartable; each has one meaning. */
enum rguard_timer {
    RGUARD_TIMER_TICK,     /* libraft's tick, every heartbeat */
    RGUARD_TIMER_WAL,      /* rguard_wal_timeout_ms() */
    RGUARD_TIMER_HANDOVER, /* rank k waits k steps; a close waits for its successor */
    RGUARD_TIMER_PROBE,    /* digests are asked for again */
    RGUARD_TIMER_SOON,     /* as soon as the present callback has returned to the loop */
    RGUARD_TIMER_COUNT
};

struct rguard_channel_events
{
    void *user;
    /* @body is valid during the call. */
    void (*frame)(void *user, uint64_t peer, uint16_t type, const uint8_t *body, size_t len);
    void (*notice)(void *user, const uint8_t *bytes, size_t len);
    /* A connection in the sending direction came up or went down. */
    void (*link)(void *user, uint64_t peer, bool up);
    void (*timer)(void *user, enum rguard_timer which);
    void (*readable)(void *user); /* the descriptor given to watch() */
    void (*log)(void *user, int level, const char *line);
};

typedef void (*rguard_channel_sent)(void *user, int status); /* 0 or a negative error */

struct rguard_channel;

struct rguard_channel_ops
{
    /* Starts to listen and to connect to the peers. */
    int (*start)(struct rguard_channel *c);
    /* Adds or updates a peer; connecting is the channel's business. */
    int (*peer)(struct rguard_channel *c, uint64_t id, const char *address);
    /* Copies the frame and returns; @sent runs later, from the loop. -ENOTCONN, RGUARD_EBUSY,
     * RGUARD_ETOOBIG: @sent does not run. */
    int (*send)(struct rguard_channel *c, uint64_t peer, uint16_t type, const struct iovec *iov,
                int n, rguard_channel_sent sent, void *user);
    /* Boot nonce that @peer announced on its present connection, 0 when there is none. */
    uint64_t (*nonce)(struct rguard_channel *c, uint64_t peer);
    /* The application address that @peer announced, NULL when not known. */
    const char *(*announced)(struct rguard_channel *c, uint64_t peer);
    unsigned (*connected)(struct rguard_channel *c);
    uint64_t (*bad_frames)(struct rguard_channel *c);
    /* A connected datagram descriptor for send(2) from a signal handler, -1 when there is none. */
    int (*notice_fd)(struct rguard_channel *c, uint64_t peer);
    void (*arm)(struct rguard_channel *c, enum rguard_timer which, uint64_t ms);
    void (*disarm)(struct rguard_channel *c, enum rguard_timer which);
    uint64_t (*now_ms)(struct rguard_channel *c);
    uint32_t (*random)(struct rguard_channel *c);
    int (*watch)(struct rguard_channel *c, int fd);
    /* @work on another thread, then @done on this one. */
    int (*work)(struct rguard_channel *c, void (*work)(void *user), void (*done)(void *user),
                void *user);
    /* Ends everything: pending sends report an error, no event follows; @closed runs from the loop
     * when all work is done and every handle is gone, and the channel with it. */
    void (*close)(struct rguard_channel *c, void (*closed)(void *user), void *user);
};

struct rguard_channel
{
    const struct rguard_channel_ops *ops;
};

struct rguard_channel_config
{
    uint64_t id;          /* own */
    uint64_t nonce;       /* of this boot */
    const char *address;  /* own "a.b.c.d:port" */
    const char *announce; /* NULL or what peers are told */
    size_t max_frame;     /* largest body accepted or sent, snapshots excepted */
    size_t max_snapshot;
    struct rguard_channel_events events;
};

struct uv_loop_s;

/* Binds TCP and UDP; RGUARD_EREFUSED when the address is not a loopback one (frames carry no MAC
 * without a cluster key), -EADDRINUSE, -EINVAL. */
int rguard__channel_uv(struct uv_loop_s *loop, const struct rguard_channel_config *config,
                       struct rguard_channel **out);

#endif
