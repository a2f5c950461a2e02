/* Six tables with the columns that the mapping uses, sorted by key where they are looked up; an order is put together from their rows. */
#include "tools/olist.h"

#include <stdio.h>
#include <stdlib.h>

#include "proto/base/mem.h"
#include "proto/timetext.h"
#include "tools/csv.h"
#include "tools/money.h"

#define TABLES_BYTES_MAX (4 * GIB)
#define CURRENCY ((char *)(uintptr_t)"BRL")

enum { COLUMNS_MAX = 7, STEPS_MAX = 6, NUMBER_BYTES = 80 };
enum { ORDER_ID, ORDER_CUSTOMER, ORDER_STATUS, ORDER_PURCHASED, ORDER_APPROVED, ORDER_CARRIER, ORDER_DELIVERED, ORDER_COLUMNS };
enum { CUSTOMER_ID, CUSTOMER_UNIQUE_ID, CUSTOMER_ZIP, CUSTOMER_CITY, CUSTOMER_STATE };
enum { ITEM_ORDER, ITEM_NUMBER, ITEM_PRODUCT, ITEM_SELLER, ITEM_PRICE, ITEM_FREIGHT };
enum { PAYMENT_ORDER, PAYMENT_NUMBER, PAYMENT_TYPE, PAYMENT_VALUE };
enum { PRODUCT_ID, PRODUCT_CATEGORY };
enum { CATEGORY_NAME, CATEGORY_ENGLISH };
static_assert((int)ORDER_COLUMNS <= (int)COLUMNS_MAX, "the widest table");

const char *const olist_file_names[OLIST_FILES] = {
    "orders.csv", "customers.csv", "order_items.csv", "order_payments.csv", "products.csv", "category_translation.csv",
};

static const struct {
    const char *columns[COLUMNS_MAX];
    bool sorted;   /* by the first column */
    bool numbered; /* and by the second one, a number */
} layouts[OLIST_FILES] = {
    [OLIST_ORDERS] = {{"order_id", "customer_id", "order_status", "order_purchase_timestamp", "order_approved_at", "order_delivered_carrier_date",
                       "order_delivered_customer_date"}, false, false},
    [OLIST_CUSTOMERS] = {{"customer_id", "customer_unique_id", "customer_zip_code_prefix", "customer_city", "customer_state"}, true, false},
    [OLIST_ITEMS] = {{"order_id", "order_item_id", "product_id", "seller_id", "price", "freight_value"}, true, true},
    [OLIST_PAYMENTS] = {{"order_id", "payment_sequential", "payment_type", "payment_value"}, true, true},
    [OLIST_PRODUCTS] = {{"product_id", "product_category_name"}, true, false},
    [OLIST_CATEGORIES] = {{"product_category_name", "product_category_name_english"}, true, false},
};

static const char *const verdict_texts[OLIST_VERDICTS] = {
    "taken", "no items", "timestamps contradict the order of its statuses", "unknown status", "unknown customer", "unreadable timestamp",
    "unreadable amount", "out of memory",
};
const char *olist_verdict_text(enum olist_verdict v) { return verdict_texts[v]; }

struct row {
    const char *cells[COLUMNS_MAX];
};
struct rows {
    struct row *rows;
    size_t count, cap;
};
struct olist {
    struct arena arena; /* the cells */
    struct rows tables[OLIST_FILES];
};

/* ---- loading */

struct load {
    struct olist *olist;
    enum olist_file file;
    struct csv csv;
    size_t at[COLUMNS_MAX]; /* where our columns are in the file */
    size_t file_columns;
    char *error;
};

static bool load_fail(struct load *l, const char *what, const char *name) {
    snprintf(l->error, OLIST_ERROR_BYTES, "%s, line %u: %s%.60s", olist_file_names[l->file], l->csv.line, what, name);
    return false;
}

static bool load_header(struct load *l) {
    if (csv_next(&l->csv) != CSV_ROW) return load_fail(l, l->csv.error ? l->csv.error : "the file is empty", "");
    l->file_columns = l->csv.count;
    for (size_t c = 0; c < COLUMNS_MAX && layouts[l->file].columns[c]; c++) {
        for (l->at[c] = 0; l->at[c] < l->csv.count; l->at[c]++) {
            if (slice_equal(l->csv.fields[l->at[c]], slice_str(layouts[l->file].columns[c]))) break;
        }
        if (l->at[c] == l->csv.count) return load_fail(l, "no column ", layouts[l->file].columns[c]);
    }
    return true;
}

