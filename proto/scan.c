/* The scan walks the wire as protobuf-c 1.4.1 will, and adds up what that will take from the arena (nothing is given back there):
 *
 *   a message          sizeof_message, and its table of scanned members: 16 on the stack, then slabs of 32, 64, ... of them
 *   a repeated field   one array of n elements
 *   a string, bytes    a copy (one more byte for the string's NUL), once per occurrence
 *   an unknown field   a ProtobufCMessageUnknownField and a copy
 *
 * Each allocation is rounded up to the arena's unit. The sum is an upper bound; fuzz_scan holds it against the real thing. The walk recurses
 * once per level of nesting, at most depth_max times, with about 700 bytes of stack each.
 *
 * What a lenient parser would take and we refuse: a singular message given twice (protobuf-c merges at a cost, and no generator writes that),
 * a known field with another wire type, groups. Enum values and fields that we do not know are fine: that is how contracts grow. */
#include "proto/scan.h"

#include <stdio.h>

#include "proto/pbwire.h"

enum {
    FIELDS_MAX = 128,         /* of one message type; ours have at most 30 */
    ARENA_UNIT = 16,
    SCANNED_MEMBER_BYTES = 32, /* protobuf-c.c, struct _ScannedMember */
    PATH_BYTES_MAX = 256,
};

const struct scan_limits scan_limits_default = {
    .depth_max = 16,
    .elements_max = 65536, /* 500 items with 64 attributes each, two amounts per item, and as many again */
    .unknown_bytes_max = 65536,
    .unpacked_bytes_max = 16 * MIB,
};

/* One level of the walk: where we are, for the path, and how often each field came. */
struct scan_level {
    const struct scan_level *parent;
    const ProtobufCMessageDescriptor *type;
    const ProtobufCFieldDescriptor *field; /* the one that is being looked at; NULL: an unknown one */
    uint32_t depth;                        /* 1: the request itself */
    uint32_t counts[FIELDS_MAX];            /* elements, for repeated ones; of the type's fields alone they are set */
};
struct scan {
    const struct scan_limits *limits;
    struct failure *f;
    uint64_t elements, unknown_bytes;
    size_t bytes; /* unpacked */
    const uint8_t *open_end; /* more is to come here; NULL: the message is whole */
};

/* ---- violations ---- */

static void path_write(const struct scan_level *at, char path[PATH_BYTES_MAX], size_t *len) {
    if (at->parent) path_write(at->parent, path, len);
    if (!at->field || *len >= PATH_BYTES_MAX) return;
    *len += (size_t)snprintf(path + *len, PATH_BYTES_MAX - *len, "%s%s", *len ? "." : "", at->field->name);
    if (at->field->label == PROTOBUF_C_LABEL_REPEATED && *len < PATH_BYTES_MAX)
        *len += (size_t)snprintf(path + *len, PATH_BYTES_MAX - *len, "[%u]", at->counts[at->field - at->type->fields]);
}

static const char *path_of(const struct scan_level *at, char path[PATH_BYTES_MAX]) {
    size_t len = 0;
    path_write(at, path, &len);
    return len ? path : at->type->short_name;
}

#define refuse(s, at, status, ...) (failure_violation((s)->f, (status), path_of((at), (char[PATH_BYTES_MAX]){0}), __VA_ARGS__))

static enum status charge_bytes(struct scan *s, const struct scan_level *at, size_t bytes) {
    s->bytes += bytes;
    if (s->bytes <= s->limits->unpacked_bytes_max) return STATUS_OK;
    return refuse(s, at, STATUS_LIMIT_EXCEEDED, "the message unpacks to more than %zu bytes", s->limits->unpacked_bytes_max);
}

/* One allocation of its own. */
static enum status charge(struct scan *s, const struct scan_level *at, size_t bytes) {
    return charge_bytes(s, at, (MAX_OF(bytes, (size_t)1) + ARENA_UNIT - 1) & ~(size_t)(ARENA_UNIT - 1));
}

static enum status count_elements(struct scan *s, const struct scan_level *at, uint64_t n) {
    s->elements += n;
    if (s->elements <= s->limits->elements_max) return STATUS_OK;
    return refuse(s, at, STATUS_LIMIT_EXCEEDED, "more than %u elements in the message", s->limits->elements_max);
}

/* ---- values ---- */

static uint32_t wire_type_of(ProtobufCType type) {
    switch (type) {
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT: return PB_FIXED32;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE: return PB_FIXED64;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE: return PB_LEN;
    default: return PB_VARINT;
    }
}

