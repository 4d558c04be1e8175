/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_WAL_FORMAT_INTERNAL_H
#define RGUARD_WAL_FORMAT_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <raftguard/wal.h>

/* The format on disk, version 2. Little endian, 4096-byte blocks.
 *
 *     directory   lock  meta  00000000000000000001.wal  00000000000000000002.wal  ...
 *
 *     segment     +--------+-----------+-------+-----------------+-- - - ------+--------+
 *                 | header |  batch    | batch |  batch          |  zeros      | header |
 *                 +--------+-----------+-------+-----------------+-- - - ------+--------+
 *                 block 0   block 1...           whole blocks                   last block
 *
 *     batch       +--------+---------------+----------------+----------------+----------+-------+
 *                 | header | predecessor's | CRC per sector | record table   | payloads | zeros |
 *                 | 256 B  | header, 256 B | 4 B x sectors  | 32 B x records | 8-aligned|       |
 *                 +--------+---------------+----------------+----------------+----------+-------+
 *                 header_crc  its own CRC     sectors_crc      table_crc       payload_crc to 4096
 *
 * An LSN is a byte address in the log: LSN = segment.first_lsn + offset in the segment's file, and
 * the next segment starts where this one ends. Both are known before a segment is used, so the
 * segment header never changes after the file has been made. Its second copy is written first.
 *
 * A batch is valid if and only if
 *   - header_crc is the CRC32C of the header, seeded with (UUID, segment, salt, LSN) of the place
 *     where it was found: a block of another file, offset, epoch or log fails here, and the same
 *     check with the seed of its own fields then tells a misplaced block from garbage;
 *   - its length lies inside the segment and is exactly what its records need;
 *   - sectors_crc, table_crc and payload_crc match, with the same seed;
 *   - the copy of the predecessor's header is zero (not known) or good, and the one that it names;
 *   - its table describes first_index..last_index without a gap and with terms that never fall.
 * The zeros behind the payload are not part of validity: bad padding is a warning.
 *
 * A valid batch belongs to the log if and only if prev_lsn and prev_header_crc are those of the
 * valid batch before it (or those that it stands in for), and it starts where that one ends or at
 * the start of the next segment.
 * Blocks are written once: while a segment is in use, what lies behind the last batch is zero.
 *
 * acked_lsn is the LSN below which every completion callback had returned when the batch was built.
 * There is one write in flight, so a valid batch also proves that its predecessor was complete; and
 * because it holds the predecessor's header, what was there can be told from what is put back:
 * the header has the CRCs of table and payload.
 *
 * A batch that stands in (WAL_STANDS_IN) was written by a repair into a place whose own batches
 * could not be restored to the byte: it takes the whole place, its table may have fewer records
 * than first_index..last_index (the others had become void), and its successor names
 * (stands_lsn, stands_crc) as its predecessor.
 *
 * Other versions keep the place and the rule of magic, version and CRC of all three headers, so
 * that a program can tell "of another release" from "damaged". */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is the host's byte order");

#define WAL_VERSION     2u
#define WAL_BLOCK       4096u
#define WAL_SECTOR      512u
#define WAL_UUID        16u
#define WAL_FIRST_BATCH WAL_BLOCK        /* offset of the first batch in a segment */
#define WAL_OVERHEAD    (2u * WAL_BLOCK) /* of a segment: both copies of its header */
#define WAL_BATCH_HEAD  512u /* header and predecessor's header: one sector, whole or not there */

#define WAL_SEGMENT_MAGIC 0x4745534c41574752ULL /* "RGWALSEG" */
#define WAL_BATCH_MAGIC   0x5441424c41574752ULL /* "RGWALBAT" */
#define WAL_META_MAGIC    0x54454d4c41574752ULL /* "RGWALMET" */

#define WAL_SEGMENT_MIN (WAL_OVERHEAD + WAL_BLOCK)
#define WAL_SEGMENT_MAX (1024ULL * 1024 * 1024)
#define WAL_RECORD_MAX  (256ULL * 1024 * 1024) /* what max_record_bytes may be set to */