static bool load_row(struct load *l) {
    struct rows *t = &l->olist->tables[l->file];
    if (l->csv.count != l->file_columns) return load_fail(l, "another number of fields than in the first line", "");
    if (t->count == t->cap) {
        size_t cap = MAX_OF(t->cap * 2, (size_t)256);
        struct row *grown = mem_realloc(t->rows, cap * sizeof(*grown));
        if (!grown) return load_fail(l, "out of memory", "");
        t->rows = grown, t->cap = cap;
    }
    struct row *row = &t->rows[t->count++];
    *row = (struct row){0};
    for (size_t c = 0; c < COLUMNS_MAX && layouts[l->file].columns[c]; c++) {
        struct slice cell = l->csv.fields[l->at[c]];
        if (memchr(cell.data, 0, cell.len)) return load_fail(l, "a NUL character", "");
        row->cells[c] = (const char *)arena_copy(&l->olist->arena, cell).data;
        if (!row->cells[c]) return load_fail(l, "out of memory", "");
    }
    return true;
}

static int row_compare(const void *a, const void *b) { return strcmp(((const struct row *)a)->cells[0], ((const struct row *)b)->cells[0]); }
static int row_compare_numbered(const void *a, const void *b) {
    const struct row *x = a, *y = b;
    int c = row_compare(a, b);
    if (c) return c;
    long m = strtol(x->cells[1], NULL, 10), n = strtol(y->cells[1], NULL, 10);
    return (m > n) - (m < n);
}

static bool load_file(struct olist *o, enum olist_file file, struct slice text, char *error) {
    struct load l = {.olist = o, .file = file, .error = error};
    csv_init(&l.csv, text);
    bool ok = load_header(&l);
    enum csv_result r = CSV_END;
    while (ok && (r = csv_next(&l.csv)) == CSV_ROW) ok = load_row(&l);
    if (ok && r == CSV_BAD) ok = load_fail(&l, l.csv.error, "");
    csv_fini(&l.csv);
    struct rows *t = &o->tables[file];
    if (ok && t->count && layouts[file].sorted) qsort(t->rows, t->count, sizeof(struct row), layouts[file].numbered ? row_compare_numbered : row_compare);
    return ok;
}

struct olist *olist_new(const struct slice texts[OLIST_FILES], char error[OLIST_ERROR_BYTES]) {
    struct olist *o = mem_new(struct olist);
    if (!o) {
        snprintf(error, OLIST_ERROR_BYTES, "out of memory");
        return NULL;
    }
    arena_init(&o->arena, TABLES_BYTES_MAX);
    for (int f = 0; f < OLIST_FILES; f++) {
        if (load_file(o, (enum olist_file)f, texts[f], error)) continue;
        olist_free(o);
        return NULL;
    }
    return o;
}

void olist_free(struct olist *o) {
    if (!o) return;
    for (int f = 0; f < OLIST_FILES; f++) mem_free(o->tables[f].rows);
    arena_fini(&o->arena);
    mem_free(o);
}

size_t olist_count(const struct olist *o) { return o->tables[OLIST_ORDERS].count; }

/* The rows with this key. */
static const struct row *rows_find(const struct olist *o, enum olist_file file, const char *key, size_t *count) {
    const struct rows *t = &o->tables[file];
    size_t low = 0, high = t->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (strcmp(t->rows[mid].cells[0], key) < 0) low = mid + 1;
        else high = mid;
    }
    *count = 0;
    while (low + *count < t->count && strcmp(t->rows[low + *count].cells[0], key) == 0) ++*count;
    return *count ? &t->rows[low] : NULL;
}

/* ---- statuses and their times */

struct past {
    bool has[4]; /* purchased, approved, given to the carrier, delivered */
    int64_t at[4];
    unsigned count;
    struct {
        const char *event, *from, *to;
        int64_t time;
    } steps[STEPS_MAX];
};

