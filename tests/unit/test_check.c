/* engine/check.h: one table of (method, change to a valid request -> status and field), and what a good request becomes. */
#include "tests/lib/test.h"

#include "engine/check.h"
#include "proto/base/mem.h"

static struct machines *ms;
static struct arena arena;

/* ---- a valid request of each kind, with every part present */

static char *str(const char *s)
{
    char *p = arena_printf(&arena, "%s", s);
    check(p);
    return p;
}

#define NEW(type, init) ({ type *m_ = arena_new(&arena, type); check(m_); init(m_); m_; })
#define LIST(type, n) ((type **)arena_zalloc(&arena, (n) * sizeof(type *)))

static Orderdb__V1__Money *money(int64_t units)
{
    Orderdb__V1__Money *m = NEW(Orderdb__V1__Money, orderdb__v1__money__init);
    m->currency_code = str("CNY");
    m->minor_units = units;
    return m;
}

static Google__Protobuf__Timestamp *timestamp(int64_t seconds)
{
    Google__Protobuf__Timestamp *t = NEW(Google__Protobuf__Timestamp, google__protobuf__timestamp__init);
    t->seconds = seconds;
    return t;
}

static Orderdb__V1__OrderItem *item(const char *sku, int quantity, int64_t price)
{
    Orderdb__V1__OrderItem *i = NEW(Orderdb__V1__OrderItem, orderdb__v1__order_item__init);
    i->sku_id = str(sku);
    i->title = str("an umbrella");
    i->quantity = quantity;
    i->unit_price = money(price);
    i->discount = money(1);
    i->merchant_id = str("m7");
    i->attributes = LIST(Orderdb__V1__OrderItem__AttributesEntry, 1);
    i->attributes[0] = NEW(Orderdb__V1__OrderItem__AttributesEntry, orderdb__v1__order_item__attributes_entry__init);
    i->attributes[0]->key = str("colour");
    i->attributes[0]->value = str("red");
    i->n_attributes = 1;
    return i;
}

static Orderdb__V1__Order__AttributesEntry *attribute(const char *key, const char *value)
{
    Orderdb__V1__Order__AttributesEntry *e = NEW(Orderdb__V1__Order__AttributesEntry, orderdb__v1__order__attributes_entry__init);
    e->key = str(key);
    e->value = str(value);
    return e;
}

static void add_refs(Orderdb__V1__Order *o)
{
    o->payments = LIST(Orderdb__V1__PaymentRef, 1);
    o->payments[0] = NEW(Orderdb__V1__PaymentRef, orderdb__v1__payment_ref__init);
    o->payments[0]->payment_no = str("p1");
    o->payments[0]->channel = str("card");
    o->payments[0]->amount = money(10);
    o->payments[0]->pay_time = timestamp(1767225600);
    o->n_payments = 1;
    o->shipments = LIST(Orderdb__V1__ShipmentRef, 1);
    o->shipments[0] = NEW(Orderdb__V1__ShipmentRef, orderdb__v1__shipment_ref__init);
    o->shipments[0]->tracking_no = str("t1");
    o->shipments[0]->carrier = str("c");
    o->shipments[0]->sku_ids = LIST(char, 1);
    o->shipments[0]->sku_ids[0] = str("sku-1");
    o->shipments[0]->n_sku_ids = 1;
    o->n_shipments = 1;
}

/* items: 2 x 1000 - 1 and 3 x 500 - 1; 3498 + 200 - 98 = 3600. */
static Orderdb__V1__Order *order(void)
{
    Orderdb__V1__Order *o = NEW(Orderdb__V1__Order, orderdb__v1__order__init);
    o->user_id = str("alice");
    o->merchant_id = str("m7");
    o->client_order_no = str("no-1");
    o->order_type = str("normal");
    o->machine = str("retail@1");
    o->items = LIST(Orderdb__V1__OrderItem, 2);
    o->items[0] = item("sku-1", 2, 1000);
    o->items[1] = item("sku-2", 3, 500);
    o->n_items = 2;
    o->items_total = money(3498);
    o->freight = money(200);
    o->discount_total = money(98);
    o->payable = money(3600);
    o->address = NEW(Orderdb__V1__Address, orderdb__v1__address__init);
    o->address->recipient = str("A");
    o->address->line = str("Some street 1");
    add_refs(o);
    o->attributes = LIST(Orderdb__V1__Order__AttributesEntry, 2);
    o->attributes[0] = attribute("zone", "9");
    o->attributes[1] = attribute("app", "ios");
    o->n_attributes = 2;
    o->extension.data = (uint8_t *)str("\x01\x02");
    o->extension.len = 2;
    return o;
}

static Orderdb__V1__WriteOptions *options(void)
{
    Orderdb__V1__WriteOptions *w = NEW(Orderdb__V1__WriteOptions, orderdb__v1__write_options__init);
    w->request_id = str("request-0000000001");
    w->operator_ = str("op");
    w->reason = str("why");
    w->idempotency_ttl = NEW(Google__Protobuf__Duration, google__protobuf__duration__init);
    w->idempotency_ttl->seconds = 3600;
    return w;
}

static Orderdb__V1__HistoryEntry *entry(const char *event, const char *from, const char *to, int64_t seconds)
{
    Orderdb__V1__HistoryEntry *h = NEW(Orderdb__V1__HistoryEntry, orderdb__v1__history_entry__init);
    h->event = str(event);
    h->from_status = str(from);
    h->to_status = str(to);
    h->time = timestamp(seconds);
    return h;
}