static size_t element_bytes(ProtobufCType type) {
    switch (type) {
    case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE: return sizeof(void *);
    default: return wire_type_of(type) == PB_FIXED32 ? 4 : 8;
    }
}

/* Elements of a packed field; SIZE_MAX: malformed. */
static size_t packed_count(ProtobufCType type, struct slice v) {
    uint32_t wire = wire_type_of(type);
    if (wire == PB_FIXED32) return v.len % 4 ? SIZE_MAX : v.len / 4;
    if (wire == PB_FIXED64) return v.len % 8 ? SIZE_MAX : v.len / 8;
    struct reader r = reader_of(v);
    size_t n = 0;
    for (; reader_left(&r); n++) read_varint(&r);
    return r.bad ? SIZE_MAX : n;
}

static enum status scan_text(struct scan *s, const struct scan_level *at, struct slice v) {
    if (!utf8_valid(v)) return refuse(s, at, STATUS_FIELD_INVALID, "not valid UTF-8");
    if (v.len && memchr(v.data, 0, v.len)) return refuse(s, at, STATUS_FIELD_INVALID, "holds a NUL character");
    return charge(s, at, v.len + 1);
}

static enum status scan_fields(struct scan *s, const struct scan_level *parent, const ProtobufCMessageDescriptor *type, struct slice wire);

/* *elements: how many of a repeated field these bytes are. */
static enum status scan_value(struct scan *s, const struct scan_level *at, const struct pb_field *v, uint32_t *elements) {
    const ProtobufCFieldDescriptor *field = at->field;
    bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED, again = at->counts[field - at->type->fields] > 0;
    uint64_t n = 1;
    if (repeated && v->wire_type == PB_LEN && wire_type_of(field->type) != PB_LEN) {
        n = packed_count(field->type, v->bytes);
        if (n == SIZE_MAX) return refuse(s, at, STATUS_FIELD_INVALID, "malformed packed values");
    } else if (v->wire_type != wire_type_of(field->type)) {
        return refuse(s, at, STATUS_FIELD_INVALID, "wire type %u, expected %u", v->wire_type, wire_type_of(field->type));
    }
    if (!repeated && again && field->type == PROTOBUF_C_TYPE_MESSAGE) return refuse(s, at, STATUS_FIELD_INVALID, "given more than once");
    enum status st = STATUS_OK;
    /* A singular field that comes again costs as much as an element. */
    if (repeated || again || field->type == PROTOBUF_C_TYPE_MESSAGE) st = count_elements(s, at, n);
    *elements = (uint32_t)n;
    if (!st && repeated) st = charge_bytes(s, at, (size_t)n * element_bytes(field->type) + (again ? 0 : ARENA_UNIT));
    if (st) return st;
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING: return scan_text(s, at, v->bytes);
    case PROTOBUF_C_TYPE_BYTES: return charge(s, at, v->bytes.len);
    case PROTOBUF_C_TYPE_MESSAGE: return scan_fields(s, at, field->descriptor, v->bytes);
    default: return STATUS_OK;
    }
}

static enum status scan_unknown(struct scan *s, const struct scan_level *at, size_t bytes) {
    s->unknown_bytes += bytes;
    if (s->unknown_bytes > s->limits->unknown_bytes_max)
        return refuse(s, at, STATUS_LIMIT_EXCEEDED, "more than %u bytes of unknown fields", s->limits->unknown_bytes_max);
    enum status st = charge(s, at, sizeof(ProtobufCMessageUnknownField));
    return st ? st : charge(s, at, bytes);
}

/* The last field of a message that is still coming, as much of it as there is: sub-messages are looked into, all else is judged when it is whole. */
static bool next_open(struct slice wire, const ProtobufCMessageDescriptor *type, struct pb_field *out) {
    struct reader r = reader_of(wire);
    uint64_t tag = read_varint(&r), len = read_varint(&r);
    if (r.bad || (tag & 7) != PB_LEN || tag >> 3 == 0 || tag >> 3 > PB_FIELD_NUMBER_MAX || len <= reader_left(&r)) return false;
    *out = (struct pb_field){.number = (uint32_t)(tag >> 3), .wire_type = PB_LEN, .bytes = slice_of(r.at, reader_left(&r))};
    const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field(type, out->number);
    return field && field->type == PROTOBUF_C_TYPE_MESSAGE;
}

