#include "client/inflow.h"

#include "proto/base/mem.h"

struct inflow_message {
    struct list node;
    size_t len, got;
    uint8_t data[];
};

void inflow_init(struct inflow *in) {
    *in = (struct inflow){0};
    list_init(&in->whole);
}

void inflow_fini(struct inflow *in) {
    mem_free(in->part);
    in->part = NULL;
    for (struct list *it; (it = list_pop_front(&in->whole));) mem_free(list_entry(it, struct inflow_message, node));
}

/* The head of the next message is whole. */
static enum inflow_result inflow_begin(struct inflow *in, size_t message_bytes_max) {
    bool compressed;
    uint32_t len;
    if (!grpc_frame_parse(in->head, &compressed, &len) || compressed) return INFLOW_COMPRESSED;
    if (len > message_bytes_max) return INFLOW_TOO_LARGE;
    in->part = mem_alloc(sizeof(*in->part) + len);
    if (!in->part) return INFLOW_MEMORY;
    in->part->len = len, in->part->got = 0;
    in->head_len = 0;
    return INFLOW_OK;
}

enum inflow_result inflow_feed(struct inflow *in, struct slice bytes, size_t message_bytes_max) {
    const uint8_t *at = bytes.data, *end = at + bytes.len;
    while (at < end) {
        if (!in->part) {
            in->head[in->head_len++] = *at++;
            if (in->head_len < GRPC_FRAME_HEAD) continue;
            enum inflow_result r = inflow_begin(in, message_bytes_max);
            if (r) return r;
        }
        struct inflow_message *m = in->part;
        size_t n = MIN_OF((size_t)(end - at), m->len - m->got);
        if (n) memcpy(m->data + m->got, at, n);
        at += n, m->got += n;
        if (m->got < m->len) break;
        list_push_back(&in->whole, &m->node);
        in->part = NULL;
    }
    return INFLOW_OK;
}

bool inflow_first(const struct inflow *in, struct slice *message) {
    if (list_empty(&in->whole)) return false;
    struct inflow_message *m = list_entry(in->whole.next, struct inflow_message, node);
    *message = slice_of(m->data, m->len);
    return true;
}

size_t inflow_release(struct inflow *in) {
    struct list *first = list_pop_front(&in->whole);
    check(first);
    struct inflow_message *m = list_entry(first, struct inflow_message, node);
    size_t n = GRPC_FRAME_HEAD + m->len;
    mem_free(m);
    return n;
}

bool inflow_is_between(const struct inflow *in) { return !in->part && in->head_len == 0; }
