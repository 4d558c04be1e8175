/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_TESTING_H
#define RGUARD_TESTING_H

/* Switches that turn one detector or cure off, so that a test can prove that its absence shows.
 * They exist only in builds with -DRGUARD_TESTING (build/testing/); elsewhere the expression is the
 * constant 0 and no environment variable is read. Not installed.
 *
 *     RGUARD_TEST_OFF="guard_pages,double_free,d13" program ...
 *
 * Names in use: guard_pages magic canary double_free trap undo (guard); wal_crc acked_lsn (wal);
 * frame_crc envelope gasp d8 d11 d13 (raftlog). Planted bugs, which the model oracle must find:
 * no_sync (simulated disk) early_ack drop_corrupt ignore_salt second_vote (wal). */
#ifdef RGUARD_TESTING
int rguard__test_off(const char *name);
#define RGUARD_TEST_OFF(name) rguard__test_off(name)
#else
#define RGUARD_TEST_OFF(name) 0
#endif

/* Own corrupted state; never bad input. Compiled in always: prints file:line and the expression
 * with write(2) and aborts, so that it may be used on the fault path. */
#define RGUARD_ASSERT(expr) ((expr) ? (void)0 : rguard__assert_failed(__FILE__, __LINE__, #expr))

__attribute__((noreturn)) void rguard__assert_failed(const char *file, int line, const char *expr);

#endif