static Orderdb__V1__CreateOrderRequest *create_request(void)
{
    Orderdb__V1__CreateOrderRequest *m = NEW(Orderdb__V1__CreateOrderRequest, orderdb__v1__create_order_request__init);
    m->order = order();
    m->options = options();
    return m;
}

static Orderdb__V1__TransitionOrderRequest *transition_request(void)
{
    Orderdb__V1__TransitionOrderRequest *m = NEW(Orderdb__V1__TransitionOrderRequest, orderdb__v1__transition_order_request__init);
    m->order_id = 77;
    m->event = str("pay");
    m->expected_statuses = LIST(char, 2);
    m->expected_statuses[0] = str("PENDING_PAYMENT");
    m->expected_statuses[1] = str("PAID");
    m->n_expected_statuses = 2;
    m->expected_version = 3;
    m->options = options();
    return m;
}

static Orderdb__V1__ImportOrdersRequest *import_request(void)
{
    Orderdb__V1__ImportOrdersRequest *m = NEW(Orderdb__V1__ImportOrdersRequest, orderdb__v1__import_orders_request__init);
    m->order = order();
    m->history = LIST(Orderdb__V1__HistoryEntry, 3);
    m->history[0] = entry("import", "", "PENDING_PAYMENT", 1000);
    m->history[1] = entry("pay", "PENDING_PAYMENT", "PAID", 2000);
    m->history[2] = entry("ship", "PAID", "SHIPPED", 3000);
    m->n_history = 3;
    return m;
}

/* ---- changes: "path=value; path=value". A value is a number or a text; "*N": N bytes of text; "#N": N copies of the first element (or new ones);
 * "none": no message; "new": an empty one. */

static char *text_of(const char *value)
{
    if (value[0] != '*') return str(value);
    size_t n = strtoul(value + 1, NULL, 10);
    char *p = arena_alloc(&arena, n + 1);
    memset(p, 'x', n);
    p[n] = 0;
    return p;
}

static ProtobufCMessage *new_message(const ProtobufCMessageDescriptor *d)
{
    ProtobufCMessage *m = arena_zalloc(&arena, d->sizeof_message);
    protobuf_c_message_init(d, m);
    return m;
}

static void repeat(const ProtobufCFieldDescriptor *fd, size_t *count, void *member, size_t n)
{
    void **list = arena_zalloc(&arena, (n + 1) * sizeof *list), **old = *(void ***)member;
    for (size_t i = 0; i < n; i++)
        list[i] = *count ? old[0] : fd->type == PROTOBUF_C_TYPE_MESSAGE ? (void *)new_message(fd->descriptor) : str("");
    *(void ***)member = list;
    *count = n;
}

static void set_one(ProtobufCMessage *m, const char *path, const char *value)
{
    char name[64];
    size_t n = strcspn(path, ".[");
    snprintf(name, sizeof name, "%.*s", (int)n, path);
    const ProtobufCFieldDescriptor *fd = protobuf_c_message_descriptor_get_field_by_name(m->descriptor, name);
    if (!fd) fail_msg("no field %s in %s", name, m->descriptor->name);
    void *member = (char *)m + fd->offset;
    size_t *count = (size_t *)(void *)((char *)m + fd->quantifier_offset);
    if (fd->label == PROTOBUF_C_LABEL_REPEATED) {
        if (value[0] == '#' && !path[n]) return repeat(fd, count, member, strtoul(value + 1, NULL, 10));
        size_t i = strtoul(path + n + 1, NULL, 10);
        check(i < *count);
        member = &(*(void ***)member)[i];
        path += n, n = strcspn(path, "]") + 1;
    }
    if (fd->type == PROTOBUF_C_TYPE_MESSAGE) {
        ProtobufCMessage **sub = member;
        if (path[n] == '.') return check(*sub), set_one(*sub, path + n + 1, value);
        *sub = strcmp(value, "new") == 0 ? new_message(fd->descriptor) : NULL;
    } else if (fd->type == PROTOBUF_C_TYPE_STRING) {
        *(char **)member = text_of(value);
    } else if (fd->type == PROTOBUF_C_TYPE_BYTES) {
        ProtobufCBinaryData *b = member;
        b->data = (uint8_t *)text_of(value);
        b->len = strlen((char *)b->data);
    } else if (fd->type == PROTOBUF_C_TYPE_BOOL) {
        *(protobuf_c_boolean *)member = atoi(value);
    } else if (fd->type == PROTOBUF_C_TYPE_INT32) {
        *(int32_t *)member = (int32_t)strtol(value, NULL, 10);
    } else {
        check(fd->type == PROTOBUF_C_TYPE_INT64);
        *(int64_t *)member = strtoll(value, NULL, 10);
    }
}

static void change(void *message, const char *changes)
{
    char *copy = str(changes), *save;
    for (char *c = strtok_r(copy, ";", &save); c; c = strtok_r(NULL, ";", &save)) {
        while (*c == ' ') c++;
        char *value = strchr(c, '=');
        *value++ = 0;
        set_one(message, c, value);
    }
}

/* ---- the table */

