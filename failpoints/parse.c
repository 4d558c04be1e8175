/* SPDX-License-Identifier: Apache-2.0 */
/* The grammar of failpoint.h, by recursive descent over the text itself.
 *
 * Invariant: a function that returns 0 has consumed exactly one element of the grammar and the
 * blanks after it; one that returns RGUARD_ESPEC has filled the error and nothing else will touch
 * it. The error's offset is the first byte that cannot go on a valid text, or the start of the
 * token whose value is out of range. Numbers are read as integers: there is no float to be NaN. */
#include "failpoint_internal.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cursor
{
    const char *text;
    size_t len;
    size_t pos;
    size_t base; /* where the program being parsed starts; term offsets count from here */
    bool config; /* a ";" may follow a program */
    struct rguard_fp_error *err;
};

/* What an action takes in its parentheses. */
enum arg { ARG_NONE, ARG_INT, ARG_ERRNO, ARG_DURATION, ARG_TEXT, ARG_SPAN };

static const struct action
{
    const char *name;
    enum arg arg;
    const char *wants; /* for errors; NULL when the argument may be left out */
} actions[RGUARD_FP_ACTION_MAX] = {
    [RGUARD_FP_NONE] = {"", ARG_NONE, NULL},
    [RGUARD_FP_OFF] = {"off", ARG_NONE, NULL},
    [RGUARD_FP_RETURN] = {"return", ARG_INT, NULL},
    [RGUARD_FP_ERRNO] = {"errno", ARG_ERRNO, "an error name or number, as in errno(EIO)"},
    [RGUARD_FP_SLEEP] = {"sleep", ARG_DURATION, "a duration, as in sleep(10ms)"},
    [RGUARD_FP_PANIC] = {"panic", ARG_TEXT, NULL},
    [RGUARD_FP_ABORT] = {"abort", ARG_NONE, NULL},
    [RGUARD_FP_KILL] = {"kill", ARG_NONE, NULL},
    [RGUARD_FP_PRINT] = {"print", ARG_TEXT, NULL},
    [RGUARD_FP_BITFLIP] = {"bitflip", ARG_SPAN, NULL},
    [RGUARD_FP_OVERRUN] = {"overrun", ARG_SPAN, NULL},
    [RGUARD_FP_DOUBLE_FREE] = {"double_free", ARG_NONE, NULL},
};

/* Names that strerrorname_np gives to another spelling of the same number. */
static const struct alias
{
    const char *name;
    int number;
} aliases[] = {
    {"EWOULDBLOCK", EWOULDBLOCK},
    {"EDEADLOCK", EDEADLOCK},
    {"EOPNOTSUPP", EOPNOTSUPP},
    {"ENOTSUP", ENOTSUP},
};
#define MAX_ERRNO 133 /* EHWPOISON is the last that Linux has */

static int parse_program(struct cursor *c, struct fp_spec *spec);
static int parse_binding(struct cursor *c, struct fp_config *config, size_t *cap);
static bool looks_like_config(const char *text);
static int cursor_init(struct cursor *c, const char *text, struct rguard_fp_error *err);
static void skip_blanks(struct cursor *c);
static bool blank(char byte);
static bool name_byte(char byte);
static int fail_found(struct cursor *c, const char *expected);

/* ---- public ---------------------------------------------------------------------------------- */

int rguard_fp_check(const char *text, struct rguard_fp_error *err)
{
    if (text != NULL && looks_like_config(text)) {
        struct fp_config config;
        int rv = rguard__fp_parse_config(text, &config, err);
        if (rv == 0) {
            free(config.bindings);
        }
        return rv;
    }
    struct fp_spec spec;
    size_t off;
    size_t len;
    return rguard__fp_parse_program(text, &spec, &off, &len, err);
}

int rguard__fp_parse_program(const char *text, struct fp_spec *spec, size_t *text_off,
                             size_t *text_len, struct rguard_fp_error *err)
{
    struct cursor c;
    int rv = cursor_init(&c, text, err);
    if (rv != 0) {
        return rv;
    }
    skip_blanks(&c);
    size_t start = c.pos;
    rv = parse_program(&c, spec);
    if (rv != 0) {
        return rv;
    }
    if (c.pos != c.len) {
        return fail_found(&c, "\"->\" or the end");
    }
    size_t end = c.len;
    while (end > start && blank(text[end - 1])) {
        end--;
    }
    *text_off = start;
    *text_len = end - start;
    return 0;
}

