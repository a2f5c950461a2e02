#include "tools/content.h"

#include <stdio.h>

#include "proto/base/mem.h"
#include "proto/timetext.h"
#include "tools/money.h"

typedef Orderdb__V1__Order Order;

bool content_given(const struct content_flags *c) {
    return c->type || c->address || c->extension || c->attributes.count || c->payments.count || c->shipments.count || c->clear.count;
}

/* ---- parts of a value */

bool content_pair_next(char **text, char **key, char **value, bool *bad) {
    if (!**text) return false;
    *key = *text;
    char *equals = strchr(*text, '='), *in, *out;
    if (!equals) return *bad = true, false;
    *equals = 0;
    *value = in = out = equals + 1;
    for (; *in && *in != ','; in++) {
        if (in[0] == '\\' && (in[1] == ',' || in[1] == '\\')) in++;
        *out++ = *in;
    }
    *text = *in ? in + 1 : in;
    *out = 0;
    return true;
}

char **content_names_split(struct arena *a, const struct args_many *many, size_t *count) {
    size_t n = 0;
    *count = 0;
    for (size_t i = 0; i < many->count; i++) {
        n++;
        for (const char *s = many->values[i]; *s; s++) n += *s == ',';
    }
    char **names = arena_array(a, char *, n + 1);
    for (size_t i = 0; names && i < many->count; i++) {
        char *text = arena_printf(a, "%s", many->values[i]);
        if (!text) return NULL;
        for (char *name; (name = strsep(&text, ","));) {
            if (*name) names[(*count)++] = name;
        }
    }
    return names;
}

Orderdb__V1__Money *content_money_new(struct arena *a, const char *currency, int64_t units) {
    Orderdb__V1__Money *m = arena_new(a, Orderdb__V1__Money);
    if (!m) return NULL;
    orderdb__v1__money__init(m);
    m->currency_code = (char *)(uintptr_t)currency;
    m->minor_units = units;
    return m;
}

bool content_amount_read(const struct cli *cli, const char *flag, const char *currency, const char *text, int64_t *units) {
    unsigned exponent = money_exponent(currency);
    char digits[48] = "no decimals";
    if (money_parse(slice_str(text), exponent, units)) return true;
    if (exponent) snprintf(digits, sizeof(digits), "at most %u digits after the point", exponent);
    cli_usage(cli, "%s: \"%s\" is not an amount in %s (%s, no sign)", flag, text, currency, digits);
    return false;
}

static bool no_memory(void) { return cli_no_memory() == CLI_OK; }

/* ---- the flags */

static bool address_read(const struct cli *cli, struct arena *a, const char *text, Order *o) {
    char *rest = arena_printf(a, "%s", text), *key, *value;
    Orderdb__V1__Address *address = arena_new(a, Orderdb__V1__Address);
    bool bad = false;
    if (!rest || !address) return no_memory();
    orderdb__v1__address__init(address);
    o->address = address;
    while (content_pair_next(&rest, &key, &value, &bad)) {
        if (strcmp(key, "recipient") == 0) address->recipient = value;
        else if (strcmp(key, "phone") == 0) address->phone = value;
        else if (strcmp(key, "region") == 0) address->region_code = value;
        else if (strcmp(key, "line") == 0) address->line = value;
        else return cli_usage(cli, "--address: no part \"%s\"; there are recipient, phone, region, line", key), false;
    }
    return bad ? cli_usage(cli, "--address: \"%s\" is not recipient=..,phone=..,region=..,line=..", text), false : true;
}

static bool attributes_read(const struct cli *cli, struct arena *a, const struct args_many *given, Order *o) {
    o->attributes = arena_array(a, Orderdb__V1__Order__AttributesEntry *, given->count);
    if (!o->attributes) return no_memory();
    for (size_t i = 0; i < given->count; i++) {
        Orderdb__V1__Order__AttributesEntry *e = arena_new(a, Orderdb__V1__Order__AttributesEntry);
        char *text = arena_printf(a, "%s", given->values[i]), *equals = text ? strchr(text, '=') : NULL;
        if (!e || !text) return no_memory();
        if (!equals) return cli_usage(cli, "--attr: \"%s\" is not key=value", text), false;
        orderdb__v1__order__attributes_entry__init(e);
        *equals = 0;
        e->key = text, e->value = equals + 1;
        o->attributes[o->n_attributes++] = e;
    }
    return true;
}

static bool time_read(const struct cli *cli, struct arena *a, const char *text, Orderdb__V1__PaymentRef *p) {
    p->pay_time = arena_new(a, Google__Protobuf__Timestamp);
    if (!p->pay_time) return no_memory();
    google__protobuf__timestamp__init(p->pay_time);
    if (time_parse(slice_str(text), &p->pay_time->seconds, &p->pay_time->nanos)) return true;
    return cli_usage(cli, "--payment: \"%s\" is not a time like 2026-01-31 or 2026-01-31T08:00:00Z", text), false;
}