struct wal_segment_header
{
    uint64_t magic;
    uint32_t version;
    uint32_t crc; /* of these 512 bytes with crc = 0 */
    uint32_t block_size;
    uint32_t reserved0;
    uint8_t uuid[WAL_UUID];
    uint64_t node_id;
    uint64_t sequence;  /* 1, 2, ...; also the file's name */
    uint64_t salt;      /* random, new for every file that is made */
    uint64_t first_lsn; /* LSN of byte 0 of this file */
    uint64_t bytes;     /* size of the file */
    uint8_t reserved[432];
};

enum wal_batch_type {
    WAL_DATA = 1, /* records */
    WAL_MARK,     /* nothing: its acked_lsn says that what precedes it was acknowledged */
    WAL_CLOSE,    /* the last batch of a clean close */
    WAL_TRUNC,    /* records from arg_index on are void */
    WAL_RESET,    /* all records are void; the log goes on after (arg_index, arg_term) */
    WAL_TYPE_MAX
};

#define WAL_STANDS_IN 1u /* flags */

struct wal_batch_header
{
    uint64_t magic;
    uint32_t version;
    uint32_t header_crc; /* of these 256 bytes with header_crc = 0 */
    uint32_t type;
    uint32_t n_records;
    uint32_t length; /* whole blocks, header and padding included */
    uint32_t payload_length;
    uint32_t sectors_crc;
    uint32_t table_crc;
    uint32_t payload_crc;
    uint32_t flags;
    uint8_t uuid[WAL_UUID];
    uint64_t segment;
    uint64_t salt;
    uint64_t lsn;
    uint64_t acked_lsn;
    uint64_t first_index, last_index; /* DATA: of the records; else 0 */
    uint64_t first_term, last_term;
    uint64_t arg_index, arg_term; /* TRUNC, RESET */
    uint64_t prev_lsn;            /* predecessor; 0 for the first */
    uint32_t prev_header_crc;
    uint32_t stands_crc; /* WAL_STANDS_IN: header_crc and LSN that the successor names; or 0 */
    uint64_t stands_lsn;
    uint64_t tail_index; /* last index of the log once this batch is in it */
    uint64_t cut_lsn;    /* of the newest TRUNC or RESET before this batch, 0: none */
    uint64_t
        meta_generation; /* of the metadata when the batch was built: older metadata is stale */
    uint8_t reserved[64];
};

struct wal_table_entry
{
    uint64_t index;
    uint64_t term;
    uint32_t type;
    uint32_t len;
    uint32_t crc;    /* CRC32C of the data, not seeded: it travels */
    uint32_t offset; /* of the data from the start of the batch */
};

/* One of four slots of the file meta, each in its own block. Generation g is written to slots
 * 2g % 4 and (2g + 1) % 4, one durable write after the other. */
struct wal_meta
{
    uint64_t magic;
    uint32_t version;
    uint32_t crc; /* of these 512 bytes with crc = 0, seeded with the slot number */
    uint32_t slot;
    uint32_t clean; /* 1: CLOSE is the last batch of the log */
    uint8_t uuid[WAL_UUID];
    uint64_t node_id;
    uint64_t generation;
    uint64_t term;
    uint64_t vote;
    uint64_t acked_lsn;     /* when this generation was written */
    uint64_t first_segment; /* segments below are leftovers of a prefix truncation */
    uint64_t base_index;    /* records up to here are forgotten, as of base_lsn */
    uint64_t base_term;
    uint64_t base_lsn;
    uint8_t reserved[400];
};

#define WAL_META_SLOTS 4u
#define WAL_META_BYTES (WAL_META_SLOTS * WAL_BLOCK)

