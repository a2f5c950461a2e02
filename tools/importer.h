/* Loads orders by ImportOrders and keeps the books: per status how many came in, were there already or were rejected, and why.
 *
 * The server's answer counts a stream and names at most 100 rejections. So orders travel in batches of at most 100 of one status, each batch a
 * stream of its own, several streams under way at a time: the books are then exact. A batch whose stream is lost is sent again (orders that had
 * come in then count as already there). */
#ifndef TOOLS_IMPORTER_H
#define TOOLS_IMPORTER_H

#include <stdio.h>

#include "client/orderdb.h"

enum { IMPORTER_STATUSES_MAX = 65, IMPORTER_REASONS_MAX = 64, IMPORTER_NAME_BYTES = 64, IMPORTER_FIRST_BYTES = 256 };

struct importer_status {
    char name[IMPORTER_NAME_BYTES]; /* "(other)": too many different ones */
    int64_t imported, already_there, rejected;
};
struct importer_reason {
    char text[IMPORTER_NAME_BYTES];
    int64_t count;
    char first[IMPORTER_FIRST_BYTES]; /* one such order and what was said of it, for people; may end early */
};
struct importer_books {
    struct importer_status statuses[IMPORTER_STATUSES_MAX], total;
    struct importer_reason reasons[IMPORTER_REASONS_MAX];
    size_t status_count, reason_count;
    int64_t refused; /* of the rejected, those that the server refused */
};

struct importer;
/* rejects: one JSON object per line for each rejected order; NULL: not kept. Both stay the caller's. NULL: no memory. */
struct importer *importer_new(struct orderdb_client *db, FILE *rejects);
void importer_free(struct importer *m);
/* false: the import cannot go on; the handle's error says why, or there is none: out of memory. */
bool importer_add(struct importer *m, const Orderdb__V1__ImportOrdersRequest *order);
/* One that is not sent at all. */
void importer_reject(struct importer *m, const char *order_no, const char *status, const char *reason, const char *message);
bool importer_finish(struct importer *m); /* sends the rest, waits for all answers; false: as importer_add */
const struct importer_books *importer_books(const struct importer *m);
int64_t importer_done(const struct importer *m); /* orders that are settled: for progress */

#endif
