/* SPDX-License-Identifier: Apache-2.0 */
/* The table of rows. Names and goals are the design's; a goal is never made to fit the code. */
#include "bench.h"

#define RAW_4K  "raw durable write of 4 KiB"
#define RAW_36K "raw durable writes of 36 KiB"

const struct bench_row bench_rows[] = {
    {"wal.append_4k_qd1", "us", RAW_4K, "ratio<=1.05", bench_append_4k_uring},
    {"wal.append_4k_qd1_thread", "us", RAW_4K, "ratio<=1.15", bench_append_4k_thread},
    {"wal.append_64x512", "records/s", RAW_36K " x 64", "ratio>=0.80", bench_append_64x512},
    {"wal.append_64x512_vs_raft_uv", "records/s", "libraft's raft_uv, 64 in flight", "ratio>=5",
     bench_append_vs_raft_uv},
    {"wal.append_25ms_arrivals", "us", RAW_4K, "ratio<=1.10", bench_append_25ms},
    {"wal.cpu_per_512B_record", "ns", "memcpy and one CRC", "ratio<=4", bench_cpu_per_record},
    {"wal.crc32c_4k", "GB/s", "libisal", "ratio>=0.9", bench_crc32c_4k},
    {"wal.crc32c_4k_builtin", "GB/s", "libisal", "ratio>=0.9", bench_crc32c_4k_builtin},
    {"wal.scan_hot", "GB/s", "CRC32C of the same memory", "ratio>=0.35", bench_scan_hot},
    {"wal.scan_cold", "GB/s", "raw sequential direct read", "ratio>=0.9", bench_scan_cold},
    {"wal.segment_switch", "us", "p99 of a log without switches", "ratio<=2", bench_segment_switch},
    {0},
};
