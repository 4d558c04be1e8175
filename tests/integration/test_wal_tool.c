/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-wal as a user runs it: real processes, exit codes, output, and untouched files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <raftguard/crc32c.h>
#include <raftguard/wal.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SEGMENT "00000000000000000001.wal"

static char tool[512];
static char root[128]; /* one temporary directory for everything */
static char output[1 << 20];

/* Runs a shell command with $W the tool and $D the directory; stdout and stderr go to `output`. */
__attribute__((format(printf, 1, 2))) static int run(const char *format, ...)
{
    char command[2048], line[4096];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(command, sizeof command, format, args);
    va_end(args);
    (void)snprintf(line, sizeof line, "{ %s; } > %s/output 2>&1", command, root);
    int status = system(line);
    (void)snprintf(line, sizeof line, "%s/output", root);
    int fd = open(line, O_RDONLY);
    ssize_t n = read(fd, output, sizeof output - 1);
    close(fd);
    output[n > 0 ? n : 0] = '\0';
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static void expect(int code, int got)
{
    if (got != code) {
        fail_msg("exit %d instead of %d: %s", got, code, output);
    }
}

static int setup(void **state)
{
    (void)state;
    char dir[256];
    (void)snprintf(dir, sizeof dir, "%s/d", root);
    setenv("D", dir, 1);
    return run("rm -rf $D $D.2");
}

static void flip(uint64_t offset, unsigned bit)
{
    char path[512];
    uint8_t byte;
    (void)snprintf(path, sizeof path, "%s/d/" SEGMENT, root);
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= (uint8_t)(1u << bit);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

static void zero_sector(uint64_t offset)
{
    expect(0, run("dd if=/dev/zero of=$D/" SEGMENT " bs=512 seek=%u count=1 conv=notrunc",
                  (unsigned)(offset / 512)));
}

/* Value of the first `"key": N` behind @from. */
static uint64_t value(const char *from, const char *key)
{
    char pattern[64];
    (void)snprintf(pattern, sizeof pattern, "\"%s\": ", key);
    const char *at = strstr(from, pattern);
    if (at == NULL) {
        fail_msg("no %s in %.200s", key, from);
    }
    return strtoull(at + strlen(pattern), NULL, 10);
}

static int count(const char *needle)
{
    int n = 0;
    for (const char *p = output; (p = strstr(p, needle)) != NULL; p++) {
        n++;
    }
    return n;
}

static void remember(void)
{
    expect(0, run("cd $D && ls -A > ../names && cksum * > ../sums"));
}

static void expect_untouched(void)
{
    expect(0, run("cd $D && ls -A | diff - ../names && cksum * | diff - ../sums"));
}

static void fill_verify_dump(void **state)
{
    (void)state;
    expect(0, run("$W fill $D --records 1000 --size 512 --seed 7"));
    expect(0, run("$W verify $D"));
    assert_non_null(strstr(output, "clean_end: records 1 to 1000"));
    assert_non_null(strstr(output, "closed cleanly"));
    expect(0, run("$W verify $D --json"));
    assert_int_equal(value(output, "last_index"), 1000);
    assert_int_equal(value(output, "code"), 0);
    expect(0, run("$W dump $D --json"));
    const char *records = strstr(output, "\"records\": [");
    assert_non_null(records);
    for (uint64_t i = 1; i <= 1000; i++) {
        records = strstr(records, "{\"index\": ");
        assert_non_null(records);
        assert_int_equal(value(records, "index"), i);
        assert_int_equal(value(records, "term"), 1);
        assert_int_equal(value(records, "len"), 512);
        records++;
    }
    assert_null(strstr(records, "{\"index\": "));
    expect(0, run("$W dump $D"));
    assert_int_equal(count(" term 1 type 1 len 512 crc "), 1000);
}

static void json_is_json(void **state)
{
    (void)state;
    if (run("python3 -c pass") != 0) {
        skip();
    }
    expect(0, run("$W fill $D --records 10 --no-close"));
    flip(5000, 1);
    expect(0, run("$W dump $D --json 2>/dev/null | python3 -c 'import json,sys; "
                  "d=json.load(sys.stdin); assert d[\"code\"] == 2 and d[\"records\"] == []'"));
    expect(0, run("cd %s && mkdir 'a\"b' && { $W verify 'a\"b' --json 2>/dev/null | "
                  "python3 -c 'import json,sys; assert json.load(sys.stdin)[\"code\"] == 5'; }",
                  root));
}

static void the_same_seed_makes_the_same_bytes(void **state)
{
    (void)state;
    expect(0, run("$W fill $D --records 300 --size 1000 --seed 42 --batch 7"));
    expect(0, run("RGUARD_WAL_BACKEND=sync $W fill $D.2 --records 300 --size 1000 --seed 42 "
                  "--batch 7"));
    expect(0, run("diff -r $D $D.2"));
    expect(0, run("rm -r $D.2; $W fill $D.2 --records 300 --size 1000 --seed 43 --batch 7"));
    expect(1, run("diff -rq $D $D.2"));
    expect(0, run("$W fill $D --records 5"));
    expect(0, run("$W verify $D"));
    assert_non_null(strstr(output, "records 1 to 305"));
}

static void one_flipped_bit_is_found_and_nothing_is_touched(void **state)
{
    (void)state;
    expect(0, run("$W fill $D --records 1000 --size 512 --seed 7"));
    expect(0, run("$W dump $D --json"));
    uint64_t offset = value(strstr(output, "{\"index\": 500,"), "offset");
    flip(offset + 100, 5);
    remember();
    expect(3, run("$W verify $D"));
    assert_non_null(strstr(output, SEGMENT));
    assert_non_null(strstr(output, "records 497 to 512"));
    expect(3, run("$W verify $D --json"));
    assert_int_equal(value(output, "damage_first_index"), 497);
    expect(3, run("$W dump $D --json"));
    assert_int_equal(count("\"len\": 512, \"crc\": "), 1000 - 16 + 1); /* and what is damaged */
    expect(3, run("$W fill $D"));
    expect_untouched();
}

/* Damages the data of record @index, whose place an undamaged dump says. */
static void damage(uint64_t index)
{
    char pattern[64];
    expect(0, run("$W dump $D --json 2>/dev/null || true"));
    (void)snprintf(pattern, sizeof pattern, "{\"index\": %llu,", (unsigned long long)index);
    const char *record = strstr(output, pattern);
    assert_non_null(record);
    flip(value(record, "offset") + 100, 5);
}

/* ---- export ---- */

/* What --binary writes before the data of each record. */
struct frame
{
    char magic[4];
    uint32_t header_crc;
    uint64_t index, term;
    uint32_t type, len, crc, reserved;
};

/* Puts the records of the file @name, each checked, into a new log. */
static void import(const char *name, uint64_t first, uint64_t last)
{
    char path[512];
    struct rguard_wal_options o = {.size = sizeof o};
    struct frame f;
    rguard_wal *w = NULL;
    (void)snprintf(path, sizeof path, "%s/d.2", root);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(rguard_wal_open(path, &o, &w, NULL), 0);
    assert_int_equal(rguard_wal_reset(w, first - 1, 1), 0);
    (void)snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    for (uint64_t i = first; i <= last; i++) {
        uint8_t data[4096];
        assert_int_equal(fread(&f, sizeof f, 1, in), 1);
        uint32_t crc = f.header_crc;
        f.header_crc = 0;
        assert_memory_equal(f.magic, "RGRX", 4);
        assert_int_equal(rguard_crc32c(0, &f, sizeof f), crc);
        assert_int_equal(f.index, i);
        assert_true(f.len <= sizeof data);
        assert_int_equal(fread(data, 1, f.len, in), f.len);
        assert_int_equal(rguard_crc32c(0, data, f.len), f.crc);
        struct rguard_wal_record r = {
            .index = i, .term = f.term, .type = f.type, .len = f.len, .data = data};
        assert_int_equal(rguard_wal_append(w, &r, 1, NULL, NULL), 0);
        assert_int_equal(rguard_wal_flush(w), 0);
    }
    assert_int_equal(fread(&f, 1, 1, in), 0);
    (void)fclose(in);
    assert_int_equal(rguard_wal_close(w), 0);
}

static void exported_records_make_the_same_log(void **state)
{
    (void)state;
    expect(0, run("$W fill $D --records 200 --size 700 --seed 3"));
    remember();
    expect(0, run("$W export $D --from 50 --to 120 --binary > $D.bin"));
    import("d.bin", 50, 120);
    expect(0, run("$W export $D.2 --binary --out $D.bin2 && cmp $D.bin $D.bin2"));
    expect(0, run("$W export $D --from 50 --to 120 > $D.1.json"));
    expect(0, run("$W export $D.2 --json > $D.2.json && cmp $D.1.json $D.2.json"));
    expect(0, run("cat $D.1.json"));
    assert_int_equal(count("{\"index\": "), 71);
    uint64_t crc = value(strstr(output, "{\"index\": 77,"), "crc");
    expect(0, run("$W dump $D --json"));
    assert_int_equal(value(strstr(output, "{\"index\": 77,"), "crc"), crc);
    expect(0, run("$W export $D --to 1; $W export $D --from 200"));
    assert_int_equal(count("{\"index\": "), 2);
    expect_untouched();
    expect(0, run("rm -rf $D.*"));
}

static void export_says_what_it_cannot_give(void **state)
{
    (void)state;
    expect(0, run("mkdir $D; $W fill $D --records 20 --size 5000"));
    remember();
    expect(64, run("$W export $D --from 5 --to 21"));
    assert_non_null(strstr(output, "the log has 1 to 20"));
    expect(64, run("$W export $D --from 9 --to 8"));
    expect(64, run("$W export $D --from 0 --to 8"));
    expect(64, run("$W export $D --json --binary"));
    expect(4, run("$W export $D > /dev/full"));
    expect(4, run("(ulimit -f 8; trap '' XFSZ; $W export $D --out $D.out)"));
    assert_non_null(strstr(output, "File too large"));
    expect(4, run("$W export $D --out $D/nothing/out"));
    expect(4, run("$W export $D/nothing"));
    expect(0, run("test ! -e $D.out && test ! -e $D.out.part"));
    expect_untouched();
    expect(0, run("mkdir $D.2"));
    expect(5, run("$W export $D.2"));
    expect(0, run("test -z \"$(ls -A $D.2)\""));
}

/* ---- where the log cannot be had ---- */

static void a_missing_segment_is_named(void **state)
{
    (void)state;
    expect(0, run("$W fill $D --records 3000 --size 4000 --batch 64")); /* 12 MB, 8 MiB to a file */
    expect(0, run("rm $D/" SEGMENT));
    remember();
    expect(3, run("$W verify $D"));
    assert_non_null(strstr(output, SEGMENT));
    expect(3, run("$W verify $D --json 2>/dev/null"));
    assert_int_equal(value(output, "code"), 3);
    expect(3, run("$W fill $D"));
    expect_untouched();
}

/* As somebody who may read, but not write: root may do everything, so it becomes nobody. */
static void a_directory_that_cannot_be_written(void **state)
{
    (void)state;
    const char *as = geteuid() == 0 ? "setpriv --reuid=65534 --clear-groups" : "";
    expect(0, run("$W fill $D --records 20"));
    expect(0, run("chmod 755 %s; chmod 644 $D/*; chmod 555 $D", root));
    if (run("%s $W --version", as) != 0) {
        (void)run("chmod 755 $D");
        skip();
    }
    remember();
    expect(0, run("%s $W verify $D", as));
    expect(0, run("%s $W dump $D", as));
    expect(0, run("%s $W export $D", as));
    expect(4, run("%s $W fill $D", as));
    damage(10);
    remember();
    expect(4, run("%s $W repair $D --drop-tail --accept-data-loss", as));
    assert_non_null(strstr(output, "Permission denied"));
    expect_untouched();
    expect(0, run("chmod 000 $D/" SEGMENT));
    expect(4, run("%s $W verify $D", as));
    expect(0, run("chmod 755 $D"));
}

/* ---- damage: naming all of it, cutting it off ---- */

static void verify_names_everything_that_is_damaged(void **state)
{
    (void)state;
    expect(0, run("$W fill $D --records 1000 --size 512 --seed 7"));
    expect(0, run("$W dump $D --json"));
    uint64_t crc = value(strstr(output, "{\"index\": 200,"), "crc");
    damage(500);
    damage(200);
    remember();
    expect(3, run("$W verify $D"));
    assert_non_null(strstr(output, "payload damaged: records 200 to 200"));
    assert_non_null(strstr(output, "payload damaged: records 500 to 500"));
    assert_non_null(strstr(output, "rguard-wal repair"));
    expect(3, run("$W verify $D --json 2>/dev/null"));
    assert_int_equal(count("\"damaged_bytes\": "), 2);
    const char *fault = strstr(output, "\"faults\": [");
    assert_non_null(fault);
    assert_int_equal(value(fault, "first_index"), 200);
    assert_int_equal(value(strstr(fault, "{\"index\": 200,"), "crc"),
                     crc); /* what a peer must give */
    expect_untouched();
}

static void export_gives_what_is_intact(void **state)
{
    (void)state;
    expect(0, run("$W fill $D --records 100 --size 512"));
    expect(0, run("$W export $D > $D.all"));
    damage(50);
    remember();
    expect(3, run("$W export $D"));
    assert_non_null(strstr(output, "record 50: damaged"));
    assert_int_equal(count("{\"index\": "), 0);
    expect(3, run("$W export $D --from 40 --to 50 --out $D.out"));
    expect(0, run("test ! -e $D.out"));
    expect(0, run("$W export $D --to 49 > $D.part; $W export $D --from 51 >> $D.part"));
    expect(0, run("sed '50d' $D.all | cmp - $D.part"));
    expect_untouched();
    expect(0, run("rm $D.*"));
}

static void repair_of_a_corrupt_log(void **state)
{
    (void)state;
    expect(0, run("$W fill $D --records 1000 --size 512 --seed 7"));
    expect(0, run("$W export $D --to 496 > $D.before"));
    damage(500);
    remember();
    expect(3, run("$W repair $D"));
    assert_non_null(strstr(output, "a cut would drop: records 497 to 1000"));
    assert_non_null(strstr(output, "--drop-tail --accept-data-loss"));
    expect_untouched();
    expect(3, run("$W repair $D --drop-tail"));
    assert_non_null(strstr(output, "refused"));
    assert_non_null(strstr(output, "records 497 to 1000"));
    expect(3, run("$W repair $D --drop-tail --json 2>/dev/null"));
    assert_int_equal(value(output, "lost_first_index"), 497);
    assert_int_equal(value(output, "lost_last_index"), 1000);
    assert_int_equal(value(output, "last_index"), 496);
    assert_non_null(strstr(output, "\"changed\": false"));
    expect_untouched();
    expect(0, run("$W repair $D --drop-tail --accept-data-loss"));
    assert_non_null(strstr(output, "dropped: records 497 to 1000"));
    assert_non_null(strstr(output, "/quarantine-"));
    expect(0, run("$W verify $D"));
    assert_non_null(strstr(output, "records 1 to 496"));
    expect(0, run("$W export $D > $D.after && cmp $D.before $D.after"));
    expect(0, run("cksum $D/quarantine-* > $D.q"));
    expect(0, run("test -s $(ls $D/quarantine-*)"));
    expect(0, run("$W fill $D --records 4"));
    expect(0, run("$W verify $D"));
    assert_non_null(strstr(output, "records 1 to 500"));
    expect(0, run("cksum $D/quarantine-* | diff - $D.q"));
    expect(0, run("$W repair $D --drop-tail"));
    assert_non_null(strstr(output, "nothing to cut"));
    expect(0, run("rm $D.*"));
}

static void repair_of_tails(void **state)
{
    (void)state;
    expect(0, run("$W fill $D --records 32 --size 512 --no-close"));
    flip(16384 + 5000, 2);
    remember();
    expect(2, run("$W repair $D"));
    assert_non_null(strstr(output, "records 17 to 32"));
    expect_untouched();
    expect(0, run("$W repair $D --drop-tail --json"));
    assert_non_null(strstr(output, "\"quarantine\": \"quarantine-"));
    assert_int_equal(value(output, "lost_first_index"), 17);
    expect(0, run("$W verify $D"));
    assert_non_null(strstr(output, "records 1 to 16"));
    expect(0, run("rm -r $D; $W fill $D --records 32 --size 512 --no-close"));
    zero_sector(16384 + 8192);
    remember();
    expect(1, run("$W repair $D"));
    expect_untouched();
    expect(0, run("$W repair $D --drop-tail"));
    expect(0, run("$W verify $D"));
    assert_non_null(strstr(output, "records 1 to 16"));
}

static void repair_where_it_cannot_be(void **state)
{
    (void)state;
    expect(0, run("$W fill $D --records 1000 --size 512"));
    remember();
    expect(0, run("$W repair $D"));
    assert_non_null(strstr(output, "nothing to cut"));
    damage(500);
    remember();
    expect(4, run("(ulimit -f 8; trap '' XFSZ; $W repair $D --drop-tail --accept-data-loss)"));
    expect(0, run("cd $D && cksum $(cat ../names) | diff - ../sums"));
    expect(3, run("$W verify $D"));
    expect(4, run("$W repair $D/nothing"));
    expect(0, run("mkdir $D.2; touch $D.2/precious"));
    expect(5, run("$W repair $D.2 --drop-tail --accept-data-loss"));
    expect(0, run("test \"$(ls -A $D.2)\" = precious"));
    expect(0, run("rm -rf $D; $W fill $D --records 20 && rm $D/meta && cksum $D/* > $D.sums"));
    expect(3, run("$W repair $D --drop-tail --accept-data-loss")); /* no vote can be made up */
    expect(0, run("cksum $D/* | diff - $D.sums; rm $D.sums"));
}

static void tails(void **state)
{
    (void)state;
    expect(0, run("$W fill $D --records 32 --size 512 --no-close")); /* 12 KiB at 4096 and 16384 */
    expect(0, run("$W verify $D"));
    zero_sector(16384 + 8192);
    expect(1, run("$W verify $D"));
    assert_non_null(strstr(output, "torn_tail: records 1 to 16"));
    expect(0, run("$W fill $D --records 1")); /* opens it, which drops the tail */
    expect(0, run("$W verify $D"));
    assert_non_null(strstr(output, "records 1 to 17"));
    expect(0, run("rm -r $D; $W fill $D --records 32 --size 512 --no-close"));
    flip(16384 + 5000, 2);
    expect(2, run("$W verify $D"));
    assert_non_null(strstr(output, "records 17 to 32"));
    expect(2, run("$W dump $D"));
}

static void foreign_directories(void **state)
{
    (void)state;
    expect(0, run("mkdir $D"));
    expect(5, run("$W verify $D"));
    expect(0, run("touch $D/metadata1"));
    expect(5, run("$W verify $D"));
    expect(5, run("$W dump $D --json"));
    expect(5, run("$W fill $D"));
    expect(0, run("rm $D/*; touch $D/precious"));
    expect(5, run("$W fill $D"));
    expect(0, run("test \"$(ls -A $D)\" = precious"));
    expect(4, run("$W verify $D/nothing"));
    assert_non_null(strstr(output, "No such file"));
    expect(4, run("$W verify $W"));
    expect(4, run("$W fill $D/nothing/deeper"));
}

static void bad_usage(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "verify",
                                      "verify $D $D",
                                      "frobnicate $D",
                                      "verify",
                                      "verify $D --all",
                                      "fill $D --records",
                                      "fill $D --records 0",
                                      "fill",
                                      "fill $D --size x",
                                      "fill $D --records -1",
                                      "fill $D --size 9999999999",
                                      "dump $D -x",
                                      "verify $D --seed 3",
                                      "fill $D --batch 60000 --size 8000000",
                                      "repair $D --accept-data-loss",
                                      "repair $D --from 3",
                                      "export $D --drop-tail",
                                      "export $D --from x",
                                      "verify $D --out f"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        expect(64, run("$W %s", bad[i]));
    }
    expect(0, run("$W --help"));
    assert_non_null(strstr(output, "usage:"));
    expect(0, run("$W --version"));
    assert_non_null(strstr(output, "rguard-wal 0."));
    expect(0, run("test ! -e $D"));
    expect(78, run("RGUARD_FAILPOINTS='wal/write=frob' $W fill $D"));
    expect(0, run("test ! -e $D"));
    expect(4, run("$W --help > /dev/full")); /* what nobody has read was not said */
}

static void failures_while_filling(void **state)
{
    (void)state;
    expect(4, run("RGUARD_FAILPOINTS='wal/write=errno(EIO)' $W fill $D"));
    assert_non_null(strstr(output, "Input/output error"));
    expect(0, run("rm -rf $D; $W fill $D --records 100")); /* 64 KiB of blocks */
    expect(4, run("(ulimit -f 8; trap '' XFSZ; $W fill $D.2)"));
    assert_non_null(strstr(output, "cannot create the log"));
    expect(4, run("RGUARD_FAILPOINTS='wal/append=errno(ENOSPC)' $W fill $D"));
    assert_non_null(strstr(output, "No space left"));
    expect(0, run("$W verify $D"));
}

static void wait_ms(long ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&ts, NULL);
}