/* How far along pay, ship, deliver an order of this status has come; ENDED: it was given up on the way. */
enum { ENDED = 9 };
static const struct {
    const char *name, *here;
    unsigned reached;
} statuses[] = {
    {"created", "PENDING_PAYMENT", 0}, {"approved", "PAID", 1}, {"invoiced", "PAID", 1}, {"processing", "PAID", 1},
    {"shipped", "SHIPPED", 2}, {"delivered", "DELIVERED", 3}, {"canceled", NULL, ENDED}, {"unavailable", NULL, ENDED},
};

static int status_find(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
        if (strcmp(statuses[i].name, name) == 0) return (int)i;
    }
    return -1;
}

static const char *status_here(int status, const struct row *order) {
    if (status < 0) return "";
    return statuses[status].reached != ENDED ? statuses[status].here : order->cells[ORDER_APPROVED][0] ? "REFUNDED" : "CANCELLED";
}

static enum olist_verdict past_read(struct past *p, const struct row *order) {
    int64_t last = INT64_MIN;
    for (int i = 0; i < 4; i++) {
        int32_t nanos;
        const char *text = order->cells[ORDER_PURCHASED + i];
        p->has[i] = *text;
        if (!*text) continue;
        if (!time_parse(slice_str(text), &p->at[i], &nanos)) return OLIST_TIME_UNREADABLE;
        if (p->at[i] < last) return OLIST_TIMES_CONTRADICT;
        last = p->at[i];
    }
    return p->has[0] ? OLIST_TAKEN : OLIST_TIME_UNREADABLE;
}

static void past_step(struct past *p, const char *event, const char *to, const int64_t *time) {
    check(p->count < STEPS_MAX);
    const char *from = p->count ? p->steps[p->count - 1].to : "";
    int64_t last = p->count ? p->steps[p->count - 1].time : p->at[0]; /* no time of its own: the last known one */
    p->steps[p->count].event = event, p->steps[p->count].from = from, p->steps[p->count].to = to;
    p->steps[p->count++].time = time ? *time : last;
}

static enum olist_verdict past_walk(struct past *p, unsigned reached) {
    static const char *const events[] = {"import", "pay", "ship", "deliver"}, *const targets[] = {"PENDING_PAYMENT", "PAID", "SHIPPED", "DELIVERED"};
    bool ended = reached == ENDED;
    if (ended) reached = p->has[3] ? 3 : p->has[2] ? 2 : p->has[1] ? 1 : 0; /* what its timestamps tell */
    if (ended && reached > 0 && !p->has[1]) return OLIST_TIMES_CONTRADICT; /* on its way, yet never paid */
    for (unsigned i = 0; i < 4; i++) {
        if (i > reached && p->has[i]) return OLIST_TIMES_CONTRADICT; /* a step that its status has not reached */
        if (i <= reached) past_step(p, events[i], targets[i], p->has[i] ? &p->at[i] : NULL);
    }
    if (ended && reached == 0) past_step(p, "cancel", "CANCELLED", NULL);
    if (ended && reached > 0) {
        past_step(p, "refund_request", "REFUNDING", NULL);
        past_step(p, "refund", "REFUNDED", NULL);
    }
    return OLIST_TAKEN;
}

/* ---- the request */

static char *cell(const char *text) { return (char *)(uintptr_t)text; } /* protobuf-c has no const strings; nobody writes through it */

static Orderdb__V1__Money *money_new(struct arena *a, int64_t units) {
    Orderdb__V1__Money *m = arena_new(a, Orderdb__V1__Money);
    if (!m) return NULL;
    orderdb__v1__money__init(m);
    m->currency_code = CURRENCY, m->minor_units = units;
    return m;
}

static Google__Protobuf__Timestamp *time_new(struct arena *a, int64_t seconds) {
    Google__Protobuf__Timestamp *t = arena_new(a, Google__Protobuf__Timestamp);
    if (!t) return NULL;
    google__protobuf__timestamp__init(t);
    t->seconds = seconds;
    return t;
}

static bool amount_read(const char *text, int64_t *units) { return money_parse(slice_str(text), 2, units); }

