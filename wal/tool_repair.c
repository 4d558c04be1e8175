/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-wal repair: cuts a damaged log before its first damage, for a node that has no peers to ask.
 *
 * Invariant: without --drop-tail nothing changes; with it, acknowledged records go only when
 * --accept-data-loss says so; and what goes is in a quarantine file first. The range that is lost is
 * printed in every case. */
#include "tool_internal.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* What a cut would do, or has done. */
struct plan
{
    /* verdict and damage of the log as it is, last_index as the cut leaves it, and the records that
     * go with it in damage_first_index..damage_last_index */
    struct rguard_wal_report r;
    rguard_wal *w; /* as it is, for what can be said about the damage; NULL: nothing */
    struct tool_faults faults;
    bool changed;
    char quarantine[300]; /* name of the copy; empty: nothing was cut */
};

static int act(const struct tool_args *a, struct plan *p);
static void print_text(const struct tool_args *a, const struct plan *p, int code);
static void print_json(const struct tool_args *a, const struct plan *p, int code);

int tool_repair(const struct tool_args *a)
{
    struct plan p = {.r = {.size = sizeof p.r}};
    struct rguard_wal_report r = {.size = sizeof r};
    int rc = rguard_wal_drop_tail(a->dir, true, true, &p.r);
    if (rc != 0) {
        return tool_open_failed(a->dir, rc, &p.r);
    }
    if (tool_open(a->dir, &p.w, &r) == 0 && tool_faults_get(p.w, &p.faults) != 0) {
        return tool_complain(a->dir, rguard_strerror(-ENOMEM), CODE_IO);
    }
    int code = act(a, &p);
    if (a->json) {
        print_json(a, &p, code);
    } else {
        print_text(a, &p, code);
    }
    tool_faults_free(&p.faults);
    (void)rguard_wal_close(p.w);
    return code;
}

/* The quarantine file that was made last. */
static void find_quarantine(const char *dir, char *out, size_t len)
{
    DIR *d = opendir(dir);
    struct timespec newest = {0, 0};
    struct dirent *entry;
    struct stat st;
    while (d != NULL && (entry = readdir(d)) != NULL) {
        bool newer = strncmp(entry->d_name, "quarantine-", 11) == 0 &&
                     fstatat(dirfd(d), entry->d_name, &st, 0) == 0 &&
                     (st.st_mtim.tv_sec > newest.tv_sec ||
                      (st.st_mtim.tv_sec == newest.tv_sec && st.st_mtim.tv_nsec > newest.tv_nsec));
        if (newer) {
            newest = st.st_mtim;
            (void)snprintf(out, len, "%s", entry->d_name);
        }
    }
    if (d != NULL) {
        (void)closedir(d);
    }
}

/* Cuts, if that was asked for and may be done. Returns the exit code. */
static int act(const struct tool_args *a, struct plan *p)
{
    struct rguard_wal_report r = {.size = sizeof r};
    int code = tool_code(&p->r, 0);
    if (!a->drop_tail) {
        return code;
    }
    int rc = rguard_wal_drop_tail(a->dir, a->accept_data_loss, false, &r);
    if (rc == RGUARD_EREFUSED) {
        return tool_complain(a->dir,
                             "refused: what a cut would drop was acknowledged; with "
                             "--accept-data-loss it is dropped all the same",
                             code);
    }
    if (rc != 0) {
        const char *why = r.message[0] != '\0' ? r.message : rguard_strerror(rc);
        return tool_complain(a->dir, why, CODE_IO);
    }
    p->r = r;
    p->changed = r.verdict != RGUARD_WAL_CLEAN_END;
    if (p->changed) {
        find_quarantine(a->dir, p->quarantine, sizeof p->quarantine);
    }
    return CODE_CLEAN;
}

static void print_text(const struct tool_args *a, const struct plan *p, int code)
{
    char range[64];
    bool acked = p->r.verdict == RGUARD_WAL_CORRUPT || p->r.verdict == RGUARD_WAL_UNREADABLE;
    tool_range(p->r.damage_first_index, p->r.damage_last_index, range, sizeof range);
    const char *records = range[0] != '\0' ? range + 2 : "no record that is known";
    if (p->r.verdict == RGUARD_WAL_CLEAN_END) {
        (void)printf("the log is whole: there is nothing to cut\n");
        return;
    }
    tool_faults_text(&p->faults);
    if (p->changed) {
        (void)printf("dropped: %s; the log now ends with record %" PRIu64 "\n", records,
                     p->r.last_index);
        (void)printf("a copy of what was there: %s/%s\n", a->dir, p->quarantine);
        return;
    }
    (void)printf("a cut would drop: %s; the log would end with record %" PRIu64 "\n", records,
                 p->r.last_index);
    if (a->drop_tail && code == CODE_IO && p->r.verdict != RGUARD_WAL_UNREADABLE) {
        return; /* it was tried, and act() has said what was in the way */
    }
    (void)printf(
        "nothing was changed. To cut, keeping a copy of what goes in quarantine-<lsn>:\n"
        "  rguard-wal repair %s --drop-tail%s\n",
        a->dir, acked ? " --accept-data-loss" : "");
}

static void print_json(const struct tool_args *a, const struct plan *p, int code)
{
    (void)printf("{");
    tool_json_string("dir", a->dir, ",\n ");
    tool_json_string("verdict", rguard_wal_verdict_name(p->r.verdict), ",\n ");
    (void)printf("\"code\": %d, \"changed\": %s, \"last_index\": %" PRIu64
                 ",\n \"lost_first_index\": %" PRIu64 ", \"lost_last_index\": %" PRIu64
                 ", \"lost_records\": %" PRIu64 ",\n ",
                 code, p->changed ? "true" : "false", p->r.last_index, p->r.damage_first_index,
                 p->r.damage_last_index, p->r.dropped_records);
    tool_json_string("quarantine", p->quarantine, ",\n ");
    tool_json_string("message", p->r.message, "");
    tool_faults_json(p->w, &p->faults);
    (void)printf("}\n");
}