enum method { CREATE, TRANSITION, IMPORT };
#define OK STATUS_OK
#define BAD STATUS_FIELD_INVALID
#define LIMIT STATUS_LIMIT_EXCEEDED
#define SUM STATUS_INVARIANT_VIOLATED
#define LATER STATUS_NOT_BUILT_YET
static const struct {
    enum method method;
    const char *changes;
    enum status status;
    const char *field; /* NULL: no violation */
} cases[] = {
    /* what must be there */
    {CREATE, "order=none", BAD, "order"},
    {CREATE, "options=none", BAD, "options"},
    {CREATE, "options.request_id=", BAD, "options.request_id"},
    {CREATE, "order.user_id=", BAD, "order.user_id"},
    {CREATE, "order.items=#0", BAD, "order.items"},
    {CREATE, "order.items[1].sku_id=", BAD, "order.items[1].sku_id"},
    {CREATE, "order.items[1].unit_price=none", BAD, "order.items[1].unit_price"},
    {IMPORT, "order=none", BAD, "order"},
    {IMPORT, "order.client_order_no=", BAD, "order.client_order_no"},
    {IMPORT, "history=#0", BAD, "order.create_time"},
    {IMPORT, "history[1].time=none", BAD, "history[1].time"},
    {IMPORT, "history[1].event=", BAD, "history[1].event"},
    {TRANSITION, "event=", BAD, "event"},
    {TRANSITION, "to_status=PAID", BAD, "to_status"},
    {TRANSITION, "expected_statuses[1]=", BAD, "expected_statuses[1]"},
    /* what may be left out */
    {CREATE, "order.merchant_id=; order.client_order_no=; order.order_type=; order.machine=", OK, NULL},
    {CREATE, "order.address=none; order.payments=#0; order.shipments=#0; order.attributes=#0; order.extension=", OK, NULL},
    {CREATE, "order.items[0].discount=none; order.items_total.minor_units=3499; order.payable.minor_units=3601", OK, NULL},
    {CREATE, "order.freight=none; order.payable.minor_units=3400", OK, NULL},
    {CREATE, "order.discount_total=none; order.payable.minor_units=3698", OK, NULL},
    {CREATE, "order.items_total=none; order.payable=none", OK, NULL},
    {CREATE, "order.payments[0].amount=none; order.payments[0].pay_time=none", OK, NULL},
    {CREATE, "options.operator=; options.reason=; options.idempotency_ttl=none", OK, NULL},
    {CREATE, "order.items[0].title=; order.items[0].merchant_id=; order.items[0].attributes=#0", OK, NULL},
    {TRANSITION, "options=none", OK, NULL},
    {TRANSITION, "options.request_id=", OK, NULL},
    {TRANSITION, "expected_statuses=#0; expected_version=0", OK, NULL},
    {TRANSITION, "event=; to_status=PAID", OK, NULL},
    {IMPORT, "history=#0; order.create_time=new", OK, NULL},
    {IMPORT, "history[1].from_status=", OK, NULL},
    {IMPORT, "history[0].event=create", OK, NULL},
    /* what the server assigns */
    {CREATE, "order.order_id=1", BAD, "order.order_id"},
    {CREATE, "order.status=PAID", BAD, "order.status"},
    {CREATE, "order.version=1", BAD, "order.version"},
    {CREATE, "order.timers=#1", BAD, "order.timers"},
    {CREATE, "order.create_time=new", BAD, "order.create_time"},
    {CREATE, "order.update_time=new", BAD, "order.update_time"},
    {CREATE, "order.archived=1", BAD, "order.archived"}, {CREATE, "order.history=#1", BAD, "order.history"},
    {IMPORT, "order.order_id=1", BAD, "order.order_id"},
    {IMPORT, "order.timers=#1", BAD, "order.timers"}, {IMPORT, "order.history=#1", BAD, "order.history"},
    {IMPORT, "order.archived=1", BAD, "order.archived"},
    {IMPORT, "history[2].chain_hash=x", BAD, "history[2].chain_hash"},
    /* lengths: at the limit and beyond */
    {CREATE, "order.user_id=*64", OK, NULL},
    {CREATE, "order.user_id=*65", LIMIT, "order.user_id"},
    {CREATE, "order.merchant_id=*129", LIMIT, "order.merchant_id"},
    {CREATE, "order.client_order_no=*128", OK, NULL},
    {CREATE, "order.client_order_no=*129", LIMIT, "order.client_order_no"},
    {CREATE, "order.order_type=*129", LIMIT, "order.order_type"},
    {CREATE, "order.machine=*129", LIMIT, "order.machine"},
    {CREATE, "options.request_id=*15", LIMIT, "options.request_id"},
    {CREATE, "options.request_id=*16", OK, NULL},
    {CREATE, "options.request_id=*128", OK, NULL},
    {CREATE, "options.request_id=*129", LIMIT, "options.request_id"},
    {CREATE, "options.operator=*129", LIMIT, "options.operator"},
    {CREATE, "options.reason=*1024", OK, NULL},
    {CREATE, "options.reason=*1025", LIMIT, "options.reason"},
    {CREATE, "order.items[0].title=*512", OK, NULL},
    {CREATE, "order.items[0].title=*513", LIMIT, "order.items[0].title"},
    {CREATE, "order.items[0].sku_id=*129", LIMIT, "order.items[0].sku_id"},
    {CREATE, "order.items[0].merchant_id=*129", LIMIT, "order.items[0].merchant_id"},
    {CREATE, "order.address.recipient=*129", LIMIT, "order.address.recipient"},
    {CREATE, "order.address.phone=*129", LIMIT, "order.address.phone"},
    {CREATE, "order.address.region_code=*129", LIMIT, "order.address.region_code"},
    {CREATE, "order.address.line=*1025", LIMIT, "order.address.line"},
    {CREATE, "order.payments[0].payment_no=*129", LIMIT, "order.payments[0].payment_no"},
    {CREATE, "order.payments[0].channel=*129", LIMIT, "order.payments[0].channel"},
    {CREATE, "order.shipments[0].tracking_no=*129", LIMIT, "order.shipments[0].tracking_no"},
    {CREATE, "order.shipments[0].carrier=*129", LIMIT, "order.shipments[0].carrier"},
    {CREATE, "order.shipments[0].sku_ids[0]=*129", LIMIT, "order.shipments[0].sku_ids[0]"},
    {CREATE, "order.shipments[0].sku_ids=#501", LIMIT, "order.shipments[0].sku_ids"},
    {CREATE, "order.extension=*1000000", OK, NULL},
    {CREATE, "order.extension=*1048576", LIMIT, "order"},
    {TRANSITION, "event=*129", LIMIT, "event"},
    {TRANSITION, "event=; to_status=*129", LIMIT, "to_status"},
    {TRANSITION, "expected_statuses[0]=*65", LIMIT, "expected_statuses[0]"},
    {TRANSITION, "options.request_id=*15", LIMIT, "options.request_id"},
    {TRANSITION, "options.reason=*1025", LIMIT, "options.reason"},
    {IMPORT, "history[1].operator=*129", LIMIT, "history[1].operator"},
    {IMPORT, "history[1].reason=*1025", LIMIT, "history[1].reason"},
    {IMPORT, "history[1].request_id=*129", LIMIT, "history[1].request_id"},
    {IMPORT, "history[1].traceparent=*129", LIMIT, "history[1].traceparent"},
    {IMPORT, "order.extension=*1048000; history[1].reason=*1000", LIMIT, "history"},
    /* counts */
    {CREATE, "order.items=#500; order.items_total=none; order.payable=none", OK, NULL},
    {CREATE, "order.items=#501", LIMIT, "order.items"},
    {CREATE, "order.payments=#100", OK, NULL},
    {CREATE, "order.payments=#101", LIMIT, "order.payments"},
    {CREATE, "order.shipments=#101", LIMIT, "order.shipments"},
    {CREATE, "order.attributes=#65", LIMIT, "order.attributes"},
    {CREATE, "order.items[0].attributes=#65", LIMIT, "order.items[0].attributes"},
    {TRANSITION, "expected_statuses=#64", OK, NULL},
    {TRANSITION, "expected_statuses=#65", LIMIT, "expected_statuses"},
    {IMPORT, "history=#1001", LIMIT, "history"},
    /* attributes */
    {CREATE, "order.attributes[0].key=", BAD, "order.attributes"},
    {CREATE, "order.attributes[0].key=*64", OK, NULL},
    {CREATE, "order.attributes[0].key=*65", LIMIT, "order.attributes"},
    {CREATE, "order.attributes[0].value=*1024", OK, NULL},
    {CREATE, "order.attributes[0].value=*1025", LIMIT, "order.attributes"},
    {CREATE, "order.attributes[0].key=app", BAD, "order.attributes"},
    {CREATE, "order.items[1].attributes=#2", BAD, "order.items[1].attributes"},
    /* numbers */
    {CREATE, "order.items[0].quantity=0", LIMIT, "order.items[0].quantity"},
    {CREATE, "order.items[0].quantity=-1", LIMIT, "order.items[0].quantity"},
    {CREATE, "order.items[0].quantity=1000000; order.items_total=none; order.payable=none", OK, NULL},
    {CREATE, "order.items[0].quantity=1000001", LIMIT, "order.items[0].quantity"},
    {CREATE, "order.items[0].unit_price.minor_units=-1", LIMIT, "order.items[0].unit_price.minor_units"},
    {CREATE, "order.items[0].unit_price.minor_units=0; order.items[0].discount=none; order.items_total=none; order.payable=none", OK, NULL},
    {CREATE, "order.items[0].discount.minor_units=-1", LIMIT, "order.items[0].discount.minor_units"},
    {CREATE, "order.freight.minor_units=-1", LIMIT, "order.freight.minor_units"},
    {CREATE, "order.discount_total.minor_units=-1", LIMIT, "order.discount_total.minor_units"},
    {CREATE, "order.items_total.minor_units=-1", LIMIT, "order.items_total.minor_units"},
    {CREATE, "order.payable.minor_units=-1", LIMIT, "order.payable.minor_units"},
    {CREATE, "order.payments[0].amount.minor_units=-1", LIMIT, "order.payments[0].amount.minor_units"},
    {TRANSITION, "order_id=0", BAD, "order_id"},
    {TRANSITION, "order_id=-7", BAD, "order_id"},
    {TRANSITION, "expected_version=-1", LIMIT, "expected_version"},
    /* sums */
    {CREATE, "order.items_total.minor_units=3497", SUM, "order.items_total"},
    {CREATE, "order.payable.minor_units=3601", SUM, "order.payable"},
    {CREATE, "order.discount_total.minor_units=3699; order.payable=none", SUM, "order.payable"},
    {CREATE, "order.items[0].discount.minor_units=9000; order.items_total=none; order.payable=none", SUM, "order.items_total"},
    {CREATE, "order.items[0].unit_price.minor_units=9223372036854775807", SUM, "order.items[0]"},
    {CREATE, "order.items[0].unit_price.minor_units=4611686018427387903; order.items[1].unit_price.minor_units=3000000000000000000", SUM, "order.items[1]"},
    {CREATE, "order.freight.minor_units=9223372036854775807; order.payable=none", SUM, "order.payable"},
    /* currency */
    {CREATE, "order.payable.currency_code=", BAD, "order.payable.currency_code"},
    {CREATE, "order.payable.currency_code=cny", BAD, "order.payable.currency_code"},
    {CREATE, "order.payable.currency_code=XXX", BAD, "order.payable.currency_code"},
    {CREATE, "order.payable.currency_code=CNYX", BAD, "order.payable.currency_code"},
    {CREATE, "order.items[1].unit_price.currency_code=USD", SUM, "order.items[1].unit_price.currency_code"},
    {CREATE, "order.items[1].discount.currency_code=USD", SUM, "order.items[1].discount.currency_code"},
    {CREATE, "order.items_total.currency_code=USD", SUM, "order.items_total.currency_code"},
    {CREATE, "order.freight.currency_code=USD", SUM, "order.freight.currency_code"},
    {CREATE, "order.discount_total.currency_code=USD", SUM, "order.discount_total.currency_code"},
    {CREATE, "order.payable.currency_code=USD", SUM, "order.payable.currency_code"},
    {CREATE, "order.payments[0].amount.currency_code=USD", SUM, "order.payments[0].amount.currency_code"},
    /* times and durations */
    {CREATE, "order.payments[0].pay_time.seconds=253402300799; order.payments[0].pay_time.nanos=999999999", OK, NULL},
    {CREATE, "order.payments[0].pay_time.seconds=253402300800", BAD, "order.payments[0].pay_time"},
    {CREATE, "order.payments[0].pay_time.seconds=-62135596800", OK, NULL},
    {CREATE, "order.payments[0].pay_time.seconds=-62135596801", BAD, "order.payments[0].pay_time"},
    {CREATE, "order.payments[0].pay_time.nanos=-1", BAD, "order.payments[0].pay_time"},
    {CREATE, "order.payments[0].pay_time.nanos=1000000000", BAD, "order.payments[0].pay_time"},
    {CREATE, "options.idempotency_ttl.seconds=1", OK, NULL},
    {CREATE, "options.idempotency_ttl.seconds=0; options.idempotency_ttl.nanos=999999999", LIMIT, "options.idempotency_ttl"},
    {CREATE, "options.idempotency_ttl.seconds=2592000", OK, NULL},
    {CREATE, "options.idempotency_ttl.seconds=2592000; options.idempotency_ttl.nanos=1000", LIMIT, "options.idempotency_ttl"},
    {CREATE, "options.idempotency_ttl.seconds=-1", LIMIT, "options.idempotency_ttl"},
    {CREATE, "options.idempotency_ttl.nanos=-1", LIMIT, "options.idempotency_ttl"},
    {TRANSITION, "options.idempotency_ttl.seconds=9223372036854775807", LIMIT, "options.idempotency_ttl"},
    /* history */
    {IMPORT, "history[0].event=pay", SUM, "history[0].event"},
    {IMPORT, "history[0].from_status=PAID", SUM, "history[0].from_status"},
    {IMPORT, "history[0].to_status=PAID", SUM, "history[0].to_status"},
    {IMPORT, "history[1].event=ship", SUM, "history[1].event"},
    {IMPORT, "history[1].event=teleport", SUM, "history[1].event"},
    {IMPORT, "history[1].from_status=SHIPPED", SUM, "history[1].from_status"},
    {IMPORT, "history[1].to_status=SHIPPED", SUM, "history[1].to_status"},
    {IMPORT, "history[1].to_status=", SUM, "history[1].to_status"},
    {IMPORT, "history[2].event=update; history[2].to_status=PAID", OK, NULL},
    {IMPORT, "history[2].event=set_timer; history[2].to_status=PAID", OK, NULL},
    {IMPORT, "history[2].event=cancel_timer; history[2].to_status=SHIPPED", SUM, "history[2].to_status"},
    {IMPORT, "history[2].time.seconds=2000", OK, NULL},
    {IMPORT, "history[2].time.seconds=1999", SUM, "history[2].time"},
    {IMPORT, "history[1].time.nanos=-1", BAD, "history[1].time"},
    {IMPORT, "history[0].version=1; history[1].version=2; history[2].version=3", OK, NULL},
    {IMPORT, "history[2].version=2", SUM, "history[2].version"},
    {IMPORT, "order.status=SHIPPED; order.version=3", OK, NULL},
    {IMPORT, "order.status=PAID", SUM, "order.status"},
    {IMPORT, "order.status=MOON", SUM, "order.status"},
    {IMPORT, "order.version=4", SUM, "order.version"},
    {IMPORT, "order.create_time=new; order.create_time.seconds=1000; order.update_time=new; order.update_time.seconds=3000", OK, NULL},
    {IMPORT, "order.create_time=new; order.create_time.seconds=1001", SUM, "order.create_time"},
    {IMPORT, "order.update_time=new; order.update_time.seconds=2999", SUM, "order.update_time"},
    {IMPORT, "order.update_time=new; order.update_time.nanos=-1", BAD, "order.update_time"},
    {IMPORT, "history=#0; order.create_time=new; order.create_time.nanos=-1", BAD, "order.create_time"},
    {IMPORT, "history=#0; order.create_time=new; order.status=PAID", SUM, "order.status"},
    {IMPORT, "order.machine=", OK, NULL},
    {IMPORT, "no_event=1", OK, NULL},
    {IMPORT, "order.machine=shop@1", STATUS_MACHINE_NOT_FOUND, NULL},
    {IMPORT, "order.machine=shop@1; order.user_id=", BAD, "order.user_id"},
    {IMPORT, "order.payable.minor_units=1", SUM, "order.payable"},
    /* patches: the rules of UpdateOrder (test_update.c) */
    {TRANSITION, "patch=new", BAD, "update_mask"},
    {TRANSITION, "update_mask=new", BAD, "update_mask"},
    {TRANSITION, "patch=new; update_mask=new", BAD, "update_mask"},
    /* acks of events */
    {TRANSITION, "ack=new; ack.group=payments", BAD, "ack.event_id"},
    {TRANSITION, "ack=new; ack.event_id=1:1", BAD, "ack.group"},
};