/* The English name of the product's category, else the Portuguese one, else the product's id. */
static const char *title_of(const struct olist *o, const char *product) {
    size_t n;
    const struct row *p = rows_find(o, OLIST_PRODUCTS, product, &n);
    if (!p || !p->cells[PRODUCT_CATEGORY][0]) return product;
    const struct row *c = rows_find(o, OLIST_CATEGORIES, p->cells[PRODUCT_CATEGORY], &n);
    return c && c->cells[CATEGORY_ENGLISH][0] ? c->cells[CATEGORY_ENGLISH] : p->cells[PRODUCT_CATEGORY];
}

static enum olist_verdict add_items(const struct olist *o, const struct row *items, size_t n, struct arena *a, Orderdb__V1__Order *order) {
    int64_t total = 0, freight = 0, payable, price, line;
    order->items = arena_array(a, Orderdb__V1__OrderItem *, n);
    if (!order->items) return OLIST_NO_MEMORY;
    for (size_t i = 0; i < n; i++) {
        Orderdb__V1__OrderItem *item = order->items[i] = arena_new(a, Orderdb__V1__OrderItem);
        if (!item) return OLIST_NO_MEMORY;
        if (!amount_read(items[i].cells[ITEM_PRICE], &price) || !amount_read(items[i].cells[ITEM_FREIGHT], &line)) return OLIST_AMOUNT_UNREADABLE;
        if (__builtin_add_overflow(total, price, &total) || __builtin_add_overflow(freight, line, &freight)) return OLIST_AMOUNT_UNREADABLE;
        orderdb__v1__order_item__init(item);
        item->sku_id = cell(items[i].cells[ITEM_PRODUCT]);
        item->title = cell(title_of(o, items[i].cells[ITEM_PRODUCT]));
        item->merchant_id = cell(items[i].cells[ITEM_SELLER]);
        item->quantity = 1;
        item->unit_price = money_new(a, price);
        if (!item->unit_price) return OLIST_NO_MEMORY;
    }
    if (__builtin_add_overflow(total, freight, &payable)) return OLIST_AMOUNT_UNREADABLE;
    order->n_items = n;
    order->merchant_id = order->items[0]->merchant_id;
    order->items_total = money_new(a, total);
    order->freight = money_new(a, freight);
    order->discount_total = money_new(a, 0);
    order->payable = money_new(a, payable);
    return order->items_total && order->freight && order->discount_total && order->payable ? OLIST_TAKEN : OLIST_NO_MEMORY;
}

static enum olist_verdict add_payments(const struct olist *o, const struct row *row, const struct past *past, struct arena *a, Orderdb__V1__Order *order) {
    size_t n;
    int64_t amount;
    const struct row *payments = rows_find(o, OLIST_PAYMENTS, row->cells[ORDER_ID], &n);
    if (n == 0) return OLIST_TAKEN;
    order->payments = arena_array(a, Orderdb__V1__PaymentRef *, n);
    if (!order->payments) return OLIST_NO_MEMORY;
    for (size_t i = 0; i < n; i++) {
        Orderdb__V1__PaymentRef *p = order->payments[i] = arena_new(a, Orderdb__V1__PaymentRef);
        if (!p) return OLIST_NO_MEMORY;
        if (!amount_read(payments[i].cells[PAYMENT_VALUE], &amount)) return OLIST_AMOUNT_UNREADABLE;
        orderdb__v1__payment_ref__init(p);
        p->payment_no = arena_printf(a, "%s-%s", row->cells[ORDER_ID], payments[i].cells[PAYMENT_NUMBER]);
        p->channel = cell(payments[i].cells[PAYMENT_TYPE]);
        p->amount = money_new(a, amount);
        if (past->has[1]) p->pay_time = time_new(a, past->at[1]);
        if (!p->payment_no || !p->amount || (past->has[1] && !p->pay_time)) return OLIST_NO_MEMORY;
    }
    order->n_payments = n;
    return OLIST_TAKEN;
}

static bool add_address(const struct row *customer, struct arena *a, Orderdb__V1__Order *order) {
    Orderdb__V1__Address *address = order->address = arena_new(a, Orderdb__V1__Address);
    if (!address) return false;
    orderdb__v1__address__init(address);
    address->region_code = arena_printf(a, "BR-%s", customer->cells[CUSTOMER_STATE]); /* ISO 3166-2 */
    address->line = arena_printf(a, "%s %s, %s", customer->cells[CUSTOMER_ZIP], customer->cells[CUSTOMER_CITY], customer->cells[CUSTOMER_STATE]);
    return address->region_code && address->line;
}