int rguard__fp_parse_config(const char *text, struct fp_config *config, struct rguard_fp_error *err)
{
    struct cursor c;
    int rv = cursor_init(&c, text, err);
    if (rv != 0) {
        return rv;
    }
    c.config = true;
    struct fp_config result = {NULL, 0};
    size_t cap = 0;
    skip_blanks(&c);
    do {
        rv = parse_binding(&c, &result, &cap);
        if (rv != 0) {
            goto fail;
        }
        if (c.pos == c.len) {
            break;
        }
        if (c.text[c.pos] != ';') {
            rv = fail_found(&c, "\"->\", \";\" or the end");
            goto fail;
        }
        c.pos++;
        skip_blanks(&c);
    } while (c.pos < c.len); /* one ";" may end the text */
    *config = result;
    return 0;
fail:
    free(result.bindings);
    return rv;
}

const char *rguard__fp_action_name(uint32_t action)
{
    return action < RGUARD_FP_ACTION_MAX ? actions[action].name : "?";
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static int cursor_init(struct cursor *c, const char *text, struct rguard_fp_error *err)
{
    if (text == NULL) {
        return rguard__fp_error(err, RGUARD_ESPEC, 0, 0, "no text");
    }
    *c = (struct cursor){.text = text, .len = strnlen(text, FP_MAX_TEXT + 1), .err = err};
    if (c->len > FP_MAX_TEXT) {
        return rguard__fp_error(err, RGUARD_ESPEC, FP_MAX_TEXT, 1, "text is longer than %u bytes",
                                FP_MAX_TEXT);
    }
    return 0;
}

/* Not isspace(): a locale must not change the grammar. */
static bool blank(char byte)
{
    return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

static void skip_blanks(struct cursor *c)
{
    while (c->pos < c->len && blank(c->text[c->pos])) {
        c->pos++;
    }
}

static bool at(const struct cursor *c, char byte)
{
    return c->pos < c->len && c->text[c->pos] == byte;
}

static bool at_digit(const struct cursor *c)
{
    return c->pos < c->len && isdigit((unsigned char)c->text[c->pos]);
}

static bool at_arrow(const struct cursor *c)
{
    return c->len - c->pos >= 2 && memcmp(c->text + c->pos, "->", 2) == 0;
}

static bool word_byte(char byte)
{
    return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
           (byte >= 'A' && byte <= 'Z') || byte == '_';
}

static bool name_byte(char byte)
{
    return byte != '\0' && (word_byte(byte) || strchr("./:-", byte) != NULL);
}

static size_t word_length(const struct cursor *c)
{
    size_t n = 0;
    while (c->pos + n < c->len && word_byte(c->text[c->pos + n])) {
        n++;
    }
    return n;
}

/* Length of whatever stands at the cursor, for an error: a word, an arrow or one byte. */
static size_t token_length(const struct cursor *c)
{
    if (c->pos == c->len) {
        return 0;
    }
    size_t n = word_length(c);
    return n > 0 ? n : at_arrow(c) ? 2 : 1;
}

/* A piece of the text that is fit to be shown: cut, and printable. */
struct shown
{
    char text[36];
};

static struct shown show(const struct cursor *c, size_t len)
{
    struct shown s;
    size_t n = len < 32 ? len : 32;
    for (size_t i = 0; i < n; i++) {
        char byte = c->text[c->pos + i];
        s.text[i] = byte >= 0x20 && byte < 0x7f ? byte : '?';
    }
    strcpy(s.text + n, n < len ? "..." : "");
    return s;
}

static int fail_found(struct cursor *c, const char *expected)
{
    size_t len = token_length(c);
    if (len == 0) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, c->pos, 0, "expected %s, found the end",
                                expected);
    }
    return rguard__fp_error(c->err, RGUARD_ESPEC, c->pos, len, "expected %s, found \"%s\"",
                            expected, show(c, len).text);
}

