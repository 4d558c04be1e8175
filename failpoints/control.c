/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: one thread, poll(), non-blocking clients.
 *
 *     bytes --> in --a line--> commands.c --> out --> bytes sent, all of them --> plan published
 *
 * Invariants
 *   - A client has at most one reply under way. Its next line is looked at only when that reply has
 *     been sent whole and its plan published, so memory per client is bounded by one line and one
 *     reply, and a client that does not read stops only itself.
 *   - A plan is published after its reply was sent, never before; a client that is gone by then has
 *     armed nothing.
 *   - The lock is held whenever the thread is not in poll(): a fork never sees a half-made table.
 *   - A socket file that is removed was either refused by connect() (stale) or is our own inode. */
#include "failpoint_internal.h"

#ifndef RGUARD_NO_FAILPOINTS

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_CLIENTS    64
#define LINES_PER_TURN 16
#define IDLE_MS        1000 /* who may be turned out when all places are taken */
#define RETRY_MS       100  /* how soon to try again after accept() failed */

struct client
{
    int fd;
    struct fp_buf in;
    struct fp_buf out;
    size_t sent;
    struct fp_plan *plan;
    bool discarding; /* inside a line that was too long */
    bool eof;
    bool more; /* whole lines are left for the next turn */
    int64_t active_ms;
};

static struct
{
    pthread_mutex_t lock;
    pthread_t thread;
    bool running;
    int listener;
    int wake;
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    dev_t dev;
    ino_t ino;
    size_t n;
    struct client clients[MAX_CLIENTS]; /* the first n are in use */
    int64_t accept_after_ms;
} ctl = {.lock = PTHREAD_MUTEX_INITIALIZER, .listener = -1, .wake = -1};

static int open_listener(const char *path);
static int start_thread(void);
static void close_all(void);
static void *serve(void *arg);

/* ---- open and close -------------------------------------------------------------------------- */

int rguard_fp_listen(const char *path)
{
    if (path == NULL || *path == '\0') {
        return -EINVAL;
    }
    if (strlen(path) >= sizeof ctl.path) {
        return -ENAMETOOLONG;
    }
    pthread_mutex_lock(&ctl.lock);
    int rv = ctl.running ? RGUARD_ESTATE : open_listener(path);
    if (rv != 0) {
        goto out;
    }
    ctl.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rv = ctl.wake < 0 ? -errno : start_thread();
    if (rv != 0) {
        unlink(path);
        close_all();
        goto out;
    }
    ctl.running = true;
out:
    pthread_mutex_unlock(&ctl.lock);
    return rv;
}

void rguard__fp_unlisten(void)
{
    pthread_mutex_lock(&ctl.lock);
    bool running = ctl.running;
    ctl.running = false;
    uint64_t one = 1;
    if (running && write(ctl.wake, &one, sizeof one) < 0) {
        running = false; /* cannot happen to an eventfd at 0; joining would never end */
    }
    pthread_mutex_unlock(&ctl.lock);
    if (!running) {
        return;
    }
    pthread_join(ctl.thread, NULL);
    pthread_mutex_lock(&ctl.lock);
    struct stat st;
    if (lstat(ctl.path, &st) == 0 && st.st_dev == ctl.dev && st.st_ino == ctl.ino) {
        unlink(ctl.path);
    }
    close_all();
    pthread_mutex_unlock(&ctl.lock);
}

/* Mode before bind, so that the file is never more open than 0600 and no umask is touched. */
static int bind_private(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    if (fchmod(fd, 0600) != 0 || bind(fd, (const struct sockaddr *)addr, sizeof *addr) != 0) {
        int rv = -errno;
        close(fd);
        return rv;
    }
    return fd;
}