static enum status scan_fields(struct scan *s, const struct scan_level *parent, const ProtobufCMessageDescriptor *type, struct slice wire) {
    struct scan_level level;
    bool open = s->open_end && wire.data + wire.len == s->open_end, last = false;
    check(type->n_fields <= FIELDS_MAX);
    level.parent = parent, level.type = type, level.field = NULL, level.depth = parent ? parent->depth + 1 : 1;
    memset(level.counts, 0, type->n_fields * sizeof level.counts[0]); /* all of it is most of the cost of an empty message */
    if (level.depth > s->limits->depth_max) return refuse(s, parent, STATUS_LIMIT_EXCEEDED, "nested deeper than %u messages", s->limits->depth_max);
    enum status st = charge(s, &level, type->sizeof_message);
    struct reader r = reader_of(wire);
    uint64_t members = 0, members_room = 16;
    while (!st && !last) {
        const uint8_t *start = r.at;
        struct pb_field v;
        level.field = NULL;
        if (!pb_next(&r, &v) && !(last = open && r.bad && next_open(slice_of(start, (size_t)(r.end - start)), type, &v))) break;
        if (++members > members_room) {
            st = charge(s, &level, (members_room + 16) * SCANNED_MEMBER_BYTES); /* the next slab doubles: 32 after 16, 64 after 48 */
            members_room += members_room + 16;
        }
        level.field = protobuf_c_message_descriptor_get_field(type, v.number);
        if (st) break;
        if (!level.field) {
            st = scan_unknown(s, &level, (size_t)(r.at - start));
            continue;
        }
        uint32_t elements = 1;
        st = scan_value(s, &level, &v, &elements);
        level.counts[level.field - type->fields] += elements;
    }
    if (!st && r.bad && !open) st = refuse(s, &level, STATUS_FIELD_INVALID, "malformed protobuf");
    return st;
}

enum status scan_message(const ProtobufCMessageDescriptor *type, struct slice wire, const struct scan_limits *limits, size_t *unpacked_bytes, struct failure *f) {
    check(limits->depth_max <= 64); /* our stack */
    struct scan s = {.limits = limits, .f = f};
    enum status st = scan_fields(&s, NULL, type, wire);
    *unpacked_bytes = s.bytes;
    return st;
}

enum status scan_begun(const ProtobufCMessageDescriptor *type, struct slice wire, const struct scan_limits *limits, struct failure *f) {
    check(limits->depth_max <= 64);
    struct scan s = {.limits = limits, .f = f, .open_end = wire.data + wire.len};
    return wire.len ? scan_fields(&s, NULL, type, wire) : STATUS_OK;
}

/* ---- unpacking ---- */

struct unpack_memory {
    struct arena *arena;
    bool full;
};

static void *unpack_alloc_cb(void *ctx, size_t bytes) {
    struct unpack_memory *m = ctx;
    void *p = arena_alloc(m->arena, bytes);
    if (!p) m->full = true;
    return p;
}

static void unpack_free_cb(void *ctx, void *p) {}

ProtobufCMessage *scan_unpack(const ProtobufCMessageDescriptor *type, struct slice wire, const struct scan_limits *limits, struct failure *f) {
    size_t bytes;
    if (scan_message(type, wire, limits, &bytes, f)) return NULL;
    struct unpack_memory memory = {.arena = f->arena};
    ProtobufCAllocator allocator = {unpack_alloc_cb, unpack_free_cb, &memory};
    static const uint8_t nothing[1];
    ProtobufCMessage *m = protobuf_c_message_unpack(type, &allocator, wire.len, wire.data ? wire.data : nothing);
    if (m) return m;
    if (memory.full) failure_set(f, STATUS_MEMORY_LIMIT, "the request needs about %zu bytes, more than it may have", bytes);
    else failure_violation(f, STATUS_FIELD_INVALID, type->short_name, "malformed protobuf"); /* e.g. an overlong length */
    return NULL;
}

/* Well-formed byte sequences, The Unicode Standard, table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF. */
bool utf8_valid(struct slice s) {
    const uint8_t *p = s.data, *end = p + s.len;
    while (p < end) {
        while (end - p >= 8 && !(get_le64(p) & 0x8080808080808080ull)) p += 8;
        if (p == end) break;
        uint8_t c = *p++;
        if (c < 0x80) continue;
        unsigned more = c < 0xc2 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : c < 0xf5 ? 3 : 0;
        if (!more || (size_t)(end - p) < more) return false;
        uint8_t low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80, high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
        if (*p < low || *p > high) return false;
        for (p++; --more; p++)
            if ((*p & 0xc0) != 0x80) return false;
    }
    return true;
}