/* Decimal digits into *value; false when they do not fit. There is at least one. */
static bool read_digits(struct cursor *c, uint64_t *value)
{
    bool fits = true;
    uint64_t v = 0;
    while (at_digit(c)) {
        uint64_t digit = (uint64_t)(c->text[c->pos++] - '0');
        fits = fits && !__builtin_mul_overflow(v, 10u, &v) && !__builtin_add_overflow(v, digit, &v);
    }
    *value = v;
    return fits;
}

/* ---- program --------------------------------------------------------------------------------- */

static int parse_arg(struct cursor *c, struct fp_term *term);

/* The number that opens a modifier: digits [ "." digits ]. Billionths, so that P% is exact. */
#define BILLION      1000000000u
#define HUNDRED_PCT  (100u * (uint64_t)BILLION)
#define FRACTION_LEN 9

static int parse_fraction(struct cursor *c, uint64_t *billionths, bool *fraction)
{
    *billionths = 0;
    *fraction = at(c, '.');
    if (!*fraction) {
        return 0;
    }
    c->pos++;
    if (!at_digit(c)) {
        return fail_found(c, "a digit after \".\"");
    }
    size_t start = c->pos;
    uint64_t scale = BILLION / 10;
    for (; at_digit(c); c->pos++, scale /= 10) {
        if (c->pos - start == FRACTION_LEN) {
            return rguard__fp_error(c->err, RGUARD_ESPEC, c->pos, 1,
                                    "more than %d digits after \".\"", FRACTION_LEN);
        }
        *billionths += (uint64_t)(c->text[c->pos] - '0') * scale;
    }
    return 0;
}

struct modifiers
{
    bool probability;
    bool count;
};

static int set_probability(struct cursor *c, struct fp_term *term, struct modifiers *seen,
                           size_t start, size_t len, uint64_t whole, uint64_t billionths)
{
    if (seen->probability) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, start, len, "second probability in one term");
    }
    if (seen->count) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, start, len,
                                "the probability stands before the count, as in 20%%3*return");
    }
    if (whole > 100 || (whole == 100 && billionths > 0)) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, start, len, "probability is above 100%%");
    }
    __extension__ typedef unsigned __int128 wide;
    uint64_t v = whole * BILLION + billionths;
    term->chance = (uint64_t)(((wide)v << 63) / HUNDRED_PCT);
    seen->probability = true;
    return 0;
}

/* number ( "%" | "*" ) */
static int parse_modifier(struct cursor *c, struct fp_term *term, struct modifiers *seen)
{
    size_t start = c->pos;
    uint64_t whole;
    uint64_t billionths;
    bool fraction;
    bool fits = read_digits(c, &whole);
    int rv = parse_fraction(c, &billionths, &fraction);
    if (rv != 0) {
        return rv;
    }
    size_t len = c->pos - start;
    skip_blanks(c);
    if (at(c, '%')) {
        c->pos++;
        skip_blanks(c);
        return set_probability(c, term, seen, start, len, fits ? whole : UINT64_MAX, billionths);
    }
    if (!at(c, '*')) {
        return fail_found(c, "\"%\" or \"*\" after a number");
    }
    c->pos++;
    skip_blanks(c);
    const char *why = seen->count  ? "second count in one term"
                      : fraction   ? "a count is a whole number"
                      : !fits      ? "count is too large"
                      : whole == 0 ? "a count of 0 never fires; leave the term out or use off"
                                   : NULL;
    if (why != NULL) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, start, len, "%s", why);
    }
    term->count = whole;
    seen->count = true;
    return 0;
}

static int fail_action(struct cursor *c, size_t len)
{
    struct cursor after = *c;
    after.pos += len;
    skip_blanks(&after);
    struct shown word = show(c, len);
    if (at(&after, '%')) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, c->pos, len,
                                "\"%s\" is not a probability; expected a number from 0 to 100",
                                word.text);
    }
    const char *nearest = NULL;
    unsigned best = UINT_MAX;
    for (uint32_t i = RGUARD_FP_OFF; i < RGUARD_FP_ACTION_MAX; i++) {
        const char *name = actions[i].name;
        unsigned d = rguard__fp_distance(c->text + c->pos, len, name, strlen(name));
        if (d < best) {
            best = d;
            nearest = name;
        }
    }
    if (rguard__fp_close_enough(best, len)) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, c->pos, len,
                                "unknown action \"%s\" (did you mean \"%s\"?)", word.text, nearest);
    }
    return rguard__fp_error(c->err, RGUARD_ESPEC, c->pos, len,
                            "unknown action \"%s\"; expected off, return, errno, sleep, panic, "
                            "abort, kill, print, bitflip, overrun or double_free",
                            word.text);
}

