/* What somebody may have meant: the candidate nearest to a mistyped word, if any is near. */
#ifndef TOOLS_SUGGEST_H
#define TOOLS_SUGGEST_H

#include "proto/base/bytes.h"

enum { SUGGEST_WORD_MAX = 40 }; /* bytes; a longer word gets no suggestion */

struct suggest {
    const char *best; /* NULL: nothing is near */
    /* private */
    struct slice word;
    unsigned distance;
};

void suggest_begin(struct suggest *s, struct slice word); /* the word, and what is offered, stay the caller's */
bool suggest_offer(struct suggest *s, const char *candidate); /* whether it is the nearest so far */

#endif
