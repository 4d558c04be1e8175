/* SPDX-License-Identifier: Apache-2.0 */
/* A helper thread that runs one piece of work at a time.
 *
 *     owner    run() --state QUEUED, post--> thread    fn()
 *     owner    take() <--state DONE, then one count in the eventfd-- thread
 *
 * Invariant: a piece of work is announced by exactly one count of the (semaphore) eventfd, added
 * after its state became DONE. Whoever has taken a count therefore finds a helper that is DONE,
 * also when several helpers share the eventfd, and the eventfd is readable while one is unseen. */
#include "disk_internal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>

enum { IDLE, QUEUED, DONE };

static void *work(void *arg)
{
    struct disk_helper *h = arg;
    for (;;) {
        while (sem_wait(&h->wake) != 0) {
            /* EINTR */
        }
        if (atomic_load_explicit(&h->state, memory_order_relaxed) != QUEUED) {
            return NULL; /* woken without work: the end */
        }
        h->result = h->fn(h->user);
        atomic_store_explicit(&h->state, DONE, memory_order_release);
        (void)eventfd_write(h->eventfd, 1);
    }
}

/* The owner's process handles signals; only what the thread itself is guilty of comes here. */
static int create(pthread_t *thread, void *arg)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    sigset_t block, old;
    sigfillset(&block);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) {
        sigdelset(&block, own[i]);
    }
    pthread_sigmask(SIG_SETMASK, &block, &old);
    int rc = pthread_create(thread, NULL, work, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -rc;
}

int rguard__helper_start(struct disk_helper *h, int eventfd)
{
    memset(h, 0, sizeof *h);
    h->eventfd = eventfd;
    atomic_init(&h->state, IDLE);
    if (sem_init(&h->wake, 0, 0) != 0) {
        return -errno;
    }
    int rc = create(&h->thread, h);
    if (rc != 0) {
        sem_destroy(&h->wake);
        return rc;
    }
    (void)pthread_setname_np(h->thread, "rguard-disk");
    h->started = true;
    return 0;
}

void rguard__helper_stop(struct disk_helper *h)
{
    if (!h->started) {
        return;
    }
    (void)sem_post(&h->wake); /* behind the work that may still be queued */
    pthread_join(h->thread, NULL);
    sem_destroy(&h->wake);
    h->started = false;
}

int rguard__helper_run(struct disk_helper *h, int (*fn)(void *user), void *user)
{
    if (atomic_load_explicit(&h->state, memory_order_relaxed) != IDLE) {
        return -EBUSY;
    }
    h->fn = fn;
    h->user = user;
    atomic_store_explicit(&h->state, QUEUED, memory_order_relaxed);
    return sem_post(&h->wake) != 0 ? -errno : 0;
}

bool rguard__helper_busy(const struct disk_helper *h)
{
    return atomic_load_explicit(&h->state, memory_order_relaxed) != IDLE;
}

bool rguard__helper_done(const struct disk_helper *h)
{
    return atomic_load_explicit(&h->state, memory_order_acquire) == DONE;
}

int rguard__helper_take(struct disk_helper *h)
{
    int result = h->result;
    atomic_store_explicit(&h->state, IDLE, memory_order_relaxed);
    return result;
}
