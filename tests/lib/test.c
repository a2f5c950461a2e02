#include "tests/lib/test.h"

const char *test_hex(struct slice s) {
    static char texts[4][8192];
    static unsigned next;
    char *out = texts[next++ % 4];
    out[0] = 0;
    for (size_t i = 0; i < s.len && 2 * i + 3 < sizeof texts[0]; i++) snprintf(out + 2 * i, 3, "%02x", s.data[i]);
    return out;
}

static int nibble(int c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t test_unhex(const char *hex, uint8_t *out, size_t cap) {
    size_t digits = 0;
    for (; *hex; hex++) {
        int v = nibble(*hex);
        if (v < 0) continue;
        check(digits / 2 < cap);
        if (digits % 2) out[digits / 2] = (uint8_t)(out[digits / 2] | v);
        else out[digits / 2] = (uint8_t)(v << 4);
        digits++;
    }
    check(digits % 2 == 0);
    return digits / 2;
}

size_t test_golden(const char *name, uint8_t *out, size_t cap) {
    char path[256], line[4096];
    snprintf(path, sizeof path, "tests/golden/%s.hex", name);
    FILE *f = fopen(path, "r");
    if (!f) fail_msg("%s: not there (run from the repository's root)", path);
    size_t n = 0;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "#\n")] = 0;
        n += test_unhex(line, out + n, cap - n);
    }
    fclose(f);
    return n;
}

void assert_golden(const char *name, struct slice s) {
    static uint8_t golden[1 << 20];
    size_t n = test_golden(name, golden, sizeof golden);
    if (!slice_equal(s, slice_of(golden, n))) fail_msg("tests/golden/%s.hex differs; now: %s", name, test_hex(s));
}
