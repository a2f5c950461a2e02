/* CSV as RFC 4180 has it: quoted fields with commas, line ends and doubled quotes inside; lines end with LF or CRLF; a UTF-8 byte order mark is
 * skipped; empty lines are skipped. Reads memory of the caller's. */
#ifndef TOOLS_CSV_H
#define TOOLS_CSV_H

#include "proto/base/buf.h"

enum csv_result { CSV_ROW, CSV_END, CSV_BAD };

struct csv {
    struct slice *fields; /* of the row, until the next csv_next(); each has a NUL behind it */
    size_t count;
    unsigned line;        /* where the row starts, from 1 */
    const char *error;    /* CSV_BAD: what is wrong with it; static */
    /* private */
    const uint8_t *at, *end;
    unsigned next_line;
    size_t cap;
    struct buf text;
};

void csv_init(struct csv *c, struct slice text);
void csv_fini(struct csv *c);
/* CSV_BAD is final. */
enum csv_result csv_next(struct csv *c);

#endif
