/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_LOG_H
#define KV_LOG_H

/* The node's log: lines on stderr, each with the time, the node and a level. */

void kv_log_node(unsigned long long id);

/* @level: enum rguard_log_level. Not from a signal handler. */
void kv_log(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