/* [ P "%" ] [ N "*" ] action [ "(" arg ")" ] */
static int parse_term(struct cursor *c, struct fp_term *term)
{
    *term = (struct fp_term){.chance = 1ull << 63};
    struct modifiers seen = {false, false};
    while (at_digit(c)) {
        int rv = parse_modifier(c, term, &seen);
        if (rv != 0) {
            return rv;
        }
    }
    size_t len = word_length(c);
    if (len == 0) {
        return fail_found(c, seen.count         ? "an action"
                             : seen.probability ? "a count or an action"
                                                : "a probability, a count or an action");
    }
    for (uint32_t i = RGUARD_FP_OFF; i < RGUARD_FP_ACTION_MAX; i++) {
        if (strlen(actions[i].name) == len && memcmp(actions[i].name, c->text + c->pos, len) == 0) {
            term->action = i;
        }
    }
    if (term->action == RGUARD_FP_NONE) {
        return fail_action(c, len);
    }
    term->offset = (uint32_t)(c->pos - c->base);
    term->length = (uint32_t)len;
    c->pos += len;
    skip_blanks(c);
    return parse_arg(c, term);
}

/* term { "->" term } */
static int parse_program(struct cursor *c, struct fp_spec *spec)
{
    c->base = c->pos;
    spec->nterms = 0;
    for (;;) {
        if (spec->nterms == FP_MAX_TERMS) {
            return rguard__fp_error(c->err, RGUARD_ESPEC, c->pos, token_length(c),
                                    "more than %u terms in one program", FP_MAX_TERMS);
        }
        int rv = parse_term(c, &spec->terms[spec->nterms]);
        if (rv != 0) {
            return rv;
        }
        spec->nterms++;
        if (!at_arrow(c)) {
            return 0;
        }
        c->pos += 2;
        skip_blanks(c);
    }
}

/* ---- arguments ------------------------------------------------------------------------------- */

static int parse_int(struct cursor *c, struct fp_term *term)
{
    size_t start = c->pos;
    bool negative = at(c, '-');
    c->pos += negative || at(c, '+');
    uint64_t v = 0;
    bool fits = true;
    if (c->len - c->pos >= 3 && memcmp(c->text + c->pos, "0x", 2) == 0 &&
        isxdigit((unsigned char)c->text[c->pos + 2])) {
        c->pos += 2;
        for (; c->pos < c->len && isxdigit((unsigned char)c->text[c->pos]); c->pos++) {
            int byte = tolower((unsigned char)c->text[c->pos]);
            fits = fits && v >> 60 == 0;
            v = v << 4 | (uint64_t)(isdigit(byte) ? byte - '0' : byte - 'a' + 10);
        }
    } else if (at_digit(c)) {
        fits = read_digits(c, &v);
    } else {
        return fail_found(c, "an integer");
    }
    if (!fits || v > (uint64_t)INT64_MAX + negative) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, start, c->pos - start,
                                "integer does not fit 64 bits");
    }
    term->value = negative ? (int64_t)(0 - v) : (int64_t)v;
    return 0;
}

static int parse_span(struct cursor *c, struct fp_term *term)
{
    size_t start = c->pos;
    uint64_t v;
    if (!at_digit(c)) {
        return fail_found(c, "a whole number");
    }
    bool fits = read_digits(c, &v);
    if (!fits || v == 0 || v > FP_MAX_SPAN) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, start, c->pos - start,
                                "expected a number from 1 to %u", FP_MAX_SPAN);
    }
    term->len = (uint32_t)v;
    return 0;
}

