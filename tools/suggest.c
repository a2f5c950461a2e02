#include "tools/suggest.h"

#include <string.h>

void suggest_begin(struct suggest *s, struct slice word) {
    /* A third of the letters may be wrong; more is another word. */
    *s = (struct suggest){.word = word, .distance = word.len / 3 + 1};
}

/* Letters to insert, delete, replace or swap with their neighbour (optimal string alignment). */
static unsigned distance(struct slice a, struct slice b) {
    unsigned rows[3][SUGGEST_WORD_MAX + 1], *before = rows[0], *last = rows[1], *now = rows[2];
    for (size_t j = 0; j <= b.len; j++) last[j] = (unsigned)j;
    for (size_t i = 1; i <= a.len; i++) {
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= b.len; j++) {
            unsigned replaced = last[j - 1] + (a.data[i - 1] != b.data[j - 1]);
            now[j] = MIN_OF(replaced, MIN_OF(last[j], now[j - 1]) + 1);
            bool swapped = i > 1 && j > 1 && a.data[i - 1] == b.data[j - 2] && a.data[i - 2] == b.data[j - 1];
            if (swapped) now[j] = MIN_OF(now[j], before[j - 2] + 1);
        }
        unsigned *free_row = before;
        before = last, last = now, now = free_row;
    }
    return last[b.len];
}

bool suggest_offer(struct suggest *s, const char *candidate) {
    struct slice c = slice_str(candidate);
    if (s->word.len > SUGGEST_WORD_MAX || c.len > SUGGEST_WORD_MAX) return false;
    unsigned d = distance(s->word, c);
    if (d >= s->distance) return false;
    s->best = candidate, s->distance = d;
    return true;
}
