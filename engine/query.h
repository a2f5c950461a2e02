/* Reads: get, list, history, over any store view, on any thread. Answers are wire bytes of orderdb.v1 messages in the request's arena. */
#ifndef ENGINE_QUERY_H
#define ENGINE_QUERY_H

#include "engine/order.h"
#include "engine/userlist.h"
#include "proto/status.h"

enum {
    QUERY_PAGE_SIZE_DEFAULT = 20,
    QUERY_PAGE_SIZE_MAX = 1000,
    QUERY_GET_HISTORY_MAX = 100, /* entries of an order's history that come with it */
    QUERY_TOKEN_BYTES_MAX = 256,
    QUERY_BATCH_BYTES_MAX = (4 << 20) - (64 << 10), /* of the orders that one BatchGetOrders answers; the rest of a message is for missing ids */
};

struct query {
    struct store_view view;
    const struct machines *machines;
    struct slice token_key; /* 32 bytes: page tokens are signed with it */
    struct arena *arena;    /* results, and scratch */
    struct failure *failure; /* refusals */
    struct list_cache *lists; /* NULL: none. Of the view's store, whose newest state the view is */
    bool lists_proved;        /* for simulators: each page that comes from there is read from the store too, and must be the same */
};

/* Every call: OK; WOULD_BLOCK (cached_only: ask again on a reader thread; arena use is wasted, nothing else); any other is in *failure too. */

struct get_request { /* as sent, shape unchecked */
    int64_t order_id;
    bool full;               /* else SUMMARY */
    int32_t history_entries; /* the newest so many entries of its history too, in Order.history; at most QUERY_GET_HISTORY_MAX */
    bool has_as_of;          /* the order, and its history, as they were after the last commit not later than as_of_us. Before its first one: ORDER_NOT_FOUND */
    int64_t as_of_us;
};
/* Order's wire bytes. */
enum status query_get(const struct query *q, const struct get_request *r, struct slice *order) MUST_USE;
/* body: an order's newest content, made what it was at that version. */
enum status query_content_at(const struct store_view *view, struct arena *arena, int64_t order_id, int64_t version, struct order_body *body) MUST_USE;
/* Several orders, ids above zero. (*orders)[i] is the wire bytes of the field `orders` (1) for ids[i]; data NULL: there is no such order. Together above
 * QUERY_BATCH_BYTES_MAX: LIMIT_EXCEEDED. */
enum status query_get_many(const struct query *q, const int64_t *ids, unsigned count, bool full, struct slice **orders) MUST_USE;
/* More than QUERY_BATCH_BYTES_MAX was asked for. */
enum status query_batch_too_large(struct failure *f);
/* The bytes of an order given head and stored body, as an answer to a write shows it. */
struct slice query_order_wire(const struct order_head *head, const struct order_body *body, bool full, const struct machines *ms, struct arena *arena);

struct list_request { /* as sent, shape unchecked */
    struct slice user_id;
    const struct slice *statuses;
    unsigned status_count;
    bool has_from, has_to;
    int64_t from_us, to_us;
    int32_t page_size, page_number;
    struct slice page_token;
    bool full; /* view FULL */
};
/* ListOrdersResponse's wire bytes. total_size counts what matches statuses and time range; status_counts all statuses in the time range. */
enum status query_list(const struct query *q, const struct list_request *r, struct slice *response) MUST_USE;

struct history_request {
    int64_t order_id;
    int32_t page_size; /* 0 = 100, at most 1000 */
    struct slice page_token;
};
/* ListOrderHistoryResponse's wire bytes, oldest first. */
enum status query_history(const struct query *q, const struct history_request *r, struct slice *response) MUST_USE;

#endif
