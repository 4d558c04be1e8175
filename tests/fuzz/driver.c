/* SPDX-License-Identifier: Apache-2.0 */
/* Replays a corpus without libFuzzer: every file, and every file of every directory, that is named. */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_MAX (1u << 20)

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc(INPUT_MAX);
    if (f == NULL || data == NULL) {
        fprintf(stderr, "fuzz: %s: %s\n", path, strerror(errno));
        exit(1);
    }
    size_t n = fread(data, 1, INPUT_MAX, f);
    fclose(f);
    fprintf(stderr, "%s\n", path); /* before: the last line names what crashes */
    (void)LLVMFuzzerTestOneInput(data, n);
    free(data);
    return 1;
}

static int replay(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    int n = 0;
    if (dir == NULL) {
        return replay_file(path);
    }
    while ((entry = readdir(dir)) != NULL) {
        char file[4096];
        struct stat st;
        (void)snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        if (stat(file, &st) == 0 && S_ISREG(st.st_mode)) {
            n += replay_file(file);
        }
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv)
{
    int n = 0;
    for (int i = 1; i < argc; i++) {
        n += replay(argv[i]);
    }
    printf("%d inputs\n", n);
    return n > 0 ? 0 : 64;
}
