/* SPDX-License-Identifier: Apache-2.0 */
/* The failpoint language: a program, and a configuration of several. */
#include "failpoint_internal.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    struct fp_spec spec;
    struct fp_config config = {0};
    struct rguard_fp_error err;
    size_t offset, len;
    if (text == NULL) {
        return 0;
    }
    memcpy(text, data, size);
    text[size] = '\0';
    if (rguard__fp_parse_program(text, &spec, &offset, &len, &err) == 0) {
        RGUARD_ASSERT(offset + len <= strlen(text) && spec.nterms <= FP_MAX_TERMS);
    }
    if (rguard__fp_parse_config(text, &config, &err) == 0) {
        for (size_t i = 0; i < config.n; i++) {
            const struct fp_binding *b = &config.bindings[i];
            RGUARD_ASSERT(b->name + b->name_len <= strlen(text));
            RGUARD_ASSERT(b->text + b->text_len <= strlen(text));
        }
        free(config.bindings);
    }
    free(text);
    return 0;
}