/* Removes a socket that nobody listens on. Anything else at that path stays. */
static int remove_stale(const struct sockaddr_un *addr)
{
    struct stat before;
    struct stat after;
    if (lstat(addr->sun_path, &before) != 0) {
        return errno == ENOENT ? 0 : -errno;
    }
    if (!S_ISSOCK(before.st_mode)) {
        return -EEXIST;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    int rv = connect(fd, (const struct sockaddr *)addr, sizeof *addr) == 0 ? 0 : errno;
    close(fd);
    if (rv != ECONNREFUSED) {
        return -EADDRINUSE;
    }
    if (lstat(addr->sun_path, &after) == 0 && after.st_dev == before.st_dev &&
        after.st_ino == before.st_ino && unlink(addr->sun_path) != 0) {
        return -errno;
    }
    return 0;
}

static int open_listener(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    memcpy(addr.sun_path, path, strlen(path) + 1);
    int fd = bind_private(&addr);
    if (fd == -EADDRINUSE) {
        int rv = remove_stale(&addr);
        if (rv != 0) {
            return rv;
        }
        fd = bind_private(&addr);
    }
    if (fd < 0) {
        return fd;
    }
    struct stat st;
    if (listen(fd, MAX_CLIENTS) != 0 || lstat(path, &st) != 0) {
        int rv = -errno;
        unlink(path);
        close(fd);
        return rv;
    }
    ctl.listener = fd;
    ctl.dev = st.st_dev;
    ctl.ino = st.st_ino;
    ctl.accept_after_ms = 0;
    memcpy(ctl.path, path, strlen(path) + 1);
    return 0;
}

/* Signals are for the program's own threads; but a fault in this one must still be seen. */
static int start_thread(void)
{
    static const int ours[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    sigset_t block;
    sigset_t old;
    sigfillset(&block);
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
        sigdelset(&block, ours[i]);
    }
    pthread_sigmask(SIG_BLOCK, &block, &old);
    int rv = pthread_create(&ctl.thread, NULL, serve, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -rv;
}

static void drop_client(size_t i);

static void close_all(void)
{
    while (ctl.n > 0) {
        drop_client(ctl.n - 1);
    }
    close(ctl.listener);
    ctl.listener = -1;
    if (ctl.wake >= 0) {
        close(ctl.wake);
        ctl.wake = -1;
    }
}

void rguard__fp_control_lock(void)
{
    pthread_mutex_lock(&ctl.lock);
}

void rguard__fp_control_unlock(void)
{
    pthread_mutex_unlock(&ctl.lock);
}

/* The child lets go of the descriptors; the file and the clients are the parent's. */
void rguard__fp_control_forked(void)
{
    if (ctl.listener >= 0) {
        close_all();
    }
    ctl.running = false;
}

/* ---- clients --------------------------------------------------------------------------------- */

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void drop_client(size_t i)
{
    struct client *c = &ctl.clients[i];
    close(c->fd);
    free(c->in.data);
    free(c->out.data);
    rguard__fp_plan_drop(c->plan);
    ctl.n--;
    if (i != ctl.n) {
        *c = ctl.clients[ctl.n];
    }
}

static bool peer_is_us(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

/* The client that has been silent longest, if that is long enough. */
static bool make_room(int64_t now)
{
    if (ctl.n < MAX_CLIENTS) {
        return true;
    }
    size_t oldest = 0;
    for (size_t i = 1; i < ctl.n; i++) {
        oldest = ctl.clients[i].active_ms < ctl.clients[oldest].active_ms ? i : oldest;
    }
    if (now - ctl.clients[oldest].active_ms < IDLE_MS) {
        return false;
    }
    drop_client(oldest);
    return true;
}

/* One at a time: poll() comes back for the next. */
static void accept_client(void)
{
    int64_t now = now_ms();
    if (!make_room(now)) {
        ctl.accept_after_ms = now + RETRY_MS;
        return;
    }
    int fd = accept4(ctl.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        /* Out of descriptors or memory: without a pause poll() would spin. */
        bool passing = errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
        ctl.accept_after_ms = passing ? 0 : now + RETRY_MS;
        return;
    }
    ctl.clients[ctl.n] = (struct client){.fd = fd, .active_ms = now};
    struct client *c = &ctl.clients[ctl.n++];
    if (!peer_is_us(fd)) {
        rguard__fp_refuse(&c->out, RGUARD_EREFUSED,
                          "another user's process may not control this one");
        c->eof = true;
    }
}

/* false when the client is gone. */
static bool receive(struct client *c)
{
    char chunk[16384];
    ssize_t n = recv(c->fd, chunk, sizeof chunk, 0);
    if (n < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    if (n == 0) {
        c->eof = true; /* of its half; what it asked for is still answered */
        return true;
    }
    c->active_ms = now_ms();
    const char *from = chunk;
    size_t len = (size_t)n;
    if (c->discarding) {
        const char *lf = memchr(chunk, '\n', len);
        if (lf == NULL) {
            return true;
        }
        c->discarding = false;
        from = lf + 1;
        len -= (size_t)(from - chunk);
    }
    rguard__fp_put_bytes(&c->in, from, len);
    return !c->in.failed;
}

/* false when the client is gone. */
static bool transmit(struct client *c)
{
    while (c->sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            return errno == EAGAIN || errno == EINTR;
        }
        c->sent += (size_t)n;
        c->active_ms = now_ms();
    }
    free(c->out.data);
    c->out = (struct fp_buf){NULL, 0, 0, false};
    c->sent = 0;
    if (c->plan != NULL) {
        rguard__fp_plan_publish(c->plan);
        c->plan = NULL;
    }
    return true;
}

/* Takes one line off the input and answers it. false when there is no whole line. */
static bool answer(struct client *c)
{
    char *lf = c->in.len == 0 ? NULL : memchr(c->in.data, '\n', c->in.len);
    size_t len = lf == NULL ? c->in.len : (size_t)(lf - c->in.data);
    if (len >= FP_MAX_TEXT) {
        rguard__fp_refuse(&c->out, RGUARD_ETOOBIG, "the line is longer than 65536 bytes");
        c->discarding = lf == NULL;
    } else if (lf == NULL) {
        return false;
    } else {
        size_t end = len > 0 && lf[-1] == '\r' ? len - 1 : len;
        c->in.data[end] = '\0';
        if (strspn(c->in.data, " \t") != end) { /* an empty line asks for nothing */
            rguard__fp_command(c->in.data, end, &c->out, &c->plan);
        }
    }
    size_t used = lf == NULL ? len : len + 1;
    memmove(c->in.data, c->in.data + used, c->in.len - used);
    c->in.len -= used;
    return true;
}

/* As far as it goes without waiting. false when the client is done or gone. */
static bool step(struct client *c)
{
    c->more = false;
    for (int lines = 0;; lines++) {
        if (!transmit(c)) {
            return false;
        }
        if (c->out.len > 0) {
            return true; /* the rest when the client has read some */
        }
        if (lines == LINES_PER_TURN) {
            c->more = true;
            return true;
        }
        if (!answer(c)) {
            return !c->eof;
        }
        if (c->out.failed) {
            return false;
        }
    }
}

/* ---- the thread ------------------------------------------------------------------------------ */

/* Fills @fds for the wake-up, the listener and the clients, in this order; returns the timeout. */
static int prepare_poll(struct pollfd fds[MAX_CLIENTS + 2])
{
    int64_t wait = ctl.accept_after_ms - now_ms();
    bool paused = ctl.accept_after_ms != 0 && wait > 0;
    int timeout = paused ? (int)wait : -1;
    fds[0] = (struct pollfd){.fd = ctl.wake, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = paused ? -1 : ctl.listener, .events = POLLIN};
    for (size_t i = 0; i < ctl.n; i++) {
        const struct client *c = &ctl.clients[i];
        bool sending = c->out.len > 0;
        short events = sending ? POLLOUT : c->eof || c->more ? 0 : POLLIN;
        fds[i + 2] = (struct pollfd){.fd = c->fd, .events = events};
        timeout = c->more ? 0 : timeout;
    }
    return timeout;
}

/* Backwards: dropping a client moves the last one into its place. */
static void serve_clients(const struct pollfd *fds, size_t n)
{
    for (size_t i = n; i-- > 0;) {
        struct client *c = &ctl.clients[i];
        short got = fds[i + 2].revents;
        bool alive = true;
        if (got & POLLIN || (got & (POLLHUP | POLLERR) && c->out.len == 0)) {
            alive = receive(c);
        }
        if (alive && (got != 0 || c->more)) {
            alive = step(c);
        }
        if (!alive) {
            drop_client(i);
        }
    }
}

static void *serve(void *arg)
{
    (void)arg;
    pthread_setname_np(pthread_self(), "rguard-fp");
    rguard__fp_mask_thread();
    struct pollfd fds[MAX_CLIENTS + 2];
    pthread_mutex_lock(&ctl.lock);
    for (;;) {
        size_t n = ctl.n;
        int timeout = prepare_poll(fds);
        pthread_mutex_unlock(&ctl.lock);
        int rv = poll(fds, n + 2, timeout);
        pthread_mutex_lock(&ctl.lock);
        if (rv < 0) {
            continue; /* EINTR, or memory is short for a moment */
        }
        if (fds[0].revents != 0) {
            break;
        }
        serve_clients(fds, n);
        if (fds[1].revents != 0) {
            accept_client();
        }
    }
    pthread_mutex_unlock(&ctl.lock);
    return NULL;
}

#endif
