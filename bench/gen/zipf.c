#include "bench/gen/zipf.h"

#include <math.h>

/* h(x) = x^-exponent, its integral, and that one's inverse. expm1 and log1p keep them exact where exponent is near 1. */
static double integral(double x, double exponent) {
    double l = log(x), t = (1 - exponent) * l;
    return fabs(t) < 1e-8 ? l * (1 + t / 2) : expm1(t) / (1 - exponent);
}
static double integral_inverse(double y, double exponent) {
    double t = y * (1 - exponent);
    return exp(fabs(t) < 1e-8 ? y * (1 - t / 2) : log1p(fmax(t, -1)) / (1 - exponent));
}

void zipf_init(struct zipf *z, uint64_t n, double exponent) {
    check(n >= 1);
    check(exponent >= 0);
    *z = (struct zipf){.n = n, .exponent = exponent, .low = integral(1.5, exponent) - 1, .high = integral((double)n + 0.5, exponent)};
}

uint64_t zipf_draw(const struct zipf *z, uint64_t *state) {
    if (z->exponent <= 0 || z->n == 1) return draw_next(state) % z->n;
    for (;;) {
        double u = z->high + draw_unit(state) * (z->low - z->high), x = integral_inverse(u, z->exponent), k = floor(x + 0.5);
        k = fmin(fmax(k, 1), (double)z->n);
        if (u >= integral(k + 0.5, z->exponent) - pow(k, -z->exponent)) return (uint64_t)k - 1;
    }
}
