#include "tools/money.h"

#include <stdio.h>

/* ISO 4217, the entries whose exponent is not 2. */
static const struct {
    char code[4];
    unsigned exponent;
} exceptions[] = {
    {"BIF", 0}, {"CLP", 0}, {"DJF", 0}, {"GNF", 0}, {"ISK", 0}, {"JPY", 0}, {"KMF", 0}, {"KRW", 0}, {"PYG", 0}, {"RWF", 0}, {"UGX", 0},
    {"UYI", 0}, {"VND", 0}, {"VUV", 0}, {"XAF", 0}, {"XOF", 0}, {"XPF", 0}, {"BHD", 3}, {"IQD", 3}, {"JOD", 3}, {"KWD", 3}, {"LYD", 3},
    {"OMR", 3}, {"TND", 3}, {"CLF", 4}, {"UYW", 4},
};

unsigned money_exponent(const char *currency) {
    for (size_t i = 0; i < ARRAY_LEN(exceptions); i++) {
        if (strcmp(exceptions[i].code, currency) == 0) return exceptions[i].exponent;
    }
    return 2;
}

static bool digit_append(int64_t *v, uint8_t digit) {
    return !__builtin_mul_overflow(*v, (int64_t)10, v) && !__builtin_add_overflow(*v, (int64_t)(digit - '0'), v);
}

bool money_parse(struct slice text, unsigned exponent, int64_t *minor_units) {
    int64_t v = 0;
    unsigned digits = 0, decimals = 0;
    bool point = false;
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.data[i];
        if (c == '.' && !point) {
            point = true;
            continue;
        }
        if (c < '0' || c > '9') return false;
        digits++;
        if (point && decimals == exponent) {
            if (c != '0') return false;
            continue;
        }
        if (point) decimals++;
        if (!digit_append(&v, c)) return false;
    }
    if (!digits || (point && text.data[text.len - 1] == '.')) return false;
    for (; decimals < exponent; decimals++) {
        if (!digit_append(&v, '0')) return false;
    }
    *minor_units = v;
    return true;
}

void money_format(int64_t minor_units, unsigned exponent, char *out) {
    uint64_t v = minor_units < 0 ? -(uint64_t)minor_units : (uint64_t)minor_units, unit = 1;
    const char *sign = minor_units < 0 ? "-" : "";
    for (unsigned i = 0; i < exponent; i++) unit *= 10;
    if (exponent == 0) snprintf(out, MONEY_TEXT_BYTES, "%s%llu", sign, (unsigned long long)v);
    else snprintf(out, MONEY_TEXT_BYTES, "%s%llu.%0*llu", sign, (unsigned long long)(v / unit), (int)exponent, (unsigned long long)(v % unit));
}
