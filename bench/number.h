/* Numbers of the bench programs' flags. */
#ifndef BENCH_NUMBER_H
#define BENCH_NUMBER_H

#include <errno.h>
#include <stdlib.h>

#include "proto/base/base.h"

/* false: no number, or not from least to most. base: 10, or 0: 0x and 0 in front mean hexadecimal and octal. */
static inline bool number_read(const char *text, int base, uint64_t least, uint64_t most, uint64_t *out) {
    char *end;
    errno = 0;
    *out = strtoull(text, &end, base);
    return *text >= '0' && *text <= '9' && !*end && !errno && *out >= least && *out <= most;
}
/* From 1, without zeros in front. */
static inline bool count_read(const char *text, uint64_t most, uint64_t *out) { return *text != '0' && number_read(text, 10, 1, most, out); }

#endif