static int fail_errno(struct cursor *c, size_t len)
{
    const char *nearest = NULL;
    unsigned best = UINT_MAX;
    for (int i = 1; i <= MAX_ERRNO; i++) {
        const char *name = strerrorname_np(i);
        unsigned d = name == NULL ? UINT_MAX
                                  : rguard__fp_distance(c->text + c->pos, len, name, strlen(name));
        if (d < best) {
            best = d;
            nearest = name;
        }
    }
    struct shown word = show(c, len);
    if (rguard__fp_close_enough(best, len)) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, c->pos, len,
                                "unknown error \"%s\" (did you mean \"%s\"?)", word.text, nearest);
    }
    return rguard__fp_error(c->err, RGUARD_ESPEC, c->pos, len,
                            "unknown error \"%s\"; expected a name such as EIO or a number",
                            word.text);
}

static int parse_errno(struct cursor *c, struct fp_term *term)
{
    size_t len = word_length(c);
    if (len == 0) {
        return fail_found(c, "an error name such as EIO, or a number");
    }
    if (at_digit(c)) {
        size_t start = c->pos;
        uint64_t v;
        bool fits = read_digits(c, &v);
        if (!fits || v == 0 || v > 4095) {
            return rguard__fp_error(c->err, RGUARD_ESPEC, start, c->pos - start,
                                    "expected an error number from 1 to 4095");
        }
        term->value = (int64_t)v;
        return 0;
    }
    const char *word = c->text + c->pos;
    for (int i = 1; i <= MAX_ERRNO && term->value == 0; i++) {
        const char *name = strerrorname_np(i);
        if (name != NULL && strlen(name) == len && memcmp(name, word, len) == 0) {
            term->value = i;
        }
    }
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases && term->value == 0; i++) {
        if (strlen(aliases[i].name) == len && memcmp(aliases[i].name, word, len) == 0) {
            term->value = aliases[i].number;
        }
    }
    if (term->value == 0) {
        return fail_errno(c, len);
    }
    c->pos += len;
    return 0;
}

static int parse_duration(struct cursor *c, struct fp_term *term)
{
    static const struct
    {
        const char *name;
        uint64_t ns;
    } units[] = {{"us", 1000}, {"ms", 1000000}, {"s", 1000000000}};
    if (!at_digit(c)) {
        return fail_found(c, "a duration such as 10ms");
    }
    size_t start = c->pos;
    uint64_t v;
    bool fits = read_digits(c, &v);
    size_t len = c->pos - start;
    skip_blanks(c);
    uint64_t scale = 1000000;
    size_t unit = word_length(c);
    if (unit > 0) {
        scale = 0;
        for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
            if (strlen(units[i].name) == unit &&
                memcmp(units[i].name, c->text + c->pos, unit) == 0) {
                scale = units[i].ns;
            }
        }
        if (scale == 0) {
            return fail_found(c, "a unit (us, ms or s)");
        }
        c->pos += unit;
    }
    if (!fits || __builtin_mul_overflow(v, scale, &v) || v > (uint64_t)FP_MAX_SLEEP_NS) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, start, len, "longer than a day");
    }
    term->value = (int64_t)v;
    return 0;
}

/* Printable bytes up to the ")", or between double quotes when it must hold a ")" itself. */
static int parse_text(struct cursor *c, struct fp_term *term)
{
    bool quoted = at(c, '"');
    c->pos += quoted;
    size_t start = c->pos;
    while (c->pos < c->len && c->text[c->pos] != '"' && (quoted || c->text[c->pos] != ')')) {
        char byte = c->text[c->pos];
        if (byte < 0x20 || byte > 0x7e) {
            return rguard__fp_error(c->err, RGUARD_ESPEC, c->pos, 1,
                                    "byte 0x%02x in a text; expected printable ASCII",
                                    (unsigned)(unsigned char)byte);
        }
        c->pos++;
    }
    size_t end = c->pos;
    if (quoted) {
        if (!at(c, '"')) {
            return fail_found(c, "a closing quote");
        }
        c->pos++;
    } else {
        while (end > start && c->text[end - 1] == ' ') {
            end--;
        }
    }
    if (end == start) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, start, 0, "expected a text, found nothing");
    }
    if (end - start > FP_MAX_MESSAGE) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, start, end - start,
                                "text is longer than %u bytes", FP_MAX_MESSAGE);
    }
    term->text = (uint32_t)(start - c->base);
    term->len = (uint32_t)(end - start);
    return 0;
}

