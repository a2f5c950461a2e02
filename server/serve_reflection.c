/* grpc.reflection.v1.ServerReflection (and v1alpha, the same but for its name): which services, methods and messages there are, for tools that have no .proto files.
 *
 * The answers come from the bytes of a google.protobuf.FileDescriptorSet that protoc made at build time. There is no index: a look-up walks the set
 * (some 60 KB) with pbwire, which is tens of microseconds, asked by people. One answer is under way at a time; while it is, the stream is held. */
#include <stdio.h>

#include "proto/pbwire.h"
#include "server/core.h"
#include "server/node.h"
#include "server/serve_common.h"

enum { REQUEST_BYTES_MAX = 4096, FILES_MAX = 64, ANSWER_HEAD_BYTES = 256 };

static const uint8_t descriptor_set[] = {
#include "server/descriptors.inc"
};

/* Numbers of descriptor.proto's fields that are looked at. */
enum { SET_FILE = 1, NAME = 1 };
enum { FILE_PACKAGE = 2, FILE_DEPENDENCY = 3, FILE_MESSAGE = 4, FILE_ENUM = 5, FILE_SERVICE = 6, FILE_EXTENSION = 7 };
enum { MESSAGE_FIELD = 2, MESSAGE_NESTED = 3, MESSAGE_ENUM = 4, MESSAGE_EXTENSION = 6, MESSAGE_ONEOF = 8 };
enum { ENUM_VALUE = 2, SERVICE_METHOD = 2 };
/* Of reflection.proto. */
enum { ASK_HOST = 1, ASK_FILE = 3, ASK_SYMBOL = 4, ASK_EXTENSION = 5, ASK_EXTENSION_NUMBERS = 6, ASK_SERVICES = 7 };
enum { ANSWER_HOST = 1, ANSWER_REQUEST = 2, ANSWER_FILES = 4, ANSWER_EXTENSION_NUMBERS = 5, ANSWER_SERVICES = 6, ANSWER_ERROR = 7 };

struct files {
    struct slice bytes[FILES_MAX]; /* FileDescriptorProto each */
    unsigned count;
};

struct ask {
    struct slice whole, host, value;
    uint32_t what; /* 0: nothing that is known */
};

/* ---- descriptors */

static struct slice name_of(struct slice descriptor) {
    struct reader r = reader_of(descriptor);
    for (struct pb_field f; pb_next(&r, &f);)
        if (f.number == NAME && f.wire_type == PB_LEN) return f.bytes;
    return (struct slice){0};
}

static struct slice text_of(struct slice descriptor, uint32_t number) {
    struct reader r = reader_of(descriptor);
    for (struct pb_field f; pb_next(&r, &f);)
        if (f.number == number) return f.bytes;
    return (struct slice){0};
}

/* "a.b.c" below "a": "b.c". false: it does not begin with name and a dot. An empty name has everything below it. */
static bool below(struct slice symbol, struct slice name, struct slice *rest) {
    if (name.len == 0) return *rest = symbol, true;
    if (!slice_starts_with(symbol, name) || symbol.len <= name.len || symbol.data[name.len] != '.') return false;
    *rest = slice_of(symbol.data + name.len + 1, symbol.len - name.len - 1);
    return true;
}

/* One of the things numbered so has this name. */
static bool any_named(struct slice descriptor, uint32_t number, struct slice name) {
    struct reader r = reader_of(descriptor);
    for (struct pb_field f; pb_next(&r, &f);)
        if (f.number == number && slice_equal(name_of(f.bytes), name)) return true;
    return false;
}

/* Values are named in the scope around their enum (as in C++). */
static bool enum_has(struct slice e, struct slice symbol) { return slice_equal(name_of(e), symbol) || any_named(e, ENUM_VALUE, symbol); }

static bool service_has(struct slice service, struct slice symbol) {
    struct slice rest;
    return slice_equal(name_of(service), symbol) || (below(symbol, name_of(service), &rest) && any_named(service, SERVICE_METHOD, rest));
}

static bool message_has(struct slice message, struct slice symbol) {
    struct slice rest;
    if (slice_equal(name_of(message), symbol)) return true;
    if (!below(symbol, name_of(message), &rest)) return false;
    if (any_named(message, MESSAGE_FIELD, rest) || any_named(message, MESSAGE_ONEOF, rest) || any_named(message, MESSAGE_EXTENSION, rest)) return true;
    struct reader r = reader_of(message);
    for (struct pb_field f; pb_next(&r, &f);) {
        if (f.number == MESSAGE_NESTED && message_has(f.bytes, rest)) return true; /* as deep as our own files nest */
        if (f.number == MESSAGE_ENUM && enum_has(f.bytes, rest)) return true;
    }
    return false;
}