static bool run(enum method method, void *m, struct checked *out, struct failure *f)
{
    failure_init(f, &arena);
    if (method == CREATE) return check_create(m, (struct slice){0}, &arena, out, f);
    if (method == TRANSITION) return check_transition(m, (struct slice){0}, &arena, out, f);
    return check_import(m, ms, &arena, out, f);
}

static void *request(enum method method)
{
    return method == CREATE ? (void *)create_request() : method == TRANSITION ? (void *)transition_request() : (void *)import_request();
}

static void every_rule_names_its_field(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct checked out;
        struct failure f;
        arena_reset(&arena);
        void *m = request(cases[i].method);
        change(m, cases[i].changes);
        bool ok = run(cases[i].method, m, &out, &f);
        if (f.status != cases[i].status || ok != (f.status == STATUS_OK))
            fail_msg("\"%s\": %s (%s), expected %s", cases[i].changes, status_name(f.status), f.violations ? f.violations->field : "-",
                     status_name(cases[i].status));
        if (cases[i].field && (!f.violations || strcmp(f.violations->field, cases[i].field)))
            fail_msg("\"%s\": %s, expected %s", cases[i].changes, f.violations ? f.violations->field : "-", cases[i].field);
        if (!cases[i].field) assert_null(f.violations);
        if (f.violations) assert_true(strlen(f.violations->description) > 0);
        assert_int_equal(out.command.len > 0, ok);
    }
}