static pid_t start_fill(const char *records)
{
    pid_t pid = fork();
    if (pid == 0) {
        execl(tool, tool, "fill", getenv("D"), "--records", records, "--batch", "1", "--size",
              "3000", (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 500 && run("$W verify $D") != 0; i++) {
        wait_ms(10);
    }
    return pid;
}

static void a_log_in_use_is_read_without_harm(void **state)
{
    (void)state;
    int status;
    pid_t pid = start_fill("1000000");
    uint64_t last = 0;
    for (int i = 0; i < 15; i++) {
        expect(0, run("$W verify $D --json"));
        assert_true(value(output, "last_index") >= last);
        last = value(output, "last_index");
        expect(4, run("$W fill $D --records 1"));
        assert_non_null(strstr(output, "in use"));
        expect(4, run("$W repair $D --drop-tail --accept-data-loss"));
        assert_non_null(strstr(output, "in use"));
        expect(0, run("$W export $D --to 3"));
    }
    kill(pid, SIGINT);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 130);
    assert_true(last > 0);
    expect(0, run("$W verify $D"));
    assert_non_null(strstr(output, "closed cleanly"));
}

static void a_killed_writer_leaves_a_good_log(void **state)
{
    (void)state;
    int status;
    pid_t pid = start_fill("1000000");
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_in_range(run("$W verify $D"), 0, 1);
    expect(0, run("$W fill $D --records 3"));
    expect(0, run("$W verify $D"));
}

static int group_setup(void **state)
{
    (void)state;
    const char *bin = getenv("RGUARD_BIN");
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(tool, sizeof tool, "%s/rguard-wal", bin != NULL ? bin : "build/bin");
    setenv("W", tool, 1);
    (void)snprintf(root, sizeof root, "%s/rguard-wal-tool-XXXXXX", tmp != NULL ? tmp : "/tmp");
    return mkdtemp(root) == NULL || access(tool, X_OK) != 0;
}

static int group_teardown(void **state)
{
    (void)state;
    char line[256];
    (void)snprintf(line, sizeof line, "rm -rf %s", root);
    return system(line);
}

#define T(test) cmocka_unit_test_setup(test, setup)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(fill_verify_dump),
        T(json_is_json),
        T(the_same_seed_makes_the_same_bytes),
        T(one_flipped_bit_is_found_and_nothing_is_touched),
        T(exported_records_make_the_same_log),
        T(export_says_what_it_cannot_give),
        T(a_missing_segment_is_named),
        T(a_directory_that_cannot_be_written),
        T(verify_names_everything_that_is_damaged),
        T(export_gives_what_is_intact),
        T(repair_of_a_corrupt_log),
        T(repair_of_tails),
        T(repair_where_it_cannot_be),
        T(tails),
        T(foreign_directories),
        T(bad_usage),
        T(failures_while_filling),
        T(a_log_in_use_is_read_without_harm),
        T(a_killed_writer_leaves_a_good_log),
    };
    return cmocka_run_group_tests_name("wal_tool", tests, group_setup, group_teardown);
}