#define WAL_AT(type, member, at) \
    _Static_assert(offsetof(struct type, member) == (at), #type "." #member)
WAL_AT(wal_segment_header, magic, 0);
WAL_AT(wal_segment_header, version, 8);
WAL_AT(wal_segment_header, crc, 12);
WAL_AT(wal_segment_header, block_size, 16);
WAL_AT(wal_segment_header, reserved0, 20);
WAL_AT(wal_segment_header, uuid, 24);
WAL_AT(wal_segment_header, node_id, 40);
WAL_AT(wal_segment_header, sequence, 48);
WAL_AT(wal_segment_header, salt, 56);
WAL_AT(wal_segment_header, first_lsn, 64);
WAL_AT(wal_segment_header, bytes, 72);
WAL_AT(wal_segment_header, reserved, 80);
_Static_assert(sizeof(struct wal_segment_header) == 512, "segment header is one sector");
WAL_AT(wal_batch_header, magic, 0);
WAL_AT(wal_batch_header, version, 8);
WAL_AT(wal_batch_header, header_crc, 12);
WAL_AT(wal_batch_header, type, 16);
WAL_AT(wal_batch_header, n_records, 20);
WAL_AT(wal_batch_header, length, 24);
WAL_AT(wal_batch_header, payload_length, 28);
WAL_AT(wal_batch_header, sectors_crc, 32);
WAL_AT(wal_batch_header, table_crc, 36);
WAL_AT(wal_batch_header, payload_crc, 40);
WAL_AT(wal_batch_header, flags, 44);
WAL_AT(wal_batch_header, uuid, 48);
WAL_AT(wal_batch_header, segment, 64);
WAL_AT(wal_batch_header, salt, 72);
WAL_AT(wal_batch_header, lsn, 80);
WAL_AT(wal_batch_header, acked_lsn, 88);
WAL_AT(wal_batch_header, first_index, 96);
WAL_AT(wal_batch_header, last_index, 104);
WAL_AT(wal_batch_header, first_term, 112);
WAL_AT(wal_batch_header, last_term, 120);
WAL_AT(wal_batch_header, arg_index, 128);
WAL_AT(wal_batch_header, arg_term, 136);
WAL_AT(wal_batch_header, prev_lsn, 144);
WAL_AT(wal_batch_header, prev_header_crc, 152);
WAL_AT(wal_batch_header, stands_crc, 156);
WAL_AT(wal_batch_header, stands_lsn, 160);
WAL_AT(wal_batch_header, tail_index, 168);
WAL_AT(wal_batch_header, cut_lsn, 176);
WAL_AT(wal_batch_header, meta_generation, 184);
WAL_AT(wal_batch_header, reserved, 192);
_Static_assert(sizeof(struct wal_batch_header) == 256, "batch header");
WAL_AT(wal_table_entry, index, 0);
WAL_AT(wal_table_entry, term, 8);
WAL_AT(wal_table_entry, type, 16);
WAL_AT(wal_table_entry, len, 20);
WAL_AT(wal_table_entry, crc, 24);
WAL_AT(wal_table_entry, offset, 28);
_Static_assert(sizeof(struct wal_table_entry) == 32, "table entry");
WAL_AT(wal_meta, magic, 0);
WAL_AT(wal_meta, version, 8);
WAL_AT(wal_meta, crc, 12);
WAL_AT(wal_meta, slot, 16);
WAL_AT(wal_meta, clean, 20);
WAL_AT(wal_meta, uuid, 24);
WAL_AT(wal_meta, node_id, 40);
WAL_AT(wal_meta, generation, 48);
WAL_AT(wal_meta, term, 56);
WAL_AT(wal_meta, vote, 64);
WAL_AT(wal_meta, acked_lsn, 72);
WAL_AT(wal_meta, first_segment, 80);
WAL_AT(wal_meta, base_index, 88);
WAL_AT(wal_meta, base_term, 96);
WAL_AT(wal_meta, base_lsn, 104);
WAL_AT(wal_meta, reserved, 112);
_Static_assert(sizeof(struct wal_meta) == 512, "a slot's contents are one sector");

/* What a header in front of us turns out to be. */
enum wal_header_state { WAL_HEADER_OK, WAL_HEADER_ZERO, WAL_HEADER_OTHER, WAL_HEADER_BAD };

/* What lies at a place of the log. */
enum wal_found {
    WAL_VALID,
    WAL_BODY_BAD,  /* the header is good, so length and identity are known */
    WAL_NOTHING,   /* the first sector is all zero */
    WAL_MISPLACED, /* a good header that belongs to another place, epoch or log */
    WAL_OTHER,     /* a good header of another version */
    WAL_GARBAGE
};

/* Where a batch is, or is going to be. */
struct wal_place
{
    const uint8_t *uuid;
    uint64_t segment;
    uint64_t salt;
    uint64_t lsn;
    uint64_t room; /* bytes from here to the end of the segment */
};

/* State of one 512-byte sector of a batch whose header is good. */
enum wal_sector { WAL_SECTOR_GOOD, WAL_SECTOR_UNKNOWN, WAL_SECTOR_ZEROED, WAL_SECTOR_ROTTEN };

uint32_t rguard__wal_seed(const struct wal_place *place);
bool rguard__wal_is_zero(const void *data, size_t len);

void rguard__wal_segment_seal(struct wal_segment_header *h);
enum wal_header_state rguard__wal_segment_check(const void *block, struct wal_segment_header *out);

void rguard__wal_meta_seal(struct wal_meta *m);
enum wal_header_state rguard__wal_meta_check(const void *block, uint32_t slot,
                                             struct wal_meta *out);

/* Bytes of a batch of @n records whose 8-aligned payloads add up to @payload. */
uint64_t rguard__wal_batch_bytes(uint64_t n, uint64_t payload);

/* Encoding: start() zeroes @buf and lays it out for h->n_records and h->payload_length (it sets
 * h->length, unless the batch stands in: then it is given); follow() makes it the successor of
 * @prev (lsn 0: there is none); put() adds records in order; finish() computes every CRC and stores
 * the header. */
struct wal_encoder
{
    uint8_t *buf;
    struct wal_batch_header *header;
    struct wal_table_entry *table;
    uint32_t n;      /* records put so far */
    uint32_t offset; /* where the next payload goes */
};
void rguard__wal_encode_start(struct wal_encoder *e, uint8_t *buf, struct wal_batch_header *h);
void rguard__wal_encode_follow(struct wal_encoder *e, const struct wal_batch_header *prev);
void rguard__wal_encode_put(struct wal_encoder *e, const struct rguard_wal_record *record);
void rguard__wal_encode_finish(struct wal_encoder *e, const struct wal_place *place);

/* Looks at @buf, which holds place->room readable bytes. Fills @h for every answer with a good
 * header. */
enum wal_found rguard__wal_batch_check(const uint8_t *buf, const struct wal_place *place,
                                       struct wal_batch_header *h);

/* Lengths, counts and type of a header with a good CRC go together and fit into @room bytes. */
bool rguard__wal_header_sane(const struct wal_batch_header *h, uint64_t room);

/* The copy of the predecessor's header in the batch at @buf. false: absent or damaged. */
bool rguard__wal_batch_prev(const uint8_t *buf, const struct wal_batch_header *h,
                            struct wal_batch_header *prev);

/* Does @h name @prev, or what @prev stands in for, as its predecessor? */
bool rguard__wal_follows(const struct wal_batch_header *h, const struct wal_batch_header *prev);

const struct wal_table_entry *rguard__wal_batch_table(const uint8_t *buf,
                                                      const struct wal_batch_header *h);

/* State (enum wal_sector) of each of the h->length / 512 sectors of the batch at @buf, whose header
 * @h is good. */
void rguard__wal_batch_sectors(const uint8_t *buf, const struct wal_batch_header *h,
                               uint8_t *states);

/* false when the bytes behind the payload are not zero. */
bool rguard__wal_batch_padding_ok(const uint8_t *buf, const struct wal_batch_header *h);

const char *rguard__wal_type_name(uint32_t type);

#endif
