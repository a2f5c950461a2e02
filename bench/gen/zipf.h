/* Random numbers of the generators: splitmix64, and ranks after Zipf's law. */
#ifndef BENCH_GEN_ZIPF_H
#define BENCH_GEN_ZIPF_H

#include "proto/base/base.h"

/* The next of a sequence that follows from its state alone. */
static inline uint64_t draw_next(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}
static inline double draw_unit(uint64_t *state) { return (double)(draw_next(state) >> 11) * 0x1p-53; } /* [0, 1) */

/* Rank k of 0..n-1 comes with a chance of 1 / (k + 1)^exponent; exponent 0: all alike. By rejection from the integral of that curve (W. Hoermann and G. Derflinger,
 * "Rejection-inversion to generate variates from monotone discrete distributions", 1996): exact, no table, about one draw a rank. */
struct zipf {
    uint64_t n;
    double exponent, low, high; /* the integral at 1/2 and at n + 1/2 */
};
void zipf_init(struct zipf *z, uint64_t n, double exponent); /* n at least 1; exponent 0 or more */
uint64_t zipf_draw(const struct zipf *z, uint64_t *state);

#endif