/* is_type: messages alone. */
static bool file_has(struct slice file, struct slice symbol, bool is_type) {
    struct slice rest;
    if (!below(symbol, text_of(file, FILE_PACKAGE), &rest) || rest.len == 0) return false;
    struct reader r = reader_of(file);
    for (struct pb_field f; pb_next(&r, &f);) {
        if (f.number == FILE_MESSAGE && message_has(f.bytes, rest)) return true;
        if (is_type) continue;
        if (f.number == FILE_ENUM && enum_has(f.bytes, rest)) return true;
        if (f.number == FILE_SERVICE && service_has(f.bytes, rest)) return true;
        if (f.number == FILE_EXTENSION && slice_equal(name_of(f.bytes), rest)) return true;
    }
    return false;
}

static struct files files_of_set(void) {
    struct files files = {.count = 0};
    struct reader r = reader_of(slice_of(descriptor_set, sizeof descriptor_set));
    for (struct pb_field f; pb_next(&r, &f);) {
        check(f.number == SET_FILE);
        check(files.count < FILES_MAX);
        files.bytes[files.count++] = f.bytes;
    }
    check(!r.bad);
    return files;
}

static unsigned find_file(const struct files *files, struct slice name) {
    unsigned i = 0;
    while (i < files->count && !slice_equal(name_of(files->bytes[i]), name)) i++;
    return i;
}

static unsigned find_symbol(const struct files *files, struct slice symbol, bool is_type) {
    unsigned i = 0;
    while (i < files->count && !file_has(files->bytes[i], symbol, is_type)) i++;
    return i;
}

/* The file and all that it imports, each once, itself first. Returns how many; order[] takes FILES_MAX. */
static unsigned with_imports(const struct files *files, unsigned first, unsigned order[FILES_MAX]) {
    uint64_t seen = 1ull << first;
    unsigned n = 0;
    order[n++] = first;
    for (unsigned at = 0; at < n; at++) {
        struct reader r = reader_of(files->bytes[order[at]]);
        for (struct pb_field f; pb_next(&r, &f);) {
            if (f.number != FILE_DEPENDENCY) continue;
            unsigned i = find_file(files, f.bytes);
            if (i == files->count || (seen & 1ull << i)) continue;
            seen |= 1ull << i;
            order[n++] = i;
        }
    }
    return n;
}
static_assert(FILES_MAX == 64, "a bit each");

/* ---- answers */

static size_t field_bytes(size_t len) { return 1 + varint_len(len) + len; }

static void write_error(struct writer *w, enum grpc_code code, const char *what, struct slice name) {
    char text[160];
    uint8_t inner[192];
    int n = snprintf(text, sizeof text, "%s: %.*s", what, (int)slice_cut_utf8(name, 100).len, (const char *)name.data);
    struct writer iw = writer_of(inner, sizeof inner);
    pb_int64(&iw, 1, code);
    pb_bytes(&iw, 2, slice_of(text, MIN_OF((size_t)n, sizeof text - 1)));
    check(!iw.full);
    struct slice part = writer_slice(&iw);
    pb_message(w, ANSWER_ERROR, &part, 1);
}

static void write_files(struct writer *w, const struct files *files, unsigned first) {
    unsigned order[FILES_MAX], n = with_imports(files, first, order);
    size_t len = 0;
    for (unsigned i = 0; i < n; i++) len += field_bytes(files->bytes[order[i]].len);
    pb_tag(w, ANSWER_FILES, PB_LEN);
    write_varint(w, len);
    for (unsigned i = 0; i < n; i++) pb_bytes(w, 1, files->bytes[order[i]]);
}

static size_t service_name_bytes(struct slice package, struct slice name) { return package.len + 1 + name.len; }