static int parse_arg(struct cursor *c, struct fp_term *term)
{
    const struct action *action = &actions[term->action];
    if (!at(c, '(')) {
        if (action->wants != NULL) {
            return rguard__fp_error(c->err, RGUARD_ESPEC, c->base + term->offset, term->length,
                                    "\"%s\" needs %s", action->name, action->wants);
        }
        /* return alone makes RGUARD_FP_IF true; a span is one bit or one byte. */
        term->value = action->arg == ARG_INT ? 1 : 0;
        term->len = action->arg == ARG_SPAN ? 1 : 0;
        return 0;
    }
    if (action->arg == ARG_NONE) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, c->pos, 1, "\"%s\" takes no argument",
                                action->name);
    }
    c->pos++;
    skip_blanks(c);
    int rv = action->arg == ARG_INT        ? parse_int(c, term)
             : action->arg == ARG_ERRNO    ? parse_errno(c, term)
             : action->arg == ARG_DURATION ? parse_duration(c, term)
             : action->arg == ARG_TEXT     ? parse_text(c, term)
                                           : parse_span(c, term);
    if (rv != 0) {
        return rv;
    }
    skip_blanks(c);
    if (!at(c, ')')) {
        return fail_found(c, "\")\"");
    }
    c->pos++;
    skip_blanks(c);
    return 0;
}

/* ---- config ---------------------------------------------------------------------------------- */

/* Only in a config does a name stand before a "=". */
static bool looks_like_config(const char *text)
{
    while (blank(*text)) {
        text++;
    }
    const char *name = text;
    while (name_byte(*text)) {
        text++;
    }
    bool named = text > name;
    while (blank(*text)) {
        text++;
    }
    return named && *text == '=';
}

static int parse_name(struct cursor *c, struct fp_binding *b)
{
    b->name = c->pos;
    while (c->pos < c->len && name_byte(c->text[c->pos])) {
        c->pos++;
    }
    b->name_len = c->pos - b->name;
    if (b->name_len == 0) {
        return fail_found(c, "the name of a site");
    }
    if (b->name_len > FP_MAX_NAME) {
        return rguard__fp_error(c->err, RGUARD_ESPEC, b->name, b->name_len,
                                "name is longer than %u bytes", FP_MAX_NAME);
    }
    return 0;
}

/* name "=" program */
static int parse_binding(struct cursor *c, struct fp_config *config, size_t *cap)
{
    if (config->n == *cap) {
        size_t more = *cap == 0 ? 8 : *cap * 2;
        struct fp_binding *p = more > FP_MAX_BINDINGS
                                   ? NULL
                                   : realloc(config->bindings, more * sizeof *config->bindings);
        if (p == NULL) {
            return more > FP_MAX_BINDINGS
                       ? rguard__fp_error(c->err, RGUARD_ESPEC, c->pos, token_length(c),
                                          "more than %u sites in one config", FP_MAX_BINDINGS)
                       : rguard__fp_error(c->err, -ENOMEM, c->pos, 0, "out of memory");
        }
        config->bindings = p;
        *cap = more;
    }
    struct fp_binding *b = &config->bindings[config->n];
    int rv = parse_name(c, b);
    if (rv != 0) {
        return rv;
    }
    for (size_t i = 0; i < config->n; i++) {
        const struct fp_binding *other = &config->bindings[i];
        if (other->name_len == b->name_len &&
            memcmp(c->text + other->name, c->text + b->name, b->name_len) == 0) {
            return rguard__fp_error(c->err, RGUARD_ESPEC, b->name, b->name_len,
                                    "this name was already given a program");
        }
    }
    skip_blanks(c);
    if (!at(c, '=')) {
        return fail_found(c, "\"=\" after the name");
    }
    c->pos++;
    skip_blanks(c);
    b->text = c->pos;
    rv = parse_program(c, &b->spec);
    if (rv != 0) {
        return rv;
    }
    b->text_len = c->pos - b->text;
    while (b->text_len > 0 && blank(c->text[b->text + b->text_len - 1])) {
        b->text_len--;
    }
    config->n++;
    return 0;
}