/* Four of Olist's statuses become PAID or two others: the original is kept. */
static bool add_attributes(const struct row *row, struct arena *a, Orderdb__V1__Order *order) {
    Orderdb__V1__Order__AttributesEntry *e = arena_new(a, Orderdb__V1__Order__AttributesEntry);
    order->attributes = arena_array(a, Orderdb__V1__Order__AttributesEntry *, 1);
    if (!e || !order->attributes) return false;
    orderdb__v1__order__attributes_entry__init(e);
    e->key = cell("olist_status"), e->value = cell(row->cells[ORDER_STATUS]);
    order->attributes[order->n_attributes++] = e;
    return true;
}

static bool add_history(const struct past *past, const char *olist_status, struct arena *a, Orderdb__V1__ImportOrdersRequest *r) {
    r->history = arena_array(a, Orderdb__V1__HistoryEntry *, past->count);
    if (!r->history) return false;
    for (unsigned i = 0; i < past->count; i++) {
        Orderdb__V1__HistoryEntry *h = r->history[i] = arena_new(a, Orderdb__V1__HistoryEntry);
        if (!h) return false;
        orderdb__v1__history_entry__init(h);
        h->version = i + 1;
        h->event = cell(past->steps[i].event), h->from_status = cell(past->steps[i].from), h->to_status = cell(past->steps[i].to);
        h->time = time_new(a, past->steps[i].time);
        if (strcmp(h->event, "cancel") == 0 || strncmp(h->event, "refund", 6) == 0) h->reason = cell(olist_status);
        if (!h->time) return false;
    }
    r->n_history = past->count;
    r->order->create_time = r->history[0]->time;
    r->order->update_time = r->history[past->count - 1]->time;
    return true;
}

static enum olist_verdict request_build(const struct olist *o, const struct row *row, const struct row *items, size_t item_count, struct arena *a,
                                        struct olist_order *out) {
    size_t n;
    struct past past = {0};
    const struct row *customer = rows_find(o, OLIST_CUSTOMERS, row->cells[ORDER_CUSTOMER], &n);
    if (!customer) return OLIST_CUSTOMER_UNKNOWN;
    enum olist_verdict v = past_read(&past, row);
    if (v == OLIST_TAKEN) v = past_walk(&past, statuses[status_find(row->cells[ORDER_STATUS])].reached);
    if (v != OLIST_TAKEN) return v;
    Orderdb__V1__ImportOrdersRequest *r = arena_new(a, Orderdb__V1__ImportOrdersRequest);
    Orderdb__V1__Order *order = arena_new(a, Orderdb__V1__Order);
    if (!r || !order) return OLIST_NO_MEMORY;
    orderdb__v1__import_orders_request__init(r);
    orderdb__v1__order__init(order);
    r->order = order;
    order->user_id = cell(customer->cells[CUSTOMER_UNIQUE_ID]);
    order->client_order_no = cell(row->cells[ORDER_ID]);
    order->machine = cell("retail@1");
    order->status = cell(past.steps[past.count - 1].to);
    v = add_items(o, items, item_count, a, order);
    if (v == OLIST_TAKEN) v = add_payments(o, row, &past, a, order);
    if (v != OLIST_TAKEN) return v;
    if (!add_address(customer, a, order) || !add_attributes(row, a, order) || !add_history(&past, row->cells[ORDER_STATUS], a, r)) return OLIST_NO_MEMORY;
    out->request = r;
    return OLIST_TAKEN;
}

enum olist_verdict olist_get(const struct olist *o, size_t i, struct arena *arena, struct olist_order *out) {
    check(i < olist_count(o));
    const struct row *row = &o->tables[OLIST_ORDERS].rows[i];
    int status = status_find(row->cells[ORDER_STATUS]);
    size_t item_count;
    const struct row *items = rows_find(o, OLIST_ITEMS, row->cells[ORDER_ID], &item_count);
    *out = (struct olist_order){.order_no = row->cells[ORDER_ID], .status = status_here(status, row)};
    if (status < 0) return OLIST_STATUS_UNKNOWN;
    if (!items) return OLIST_NO_ITEMS;
    return request_build(o, row, items, item_count, arena, out);
}