static bool payment_read(const struct cli *cli, struct arena *a, const char *text, const char *currency, Orderdb__V1__PaymentRef *p) {
    char *rest = arena_printf(a, "%s", text), *key, *value, *amount = NULL;
    bool bad = false;
    int64_t units;
    if (!rest) return no_memory();
    while (content_pair_next(&rest, &key, &value, &bad)) {
        if (strcmp(key, "no") == 0) p->payment_no = value;
        else if (strcmp(key, "channel") == 0) p->channel = value;
        else if (strcmp(key, "amount") == 0) amount = value;
        else if (strcmp(key, "currency") == 0) currency = value;
        else if (strcmp(key, "time") != 0) return cli_usage(cli, "--payment: no part \"%s\"; there are no, channel, amount, currency, time", key), false;
        else if (!time_read(cli, a, value, p)) return false;
    }
    if (bad) return cli_usage(cli, "--payment: \"%s\" is not no=..,channel=..,amount=..,currency=..,time=..", text), false;
    if (!amount) return true;
    if (!currency) return cli_usage(cli, "--payment: \"%s\" has an amount and no currency, such as currency=CNY", text), false;
    if (!content_amount_read(cli, "--payment amount", currency, amount, &units)) return false;
    p->amount = content_money_new(a, currency, units);
    return p->amount ? true : no_memory();
}

static bool payments_read(const struct cli *cli, struct arena *a, const struct args_many *given, const char *currency, Order *o) {
    o->payments = arena_array(a, Orderdb__V1__PaymentRef *, given->count);
    if (!o->payments) return no_memory();
    for (size_t i = 0; i < given->count; i++) {
        Orderdb__V1__PaymentRef *p = o->payments[i] = arena_new(a, Orderdb__V1__PaymentRef);
        if (!p) return no_memory();
        orderdb__v1__payment_ref__init(p);
        if (!payment_read(cli, a, given->values[i], currency, p)) return false;
        o->n_payments++;
    }
    return true;
}

static bool shipment_read(const struct cli *cli, struct arena *a, const char *text, Orderdb__V1__ShipmentRef *s) {
    char *rest = arena_printf(a, "%s", text), *key, *value;
    bool bad = false;
    size_t parts = 1;
    for (const char *t = text; *t; t++) parts += *t == ',';
    s->sku_ids = arena_array(a, char *, parts);
    if (!rest || !s->sku_ids) return no_memory();
    while (content_pair_next(&rest, &key, &value, &bad)) {
        if (strcmp(key, "no") == 0) s->tracking_no = value;
        else if (strcmp(key, "carrier") == 0) s->carrier = value;
        else if (strcmp(key, "sku") == 0) s->sku_ids[s->n_sku_ids++] = value;
        else return cli_usage(cli, "--shipment: no part \"%s\"; there are no, carrier, sku", key), false;
    }
    return bad ? cli_usage(cli, "--shipment: \"%s\" is not no=..,carrier=..,sku=..", text), false : true;
}

static bool shipments_read(const struct cli *cli, struct arena *a, const struct args_many *given, Order *o) {
    o->shipments = arena_array(a, Orderdb__V1__ShipmentRef *, given->count);
    if (!o->shipments) return no_memory();
    for (size_t i = 0; i < given->count; i++) {
        Orderdb__V1__ShipmentRef *s = o->shipments[i] = arena_new(a, Orderdb__V1__ShipmentRef);
        if (!s) return no_memory();
        orderdb__v1__shipment_ref__init(s);
        if (!shipment_read(cli, a, given->values[i], s)) return false;
        o->n_shipments++;
    }
    return true;
}

static bool extension_read(struct arena *a, const char *path, Order *o) {
    size_t len;
    char *data = cli_read_file(path, &len);
    if (!data) return false;
    struct slice kept = arena_copy(a, slice_of(data, len));
    mem_free(data);
    if (!kept.data) return no_memory();
    o->extension = (ProtobufCBinaryData){kept.len, (uint8_t *)(uintptr_t)kept.data};
    return true;
}

bool content_read(const struct cli *cli, struct arena *a, const struct content_flags *c, const char *currency, Order *o) {
    if (c->type) o->order_type = (char *)(uintptr_t)c->type;
    if (c->address && !address_read(cli, a, c->address, o)) return false;
    if (!payments_read(cli, a, &c->payments, currency, o) || !shipments_read(cli, a, &c->shipments, o)) return false;
    return attributes_read(cli, a, &c->attributes, o) && (!c->extension || extension_read(a, c->extension, o));
}

/* ---- the mask */

Google__Protobuf__FieldMask *content_mask(const struct cli *cli, struct arena *a, const struct content_flags *c) {
    const struct {
        bool given;
        const char *field;
    } fields[] = {
        {c->type, "order_type"}, {c->address, "address"}, {c->payments.count, "payments"}, {c->shipments.count, "shipments"}, {c->attributes.count, "attributes"},
        {c->extension, "extension"},
    };
    size_t cleared;
    char **names = content_names_split(a, &c->clear, &cleared);
    Google__Protobuf__FieldMask *mask = arena_new(a, Google__Protobuf__FieldMask);
    if (!names || !mask) return no_memory(), NULL;
    google__protobuf__field_mask__init(mask);
    mask->paths = arena_array(a, char *, ARRAY_LEN(fields) + cleared);
    if (!mask->paths) return no_memory(), NULL;
    for (size_t i = 0; i < ARRAY_LEN(fields); i++)
        if (fields[i].given) mask->paths[mask->n_paths++] = (char *)(uintptr_t)fields[i].field;
    for (size_t i = 0; i < cleared; i++) {
        for (size_t k = 0; k < ARRAY_LEN(fields); k++)
            if (fields[k].given && strcmp(names[i], fields[k].field) == 0) return cli_usage(cli, "--clear %s: it is set too", names[i]), NULL;
        mask->paths[mask->n_paths++] = names[i]; /* whether it may be is the server's to say */
    }
    if (!mask->n_paths) return cli_usage(cli, "--clear names no field"), NULL; /* --clear "$UNSET" */
    return mask;
}
