#include "server/expired.h"

#include <stdio.h>
#include <string.h>

static struct slice meta_of(const struct failure *f, const char *key) {
    for (const struct failure_meta *m = f->metas; m; m = m->next)
        if (strcmp(m->key, key) == 0) return m->value;
    return (struct slice){0};
}

static unsigned number_of(struct slice digits) {
    unsigned n = 0;
    for (size_t i = 0; i < digits.len; i++) n = 10 * n + (unsigned)(digits.data[i] - '0');
    return n;
}

void expired_add(struct expired *x, const struct failure *one) {
    struct slice ranges = meta_of(one, "missing");
    x->slots += number_of(meta_of(one, "missing_slots"));
    for (size_t at = 0; at < ranges.len && x->told < FEED_MISSING_TOLD; x->told++) {
        const uint8_t *end = memchr(ranges.data + at, ',', ranges.len - at);
        size_t bytes = end ? (size_t)(end - ranges.data) - at : ranges.len - at;
        x->len += (size_t)snprintf(x->text + x->len, sizeof x->text - x->len, "%s%.*s", x->len ? "," : "", (int)bytes, (const char *)ranges.data + at);
        at += bytes + 1;
    }
}

void expired_fail(const struct expired *x, struct failure *f, const char *what) {
    failure_meta(f, "missing", "%.*s", (int)x->len, x->text);
    failure_meta(f, "missing_slots", "%u", x->slots);
    failure_set(f, STATUS_CURSOR_EXPIRED, "events of %u slots %s: %.*s%s", x->slots, what, (int)x->len, x->text, x->slots > x->told ? ", ..." : "");
}