static void all_violations_are_told_at_once(void **state)
{
    static const char *const expected[] = {
        "options.request_id",      "order.order_id",             "order.user_id",               "order.items[0].sku_id",
        "order.items[0].quantity", "order.items[1].unit_price", "order.payable.currency_code",
    };
    struct checked out;
    struct failure f;
    void *m = create_request();
    change(m, "options.request_id=short; order.order_id=5; order.user_id=; order.items[0].sku_id=; order.items[0].quantity=0; order.items[1].unit_price=none");
    change(m, "order.payable.currency_code=???");
    assert_false(run(CREATE, m, &out, &f));
    assert_int_equal(f.violation_count, ARRAY_LEN(expected));
    const struct failure_violation *v = f.violations;
    for (size_t i = 0; i < ARRAY_LEN(expected); i++, v = v->next) assert_string_equal(v->field, expected[i]);
}

static void a_description_names_limit_and_actual(void **state)
{
    struct checked out;
    struct failure f;
    void *m = create_request();
    change(m, "order.items[0].quantity=1000001");
    assert_false(run(CREATE, m, &out, &f));
    assert_non_null(strstr(f.violations->description, "1000001"));
    assert_non_null(strstr(f.violations->description, "1000000"));
    m = create_request();
    change(m, "order.payable.minor_units=1");
    assert_false(run(CREATE, m, &out, &f));
    assert_non_null(strstr(f.violations->description, "3600"));
}

