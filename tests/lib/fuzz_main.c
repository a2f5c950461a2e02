/* main() for the programs of tests/fuzz, pulled from the archive only where no other main is defined. Deterministic: a seed and the corpus
 * decide every input, so a failure is repeated by running again with the seed that it printed, or by replaying the file written down from
 * the hex that it prints.
 *
 *   fuzz_scan [--seconds N] [--seed S]     mutated inputs from tests/fuzz/corpus/scan/, or from random bytes when there are none
 *   fuzz_scan FILE...                      those inputs alone */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/log.h"
#include "tests/lib/test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_BYTES_MAX = 16384, CORPUS_MAX = 512 };

static struct {
    uint8_t *data;
    size_t len;
} corpus[CORPUS_MAX];
static unsigned corpus_count;

/* What runs now, for the crash handler. */
static const uint8_t *running;
static size_t running_len;
static uint64_t running_number, running_seed;

static void crash_handler(int sig) {
    static char line[2 * INPUT_BYTES_MAX + 256];
    int n = snprintf(line, 256, "\nfuzz: signal %d at input %llu of seed %llu, %zu bytes:\n", sig, (unsigned long long)running_number,
                     (unsigned long long)running_seed, running_len);
    for (size_t i = 0; i < running_len && i < INPUT_BYTES_MAX; i++) {
        line[n++] = "0123456789abcdef"[running[i] >> 4];
        line[n++] = "0123456789abcdef"[running[i] & 15];
    }
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, (size_t)n) < 0) _exit(1);
    signal(sig, SIG_DFL);
    raise(sig);
}

static uint8_t *file_load(const char *path, size_t *len) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    uint8_t *p = malloc(INPUT_BYTES_MAX);
    check(p);
    *len = fread(p, 1, INPUT_BYTES_MAX, f);
    fclose(f);
    return p;
}

static int not_hidden(const struct dirent *e) { return e->d_name[0] != '.'; }

static void corpus_load(const char *what) {
    char path[512];
    struct dirent **names;
    snprintf(path, sizeof path, "tests/fuzz/corpus/%s", what);
    int n = scandir(path, &names, not_hidden, alphasort); /* sorted: the order is part of the seed's meaning */
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "tests/fuzz/corpus/%s/%s", what, names[i]->d_name);
        if (corpus_count < CORPUS_MAX) corpus[corpus_count].data = file_load(path, &corpus[corpus_count].len);
        if (corpus_count < CORPUS_MAX && corpus[corpus_count].data) corpus_count++;
        free(names[i]);
    }
    if (n >= 0) free(names);
}

/* In a buffer of exactly its size, so that the sanitizer sees one byte too many. */
static void run(const uint8_t *data, size_t len) {
    uint8_t *exact = malloc(len ? len : 1);
    check(exact);
    memcpy(exact, data, len);
    running = exact, running_len = len;
    LLVMFuzzerTestOneInput(exact, len);
    running_len = 0;
    free(exact);
}

static void bytes_insert(uint8_t *b, size_t *len, size_t at, const uint8_t *from, size_t n) {
    n = MIN_OF(n, INPUT_BYTES_MAX - *len);
    memmove(b + at + n, b + at, *len - at);
    memcpy(b + at, from, n);
    *len += n;
}

static void mutate(struct test_random *r, uint8_t *b, size_t *len) {
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff, 0x08, 0x0a, 0x0b, 0x0c, 0x10, 0x12};
    size_t at = test_random_below(r, *len + 1);
    uint8_t noise[64];
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = (uint8_t)test_random_next(r);
    size_t n = 1 + test_random_below(r, 8);
    switch (test_random_below(r, 8)) {
    case 0: if (at < *len) b[at] ^= (uint8_t)(1u << test_random_below(r, 8)); break;
    case 1: if (at < *len) b[at] = edges[test_random_below(r, sizeof edges)]; break;
    case 2: if (at < *len) b[at] = noise[0]; break;
    case 3: bytes_insert(b, len, at, noise, n); break;
    case 4: /* delete */
        n = MIN_OF(n, *len - at);
        memmove(b + at, b + at + n, *len - at - n);
        *len -= n;
        break;
    case 5: /* cut */
        if (test_random_below(r, 4) == 0) *len = at;
        break;
    case 6: { /* double a run */
        uint8_t copy[256];
        n = MIN_OF(MIN_OF(test_random_below(r, 256), sizeof copy), *len - at);
        memcpy(copy, b + at, n);
        bytes_insert(b, len, at, copy, n);
        break;
    }
    case 7: /* splice with another of the corpus */
        if (corpus_count) {
            unsigned other = (unsigned)test_random_below(r, corpus_count);
            size_t from = test_random_below(r, corpus[other].len + 1);
            bytes_insert(b, len, at, corpus[other].data + from, test_random_below(r, corpus[other].len - from + 1));
        }
        break;
    }
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void campaign(double seconds, uint64_t seed) {
    static uint8_t input[INPUT_BYTES_MAX];
    struct test_random r = {(seed + 1) * 0x9e3779b97f4a7c15ull | 1};
    running_seed = seed;
    for (unsigned i = 0; i < corpus_count; i++) run(corpus[i].data, corpus[i].len);
    for (double end = now_s() + seconds; now_s() < end;)
        for (unsigned k = 0; k < 64; k++) {
            size_t len = 0;
            if (corpus_count && test_random_below(&r, 16)) {
                unsigned i = (unsigned)test_random_below(&r, corpus_count);
                memcpy(input, corpus[i].data, len = corpus[i].len);
            } else {
                for (len = test_random_below(&r, 64), running_len = 0; running_len < len; running_len++) input[running_len] = (uint8_t)test_random_next(&r);
            }
            for (uint64_t m = 1 + test_random_below(&r, 6); m; m--) mutate(&r, input, &len);
            running_number++;
            run(input, len);
        }
}

int main(int argc, char **argv) {
    const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    double seconds = 5;
    uint64_t seed = 1;
    int files = 0;
    log_set_level(LOG_OFF);
    signal(SIGABRT, crash_handler);
#ifndef ORDERDB_ASAN
    signal(SIGSEGV, crash_handler);
    signal(SIGFPE, crash_handler);
#endif
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) { seconds = atof(argv[++i]); continue; }
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) { seed = strtoull(argv[++i], NULL, 10); continue; }
        size_t len;
        uint8_t *data = file_load(argv[i], &len);
        if (!data) return fprintf(stderr, "%s: %s\n", argv[i], strerror(errno)), 2;
        run(data, len);
        free(data);
        files++;
    }
    if (!files) {
        corpus_load(strncmp(name, "fuzz_", 5) == 0 ? name + 5 : name);
        campaign(seconds, seed);
        for (unsigned i = 0; i < corpus_count; i++) free(corpus[i].data);
    }
    printf("ok %s # %llu inputs, corpus %u, seed %llu\n", name, (unsigned long long)running_number + (unsigned)files, corpus_count, (unsigned long long)seed);
    return 0;
}
