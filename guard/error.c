/* SPDX-License-Identifier: Apache-2.0 */
/* Error codes, version, assertions and the test switches: what every other file leans on. */
#include <raftguard/error.h>
#include <raftguard/testing.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *rguard_version(void)
{
    return RGUARD_VERSION_STRING;
}

const char *rguard_strerror(int err)
{
    switch (err) {
        case 0:
            return "success";
#define RGUARD_ERROR_TEXT(name, value, text) \
    case name:                               \
        return text;
            RGUARD_ERRORS(RGUARD_ERROR_TEXT)
#undef RGUARD_ERROR_TEXT
        default:
            break;
    }
    const char *text = err < 0 ? strerrordesc_np(-err) : NULL;
    return text != NULL ? text : "unknown error";
}

const char *rguard_err_name(int err)
{
    switch (err) {
        case 0:
            return "OK";
#define RGUARD_ERROR_NAME(name, value, text) \
    case name:                               \
        return #name;
            RGUARD_ERRORS(RGUARD_ERROR_NAME)
#undef RGUARD_ERROR_NAME
        default:
            break;
    }
    const char *name = err < 0 ? strerrorname_np(-err) : NULL;
    return name != NULL ? name : "UNKNOWN";
}

static void put(const char *text)
{
    ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
    (void)ignored;
}

/* Async-signal-safe: write(2) and abort() only. */
void rguard__assert_failed(const char *file, int line, const char *expr)
{
    char digits[12];
    char *p = digits + sizeof digits - 1;
    *p = '\0';
    do {
        *--p = (char)('0' + line % 10);
        line /= 10;
    } while (line > 0);
    put("raftguard: assertion failed: ");
    put(file);
    put(":");
    put(p);
    put(": ");
    put(expr);
    put("\n");
    abort();
}

#ifdef RGUARD_TESTING
int rguard__test_off(const char *name)
{
    const char *list = getenv("RGUARD_TEST_OFF");
    size_t len = strlen(name);
    while (list != NULL && *list != '\0') {
        size_t n = strcspn(list, ",");
        if (n == len && memcmp(list, name, n) == 0) {
            return 1;
        }
        list += n;
        list += *list == ',';
    }
    return 0;
}
#endif