static void an_ack_names_a_group_and_an_event(void **state)
{
    struct checked out;
    struct failure f;
    void *m = transition_request();
    change(m, "ack=new");
    change(m, "ack.group=payments");
    ((Orderdb__V1__TransitionOrderRequest *)m)->ack->event_id = (char *)"16384:1";
    assert_false(run(TRANSITION, m, &out, &f));
    assert_string_equal(f.violations->field, "ack.event_id");
    ((Orderdb__V1__TransitionOrderRequest *)m)->ack->event_id = (char *)"16383:77";
    assert_true(run(TRANSITION, m, &out, &f));
    assert_slice(out.ack_group, "payments");
}

/* ---- what a good request becomes */

static struct command commanded(enum method method, void *m, struct checked *out)
{
    struct failure f;
    struct command c;
    assert_true(run(method, m, out, &f));
    assert_int_equal(f.status, STATUS_OK);
    assert_int_equal(command_decode(out->command, &arena, &c), STATUS_OK);
    return c;
}

static void a_create_is_split_into_summary_and_detail(void **state)
{
    struct checked out;
    struct command c = commanded(CREATE, create_request(), &out);
    assert_slice(out.user_id, "alice");
    assert_int_equal(c.type, COMMAND_CREATE);
    assert_slice(c.create.user_id, "alice");
    assert_slice(c.create.client_order_no, "no-1");
    assert_slice(c.create.machine, "retail@1");
    assert_slice(c.origin.request_id, "request-0000000001");
    assert_slice(c.origin.operator_, "op");
    assert_slice(c.origin.reason, "why");
    assert_int_equal(c.origin.ttl_us, 3600ll * US_PER_S);
    Orderdb__V1__Order *s = orderdb__v1__order__unpack(NULL, c.create.summary.len, c.create.summary.data);
    Orderdb__V1__Order *d = orderdb__v1__order__unpack(NULL, c.create.detail.len, c.create.detail.data);
    assert_string_equal(s->user_id, "alice");
    assert_string_equal(s->merchant_id, "m7");
    assert_string_equal(s->order_type, "normal");
    assert_string_equal(s->machine, ""); /* the head's */
    assert_int_equal(s->items_total->minor_units, 3498);
    assert_int_equal(s->payable->minor_units, 3600);
    assert_int_equal(s->n_payments, 1);
    assert_int_equal(s->n_shipments, 1);
    assert_int_equal(s->n_attributes, 2);
    assert_string_equal(s->attributes[0]->key, "app"); /* sorted */
    assert_int_equal(s->n_items, 0);
    assert_null(s->address);
    assert_int_equal(d->n_items, 2);
    assert_non_null(d->address);
    assert_int_equal(d->extension.len, 2);
    assert_string_equal(d->user_id, "");
    assert_null(d->payable);
    orderdb__v1__order__free_unpacked(s, NULL);
    orderdb__v1__order__free_unpacked(d, NULL);
}