/* Runs twice: with w NULL it only counts. */
static size_t write_service_list(struct writer *w, const struct files *files) {
    size_t len = 0;
    for (unsigned i = 0; i < files->count; i++) {
        struct slice package = text_of(files->bytes[i], FILE_PACKAGE);
        struct reader r = reader_of(files->bytes[i]);
        for (struct pb_field f; pb_next(&r, &f);) {
            if (f.number != FILE_SERVICE) continue;
            struct slice name = name_of(f.bytes);
            size_t name_len = service_name_bytes(package, name);
            len += field_bytes(field_bytes(name_len));
            if (!w) continue;
            pb_tag(w, 1, PB_LEN), write_varint(w, field_bytes(name_len));
            pb_tag(w, 1, PB_LEN), write_varint(w, name_len);
            write_slice(w, package), write_u8(w, '.'), write_slice(w, name);
        }
    }
    return len;
}

static void write_answer(struct writer *w, const struct ask *ask) {
    struct files files = files_of_set();
    unsigned i;
    pb_bytes(w, ANSWER_HOST, ask->host);
    pb_message(w, ANSWER_REQUEST, &ask->whole, 1);
    switch (ask->what) {
    case ASK_FILE:
        i = find_file(&files, ask->value);
        return i < files.count ? write_files(w, &files, i) : write_error(w, GRPC_NOT_FOUND, "no file", ask->value);
    case ASK_SYMBOL:
        i = find_symbol(&files, ask->value, false);
        return i < files.count ? write_files(w, &files, i) : write_error(w, GRPC_NOT_FOUND, "no symbol", ask->value);
    case ASK_EXTENSION: return write_error(w, GRPC_NOT_FOUND, "no extensions are known of", name_of(ask->value));
    case ASK_EXTENSION_NUMBERS:
        if (find_symbol(&files, ask->value, true) == files.count) return write_error(w, GRPC_NOT_FOUND, "no message", ask->value);
        pb_tag(w, ANSWER_EXTENSION_NUMBERS, PB_LEN);
        write_varint(w, field_bytes(ask->value.len));
        return pb_bytes(w, 1, ask->value);
    case ASK_SERVICES:
        pb_tag(w, ANSWER_SERVICES, PB_LEN);
        write_varint(w, write_service_list(NULL, &files));
        return (void)write_service_list(w, &files);
    default: return write_error(w, GRPC_INVALID_ARGUMENT, "nothing that this server knows is asked for", (struct slice){0});
    }
}

static bool read_ask(struct call *call, struct ask *ask) {
    struct failure *f = call_failure(call);
    *ask = (struct ask){.whole = call_message(call)};
    if (ask->whole.len > REQUEST_BYTES_MAX) {
        failure_set(f, STATUS_LIMIT_EXCEEDED, "a request of %zu bytes; the limit is %d", ask->whole.len, REQUEST_BYTES_MAX);
        return false;
    }
    struct reader r = reader_of(ask->whole);
    bool texts = true; /* the answer repeats them */
    for (struct pb_field field; pb_next(&r, &field);) {
        if (field.wire_type != PB_LEN) continue;
        if (field.number == ASK_HOST) ask->host = field.bytes;
        else if (field.number >= ASK_FILE && field.number <= ASK_SERVICES) ask->what = field.number, ask->value = field.bytes; /* a oneof: the last one counts */
        texts &= utf8_valid(field.number == ASK_EXTENSION ? name_of(field.bytes) : field.bytes);
    }
    if (r.bad) failure_set(f, STATUS_FIELD_INVALID, "the message is malformed");
    else if (!texts) failure_set(f, STATUS_FIELD_INVALID, "a text of the message is not valid UTF-8");
    return !f->status;
}

static void on_answer_sent(struct call *call) {
    call_arena_give(call, *call_state(call));
    *call_state(call) = NULL;
    call_release(call);
}

static bool is_switched_off(const struct core *core) { return core->node && core->node->config && !core->node->config->reflection; }

void serve_reflection(struct call *call) {
    struct ask ask;
    if (is_switched_off(call_core(call))) {
        failure_set(call_failure(call), STATUS_METHOD_UNKNOWN, "server reflection is switched off");
        return call_fail(call);
    }
    if (call_half_closed(call)) return call_finish(call);
    if (!read_ask(call, &ask)) return call_fail(call);
    size_t cap = sizeof descriptor_set + 2 * ask.whole.len + ANSWER_HEAD_BYTES + FILES_MAX * 8;
    struct arena *arena = call_arena_take(call);
    uint8_t *bytes = arena ? arena_alloc(arena, cap) : NULL;
    if (!bytes) return serve_fail_memory(call);
    struct writer w = writer_of(bytes, cap);
    write_answer(&w, &ask);
    check(!w.full);
    *call_state(call) = arena;
    call_hold(call);
    call_send(call, writer_slice(&w), on_answer_sent);
}
