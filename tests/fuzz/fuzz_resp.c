/* SPDX-License-Identifier: Apache-2.0 */
/* Requests from clients, arriving in pieces whose size byte 0 decides. */
#include "fuzz.h"
#include "resp.h"

#include <string.h>

/* Its bytes must be there. */
static void touch(const struct resp_request *request)
{
    unsigned sum = 0;
    RGUARD_ASSERT(request->argc >= 1 && request->argc <= RESP_MAX_ARGS);
    for (unsigned i = 0; i < request->argc; i++) {
        RGUARD_ASSERT(request->argv[i].len <= RESP_MAX_REQUEST);
        for (size_t k = 0; k < request->argv[i].len; k++) {
            sum += (unsigned char)request->argv[i].data[k];
        }
    }
    RGUARD_ASSERT(sum <= 255u * RESP_MAX_REQUEST);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct resp_parser p;
    struct resp_request request;
    int rc = RESP_MORE;
    if (size < 1) {
        return 0;
    }
    size_t piece = data[0] == 0 ? size : data[0];
    resp_init(&p);
    for (size_t at = 1; at < size && rc >= 0;) {
        char *where;
        size_t room;
        if (resp_reserve(&p, &where, &room) != 0) {
            break;
        }
        size_t n = size - at < piece ? size - at : piece;
        n = n < room ? n : room;
        memcpy(where, data + at, n);
        resp_received(&p, n);
        at += n;
        while ((rc = resp_next(&p, &request)) == RESP_REQUEST) {
            touch(&request);
        }
    }
    RGUARD_ASSERT(resp_pending(&p) <= size);
    resp_free(&p);
    return 0;
}