static void totals_left_out_are_filled_in(void **state)
{
    struct checked out;
    void *m = create_request();
    struct command with = commanded(CREATE, m, &out);
    m = create_request();
    change(m, "order.items_total=none; order.payable=none");
    struct command without = commanded(CREATE, m, &out);
    assert_true(slice_equal(with.create.summary, without.create.summary));
    assert_int_equal(with.origin.fingerprint.low, without.origin.fingerprint.low); /* and it is the same request */
}

static void the_default_life_of_a_request_id_is_seven_days(void **state)
{
    struct checked out;
    void *m = create_request();
    change(m, "options.idempotency_ttl=none");
    assert_int_equal(commanded(CREATE, m, &out).origin.ttl_us, 7ll * 86400 * US_PER_S);
}

static bool same_request(enum method method, const char *changes)
{
    struct checked out;
    void *m = request(method);
    struct hash128 a = commanded(method, m, &out).origin.fingerprint;
    m = request(method);
    change(m, changes);
    struct hash128 b = commanded(method, m, &out).origin.fingerprint;
    return a.low == b.low && a.high == b.high;
}

static void the_fingerprint_covers_content_alone(void **state)
{
    assert_true(same_request(CREATE, "options.operator=somebody else; options.reason=; options.idempotency_ttl=none; options.request_id=request-00000002"));
    assert_true(same_request(TRANSITION, "options.operator=somebody else; options.idempotency_ttl=none"));
    assert_true(same_request(TRANSITION, "expected_statuses[0]=PAID; expected_statuses[1]=PENDING_PAYMENT"));
    static const char *const creates[] = {
        "order.user_id=bob", "order.client_order_no=no-2", "order.machine=retail", "order.merchant_id=m8", "order.extension=z", "order.attributes[0].value=8",
        "order.items[0].title=another", "order.address.line=elsewhere", "order.payments[0].payment_no=p2", "order.shipments=#0",
    };
    for (size_t i = 0; i < ARRAY_LEN(creates); i++) assert_false(same_request(CREATE, creates[i]));
    static const char *const transitions[] = {"order_id=78", "event=cancel", "event=; to_status=PAID", "expected_version=4", "expected_statuses=#1"};
    for (size_t i = 0; i < ARRAY_LEN(transitions); i++) assert_false(same_request(TRANSITION, transitions[i]));
}

/* The wire may carry maps in any order and fields of newer contracts: neither changes what is stored. */
static void bytes_are_canonical(void **state)
{
    struct checked a, b;
    Orderdb__V1__CreateOrderRequest *m = create_request();
    commanded(CREATE, m, &a);
    m = create_request();
    Orderdb__V1__Order__AttributesEntry *first = m->order->attributes[0];
    m->order->attributes[0] = m->order->attributes[1];
    m->order->attributes[1] = first;
    ProtobufCMessageUnknownField unknown = {.tag = 999, .wire_type = PROTOBUF_C_WIRE_TYPE_VARINT, .len = 1, .data = (uint8_t *)str("\x05")};
    Orderdb__V1__Order *o = m->order;
    ProtobufCMessage *carriers[] = {&m->base, &o->base, &o->items[1]->base, &o->items[1]->unit_price->base, &o->attributes[0]->base};
    for (size_t i = 0; i < ARRAY_LEN(carriers); i++) carriers[i]->n_unknown_fields = 1, carriers[i]->unknown_fields = &unknown;
    commanded(CREATE, m, &b);
    assert_true(slice_equal(a.command, b.command));
}

static void a_transition_becomes_its_command(void **state)
{
    struct checked out;
    struct command c = commanded(TRANSITION, transition_request(), &out);
    assert_int_equal(out.order_id, 77);
    assert_int_equal(c.transition.order_id, 77);
    assert_slice(c.transition.event, "pay");
    assert_int_equal(c.transition.to_status.len, 0);
    assert_int_equal(c.transition.expected_version, 3);
    assert_int_equal(c.transition.expected_status_count, 2);
    assert_slice(c.transition.expected_statuses[0], "PENDING_PAYMENT"); /* as sent: a violation names the index */
}

