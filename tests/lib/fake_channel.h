/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_TEST_FAKE_CHANNEL_H
#define RGUARD_TEST_FAKE_CHANNEL_H

#include <raftguard/channel.h>

/* A channel that goes nowhere: the clock is a field, timers are recorded instead of fired, frames
 * are kept for the test to look at, work waits until it is told to run. Only notices are real: each
 * peer has a connected UDP socket on loopback and the socket at its other end, because what is
 * tested there is send(2) from a sealed page.
 *
 * As with the real one, nothing calls back from inside send(), arm() or work(). */

struct fake_frame
{
    uint64_t to;
    uint16_t type;
    uint8_t *body;
    size_t len;
    rguard_channel_sent sent;
    void *user;
};

struct fake_peer
{
    uint64_t id;
    uint64_t nonce;
    int out; /* what notice_fd() hands out, -1 when the peer was added without sockets */
    int in;  /* where its datagrams arrive */
};

struct fake_work
{
    void (*work)(void *user);
    void (*done)(void *user);
    void *user;
};

#define FAKE_FRAMES 256
#define FAKE_WORK   16

struct fake_channel
{
    struct rguard_channel base;
    uint64_t now_ms;
    struct fake_peer peers[RGUARD_CHANNEL_MAX_PEERS];
    unsigned n_peers;
    bool armed[RGUARD_TIMER_COUNT];
    uint64_t due_ms[RGUARD_TIMER_COUNT]; /* when an armed timer would fire */
    struct fake_frame frames[FAKE_FRAMES];
    unsigned n_frames;
    struct fake_work work[FAKE_WORK];
    unsigned n_work;
    uint32_t random;
};

extern const struct rguard_channel_ops fake_channel_ops;

void fake_channel_init(struct fake_channel *f);
void fake_channel_fini(struct fake_channel *f);

/* Adds a peer with sockets for notices and a boot nonce. */
struct fake_peer *fake_channel_add(struct fake_channel *f, uint64_t id, uint64_t nonce);

/* Reads one datagram that peer @id was sent; 0 when there is none. */
size_t fake_channel_datagram(struct fake_channel *f, uint64_t id, uint8_t *buf, size_t cap);

/* Forgets the frames; those that want to hear of it are told @status first. */
void fake_channel_drain(struct fake_channel *f, int status);

/* Runs what work() was given, in order, also what that adds. */
void fake_channel_run(struct fake_channel *f);

#endif