static void an_import_becomes_its_command(void **state)
{
    struct checked out;
    void *m = import_request();
    change(m, "order.machine=; history[1].operator=o; history[1].reason=r; history[1].request_id=q; history[1].traceparent=t");
    struct command c = commanded(IMPORT, m, &out);
    assert_slice(out.user_id, "alice");
    assert_slice(c.import.machine, "retail@1"); /* resolved: what was checked is what is applied */
    assert_int_equal(c.import.history_count, 3);
    const struct history_entry *h = c.import.history;
    for (int i = 0; i < 3; i++) assert_int_equal(h[i].version, i + 1);
    assert_int_equal(h[0].from, 0);
    assert_int_equal(h[1].from, h[0].to);
    assert_slice(machines_status_name(ms, h[2].to), "SHIPPED");
    assert_int_equal(h[1].time_us, 2000ll * US_PER_S);
    assert_slice(h[1].operator_, "o");
    assert_slice(h[1].traceparent, "t");
    m = import_request();
    change(m, "history=#0; order.create_time=new; order.create_time.seconds=5");
    c = commanded(IMPORT, m, &out);
    assert_int_equal(c.import.history_count, 1);
    assert_slice(c.import.history[0].event, "import");
    assert_int_equal(c.import.history[0].time_us, 5ll * US_PER_S);
}

static void a_lost_answer_becomes_a_fence(void **state)
{
    struct failure f;
    struct checked out;
    struct command c;
    Orderdb__V1__GetRequestOutcomeRequest *m = NEW(Orderdb__V1__GetRequestOutcomeRequest, orderdb__v1__get_request_outcome_request__init);
    failure_init(&f, &arena);
    assert_false(check_outcome(m, &arena, &out, &f));
    assert_string_equal(f.violations->field, "user_id");
    assert_string_equal(f.violations->next->field, "request_id");
    m->user_id = str("alice"), m->request_id = str("request-0000000001");
    failure_init(&f, &arena);
    assert_true(check_outcome(m, &arena, &out, &f));
    assert_slice(out.user_id, "alice");
    assert_int_equal(command_decode(out.command, &arena, &c), STATUS_OK);
    assert_int_equal(c.type, COMMAND_FENCE);
    assert_slice(c.fence.user_id, "alice");
    assert_slice(c.origin.request_id, "request-0000000001");
    assert_int_equal(c.origin.ttl_us, COMMAND_FOR_EVER_US);
}

static void a_traceparent_is_kept_when_it_is_one(void **state)
{
    static const struct {
        const char *sent;
        bool kept;
    } traces[] = {
        {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true},
        {"00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false},
        {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", false},
        {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011", false},
        {"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false},
        {"", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(traces); i++) {
        struct checked out;
        struct failure f;
        struct command c;
        failure_init(&f, &arena);
        assert_true(check_create(create_request(), slice_str(traces[i].sent), &arena, &out, &f));
        assert_int_equal(command_decode(out.command, &arena, &c), STATUS_OK);
        assert_slice(c.origin.traceparent, traces[i].kept ? traces[i].sent : "");
        assert_true(check_transition(transition_request(), slice_str(traces[i].sent), &arena, &out, &f));
        assert_int_equal(command_decode(out.command, &arena, &c), STATUS_OK);
        assert_slice(c.origin.traceparent, traces[i].kept ? traces[i].sent : "");
    }
}

static void timestamps_become_microseconds(void **state)
{
    struct failure f;
    int64_t us = 0;
    failure_init(&f, &arena);
    Google__Protobuf__Timestamp *t = timestamp(-1);
    t->nanos = 999999999;
    assert_true(check_timestamp(t, "create_time_from", &us, &f));
    assert_int_equal(us, -1);
    t->nanos = 1000000000;
    assert_false(check_timestamp(t, "create_time_from", &us, &f));
    assert_string_equal(f.violations->field, "create_time_from");
}

static void a_full_arena_is_said(void **state)
{
    for (int method = CREATE; method <= IMPORT; method++) {
        unsigned failures = 0;
        for (size_t bytes_max = 0;; bytes_max += 8192) {
            struct arena small, for_failure;
            struct failure f;
            struct checked out;
            arena_init(&small, bytes_max);
            arena_init(&for_failure, 1 << 20);
            failure_init(&f, &for_failure);
            void *m = request(method);
            change(m, method == TRANSITION ? "options.reason=*1000" : "order.items_total=none; order.payable=none; order.extension=*20000");
            bool ok = method == CREATE       ? check_create(m, (struct slice){0}, &small, &out, &f)
                      : method == TRANSITION ? check_transition(m, (struct slice){0}, &small, &out, &f)
                                             : check_import(m, ms, &small, &out, &f);
            enum status st = f.status;
            arena_fini(&small);
            arena_fini(&for_failure);
            if (ok) break;
            assert_int_equal(st, STATUS_MEMORY_LIMIT);
            failures++;
        }
        assert_true(failures > 0);
    }
}

static int setup(void **state)
{
    arena_init(&arena, 512 << 20);
    return (ms = machines_new()) ? 0 : -1;
}
static int between(void **state) { return arena_reset(&arena), 0; }
static int teardown(void **state) { return arena_fini(&arena), machines_free(ms), 0; }

#define test(t) cmocka_unit_test_setup(t, between)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(every_rule_names_its_field),
        test(all_violations_are_told_at_once),
        test(a_description_names_limit_and_actual),
        test(an_ack_names_a_group_and_an_event),
        test(a_create_is_split_into_summary_and_detail),
        test(totals_left_out_are_filled_in),
        test(the_default_life_of_a_request_id_is_seven_days),
        test(the_fingerprint_covers_content_alone),
        test(bytes_are_canonical),
        test(a_transition_becomes_its_command),
        test(an_import_becomes_its_command),
        test(a_lost_answer_becomes_a_fence),
        test(a_traceparent_is_kept_when_it_is_one),
        test(timestamps_become_microseconds),
        test(a_full_arena_is_said),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
