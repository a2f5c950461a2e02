/* h2: bytes <-> frames <-> calls.
 *
 *   h2_feed ---> nghttp2_session_mem_recv ---> on_begin_headers, on_header, on_frame, on_data, on_stream_close ---> call_on_*
 *   h2_output <- nghttp2_session_mem_send <--- nghttp2_submit_* <--------------------------------------------- h2_send_message, h2_send_end
 *
 * Callbacks run inside mem_recv or mem_send, where nghttp2 allows submits but neither feeding nor sending nor deleting the session. So nothing here closes a
 * connection: a fatal error is remembered (error) and told by the return of h2_feed, or by h2_finished at the next flush.
 *
 * Bytes out: answers are not copied into nghttp2. The read callback only counts (NO_COPY); on_send_data then copies from the call's parts straight
 * into the connection's buffer. A reply is three frames (HEADERS, DATA, HEADERS) in one flush. An answer of many messages gives nghttp2 one at a time: between them its
 * data is deferred, and the call is told at the end of h2_output, outside of nghttp2, that the next one may come.
 *
 * Windows: automatic updates are off. The connection's window is opened as soon as bytes arrive (one held stream must not stop the others; what it can hold
 * back is bounded by its own window); a stream's window when call says h2_consume.
 *
 * Hostile peers: calm.h counts frame heads before nghttp2 sees the frames, and the resets that a peer provokes (CVE-2025-8671); h2_condemn is what follows: GOAWAY, and not a byte more
 * either way. nghttp2's own bounds (SETTINGS entries, CONTINUATION, acknowledgements unsent) are a second line. Memory is a counted heap with a cap; beyond it nghttp2 sees a
 * failed allocation and the connection ends. Slow peers: h2_sweep. SETTINGS_NO_RFC7540_PRIORITIES is not sent: with it, 1.52 frees a DATA item twice when the push onto its own
 * queue finds no memory (test_the_nth_allocation_fails finds it). A reset stream's call counts against the connection until its op is home (calls_max). */
#include "server/h2.h"

#include <nghttp2/nghttp2.h>

#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "server/core.h"
#include "server/heap.h"
#include "server/refused.h"
#include "server/throttle.h"

enum { FRAME_HEAD = 9, FRAME_BYTES_MAX = 16384, FRAME_BUFFER_BYTES = 16384, FRAME_ROOM = H2_OUTPUT_BYTES_MIN / 2, OUTBOUND_ACK_MAX = 128, SETTINGS_MAX = 32, INFLATE_TABLE_BYTES = 4096, HEADER_FIELD_BYTES = 32, HEADER_PATIENCE = 4, DEFLATE_TABLE_BYTES = 1024 };
static_assert(FRAME_ROOM >= 16384 + 9, "one frame of the default size fits");
/* A connection that moves so many times the least rate is not slow, however its peer shares it out among streams. */
enum { FAST_STREAMS = 16 };

/* What went through a connection one way, in pieces of grace_ns. */
struct flow {
    uint64_t bytes;
    bool fast; /* the last piece was */
};

struct h2 {
    struct core *core;
    nghttp2_mem mem; /* the inflater keeps a pointer to it */
    nghttp2_session *session;
    struct h2_limits limits;
    h2_on_output on_output;
    void (*watch)(void *owner, unsigned timeout_ms);
    void *owner;
    struct list calls; /* h2_stream.link; the open ones and those whose op is still away */
    uint32_t call_count, open_count, lasting_count; /* the third: of the open ones, those that stay (h2_lasts) */
    uint64_t requests, refused_count, principal;
    bool served;
    struct heap heap; /* the session's; its first large block is where it makes frames, one after the other, each copied out at once */
    struct list sent;   /* h2_stream.sent_link */
    struct writer *out_writer; /* while h2_output runs */
    const char *error;  /* the first fatal error: no more bytes */
    const char *ended;  /* what the peer was told by GOAWAY, when it was its fault */
    enum cut fault;     /* of either */
    bool draining, goaway_sent, condemned, over, spoke; /* condemned: the GOAWAY is on its way; over: it went; spoke: our SETTINGS went */
    /* Where frames begin in what comes in (h2_feed). */
    uint8_t frame_head[FRAME_HEAD];
    size_t head_len, pass_bytes, skip_bytes; /* of a head that is not whole; of the preface or a payload that goes on; of one that is left out */
    uint32_t last_id, passed_id;             /* the highest stream that HEADERS opened, and the highest one that the session knows of: between them are only refused ones */
    uint64_t frame_ns;                       /* when the frame or header block that is not whole began */
    /* The header block that comes in. */
    nghttp2_hd_inflater *inflater;
    bool in_block, block_trails, block_ends; /* between HEADERS and END_HEADERS; it is no request's; END_STREAM */
    bool part_last, part_padded, part_whole; /* this frame has END_HEADERS; its first byte says how much of its end is padding; its fields are read */
    uint32_t block_id, part_bytes, part_prefix, part_pad; /* of the frame: what is left; of that, before the block (padding's length, priority) and behind it */
    struct head head;
    struct refused refused;
    struct calm calm;
    struct throttle_peer throttle;
    struct flow in, out;
    uint64_t flow_ns, output_ns; /* when this piece of both began; when we could last write */
};

static enum cut fault_of(int rv) {
    if (rv == NGHTTP2_ERR_NOMEM) return CUT_CONNECTION_MEMORY;
    return rv == NGHTTP2_ERR_FLOODED ? CUT_CONTROL_FRAMES : CUT_PROTOCOL;
}
static void h2_set_error(struct h2 *h2, int rv) {
    if (!h2->error) h2->error = nghttp2_strerror(rv);
    if (!h2->fault) h2->fault = fault_of(rv);
    h2->on_output(h2->owner); /* the flush sees that it is finished */
}
/* nghttp2's return of a submit: what fails for lack of memory ends the connection. */
static void h2_check_submit(struct h2 *h2, int rv) {
    if (rv < 0 && nghttp2_is_fatal(rv)) h2_set_error(h2, rv);
    h2->on_output(h2->owner);
}

/* The peer is told, and that is all. */
static void h2_say_goodbye(struct h2 *h2, enum cut why, uint32_t code, const char *text) {
    if (h2->condemned || h2->error) return;
    h2->condemned = h2->goaway_sent = h2->draining = true;
    h2->fault = why;
    h2->ended = text;
    int32_t last = nghttp2_session_get_last_proc_stream_id(h2->session);
    h2_check_submit(h2, nghttp2_submit_goaway(h2->session, NGHTTP2_FLAG_NONE, last, code, (const uint8_t *)text, strlen(text)));
}
static void h2_condemn(struct h2 *h2, enum cut why) { h2_say_goodbye(h2, why, NGHTTP2_ENHANCE_YOUR_CALM, calm_text(why)); }
/* What it says is no HTTP/2. */
static void h2_break_off(struct h2 *h2, uint32_t code) { h2_say_goodbye(h2, CUT_PROTOCOL, code, nghttp2_http2_strerror(code)); }

/* ---- callbacks: in */
static struct h2_stream *stream_of(struct h2 *h2, int32_t id) {
    struct h2_stream *s = nghttp2_session_get_stream_user_data(h2->session, id);
    if (s) check(s->h2 == h2), check(s->id == id);
    return s;
}

static void stream_closed(struct h2_stream *s) {
    check(s->h2->open_count > 0);
    s->open = false;
    s->h2->open_count--;
    s->h2->lasting_count -= s->lasts;
}

static void h2_judge(struct h2 *h2, enum cut why) {
    if (why) h2_condemn(h2, why);
}

static int on_begin_headers_cb(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    struct h2 *h2 = user;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    struct h2_stream *s = h2->call_count < 2 * h2->limits.streams_max ? call_begin(h2->core) : NULL;
    if (!s) { /* REFUSED_STREAM says that nothing was done: clients retry elsewhere by themselves */
        int rv = nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_REFUSED_STREAM);
        return nghttp2_is_fatal(rv) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
    }
    s->h2 = h2;
    s->id = frame->hd.stream_id;
    s->open = true;
    s->begun_ns = h2->core->now_ns;
    s->timeout_ns = h2->head.timeout_ns;
    h2_wait(s, H2_WAIT_BYTES);
    list_push_back(&h2->calls, &s->link);
    h2->call_count++;
    if (h2->open_count++ == 0) h2->in = h2->out = (struct flow){0}, h2->flow_ns = h2->core->now_ns;
    check(nghttp2_session_set_stream_user_data(session, s->id, s) == 0);
    return 0;
}

static int on_frame_recv_cb(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    struct h2 *h2 = user;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    struct h2_stream *s = stream_of(h2, frame->hd.stream_id);
    if (!s) return 0;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        call_on_head(s, &h2->head);
        if (!(s = stream_of(h2, frame->hd.stream_id))) return 0; /* answered from its headers: the call is gone */
    }
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) call_on_half_close(s);
    return 0;
}

static int on_data_chunk_cb(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *user) {
    struct h2 *h2 = user;
    if (nghttp2_session_consume_connection(session, len)) return NGHTTP2_ERR_CALLBACK_FAILURE;
    h2->in.bytes += len;
    struct h2_stream *s = stream_of(h2, id);
    if (!s) return 0;
    s->progress_ns = h2->core->now_ns;
    s->rate_bytes += len;
    call_on_data(s, slice_of(data, len));
    return 0;
}

static int on_invalid_frame_cb(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user) {
    struct h2 *h2 = user;
    log_debug("http2 invalid frame", "stream=%d type=%u error=%s", frame->hd.stream_id, frame->hd.type, nghttp2_strerror(error));
    if (error == NGHTTP2_ERR_REFUSED_STREAM) return 0; /* sent before our SETTINGS were known: till then there is no limit (RFC 9113 section 6.5.2) */
    h2_judge(h2, calm_on_fault(&h2->calm, &h2->limits.calm, h2->core->now_ns));
    return 0;
}

static int on_stream_close_cb(nghttp2_session *session, int32_t id, uint32_t error_code, void *user) {
    struct h2 *h2 = user;
    struct h2_stream *s = stream_of(h2, id);
    if (!s) return 0;
    check(s->open);
    stream_closed(s);
    call_on_gone(s);
    return 0;
}

/* ---- callbacks: out */
static int on_frame_sent_cb(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    struct h2 *h2 = user;
    int rv = 0;
    if (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) calm_on_answer(&h2->calm, &h2->limits.calm);
    if (frame->hd.type == NGHTTP2_HEADERS && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
        /* Answered before the request was whole: tell the peer to stop sending (RFC 9113 section 8.1). */
        if (nghttp2_session_get_stream_remote_close(session, frame->hd.stream_id) == 0)
            rv = nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    } else if (frame->hd.type == NGHTTP2_RST_STREAM) {
        uint32_t code = frame->rst_stream.error_code;
        if (code != NGHTTP2_NO_ERROR && code != NGHTTP2_CANCEL && code != NGHTTP2_REFUSED_STREAM)
            h2_judge(h2, calm_on_fault(&h2->calm, &h2->limits.calm, h2->core->now_ns));
    } else if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) {
        h2->over = h2->condemned;
        if (!h2->ended) h2->ended = nghttp2_http2_strerror(frame->goaway.error_code);
        if (!h2->fault) h2->fault = frame->goaway.error_code == NGHTTP2_ENHANCE_YOUR_CALM ? CUT_RESETS : CUT_PROTOCOL;
        log_debug("http2 connection ended", "code=%s text=%.*s", nghttp2_http2_strerror(frame->goaway.error_code), (int)frame->goaway.opaque_data_len,
                 (const char *)frame->goaway.opaque_data);
    }
    return nghttp2_is_fatal(rv) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_frame_not_sent_cb(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user) {
    if (frame->hd.type != NGHTTP2_HEADERS || !nghttp2_session_find_stream(session, frame->hd.stream_id)) return 0;
    /* The header block could not be made; without it the stream would hang. */
    int rv = nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_INTERNAL_ERROR);
    return nghttp2_is_fatal(rv) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

#define FIELD(n, v) {(uint8_t *)(n), (uint8_t *)(v), sizeof(n) - 1, sizeof(v) - 1, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE}
static const nghttp2_nv reply_head[] = {FIELD(":status", "200"), FIELD("content-type", "application/grpc")};
static const nghttp2_nv reply_status = FIELD("grpc-status", "0");
#define NV_OF(f) ((nghttp2_nv){(uint8_t *)(f).name.data, (uint8_t *)(f).value.data, (f).name.len, (f).value.len, NGHTTP2_NV_FLAG_NONE})

static ssize_t read_cb(nghttp2_session *session, int32_t id, uint8_t *buf, size_t length, uint32_t *flags, nghttp2_data_source *source, void *user) {
    struct h2_stream *s = source->ptr;
    check(s->open);
    size_t n = MIN_OF(length, s->bytes_left);
    if (n == 0 && s->streaming) return NGHTTP2_ERR_DEFERRED;
    s->bytes_left -= n;
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (s->bytes_left == 0 && !s->streaming) {
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        nghttp2_nv nv[1 + H2_TRAILERS_MAX];
        nv[0] = reply_status;
        for (size_t i = 0; i < s->more_count; i++) nv[1 + i] = NV_OF(s->more[i]);
        int rv = nghttp2_submit_trailer(session, id, nv, 1 + s->more_count);
        if (rv) return nghttp2_is_fatal(rv) ? NGHTTP2_ERR_CALLBACK_FAILURE : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    return (ssize_t)n;
}

static void stream_copy_out(struct h2_stream *s, struct writer *w, size_t n) {
    while (n) {
        check(s->part_count > 0);
        size_t m = MIN_OF(n, s->parts->len - s->part_offset);
        if (m) write_bytes(w, s->parts->data + s->part_offset, m);
        n -= m;
        s->part_offset += m;
        if (s->part_offset == s->parts->len) s->parts++, s->part_count--, s->part_offset = 0;
    }
}

/* Leaves room for the frame that mem_send may return after this one. */
static int send_data_cb(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t length, nghttp2_data_source *source, void *user) {
    struct h2 *h2 = user;
    struct h2_stream *s = source->ptr;
    struct writer *w = h2->out_writer;
    check(w);
    if (w->cap - w->len < 9 + length + FRAME_ROOM) return NGHTTP2_ERR_WOULDBLOCK;
    check(frame->data.padlen == 0);
    write_bytes(w, head, 9);
    stream_copy_out(s, w, length);
    s->progress_ns = h2->core->now_ns;
    s->rate_bytes += length;
    h2->out.bytes += length;
    h2->served = true;
    if (s->streaming && s->bytes_left == 0 && list_empty(&s->sent_link)) list_push_back(&h2->sent, &s->sent_link);
    return 0;
}

/* ---- open and close */
static bool callbacks_new(nghttp2_session_callbacks **out) {
    nghttp2_session_callbacks *cbs;
    if (nghttp2_session_callbacks_new(&cbs)) return false;
    nghttp2_session_callbacks_set_on_begin_headers_callback(cbs, on_begin_headers_cb);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cbs, on_frame_recv_cb);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cbs, on_data_chunk_cb);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cbs, on_invalid_frame_cb);
    nghttp2_session_callbacks_set_on_stream_close_callback(cbs, on_stream_close_cb);
    nghttp2_session_callbacks_set_on_frame_send_callback(cbs, on_frame_sent_cb);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(cbs, on_frame_not_sent_cb);
    nghttp2_session_callbacks_set_send_data_callback(cbs, send_data_cb);
    *out = cbs;
    return true;
}

static bool options_new(const struct h2_limits *l, nghttp2_option **out) {
    if (nghttp2_option_new(out)) return false;
    nghttp2_option *o = *out;
    nghttp2_option_set_no_auto_window_update(o, 1);
    nghttp2_option_set_no_closed_streams(o, 1);
    nghttp2_option_set_max_settings(o, SETTINGS_MAX);
    nghttp2_option_set_max_outbound_ack(o, OUTBOUND_ACK_MAX);
    nghttp2_option_set_max_continuations(o, l->calm.continuations_max);
    nghttp2_option_set_max_deflate_dynamic_table_size(o, DEFLATE_TABLE_BYTES); /* what answers repeat is a dozen short fields */
    nghttp2_option_set_stream_reset_rate_limit(o, UINT32_MAX, UINT32_MAX); /* calm.h counts them, and knows which are in order */
    return true;
}

static bool session_open(struct h2 *h2) {
    nghttp2_session_callbacks *cbs = NULL;
    nghttp2_option *option = NULL;
    h2->heap = (struct heap){.bytes_max = h2->limits.memory_bytes_max, .frames_min = FRAME_BUFFER_BYTES};
    h2->mem = (nghttp2_mem){&h2->heap, heap_malloc_cb, heap_free_cb, heap_calloc_cb, heap_realloc_cb};
    bool ok = callbacks_new(&cbs) && options_new(&h2->limits, &option) && nghttp2_session_server_new3(&h2->session, cbs, h2, option, &h2->mem) == 0;
    nghttp2_session_callbacks_del(cbs);
    nghttp2_option_del(option);
    if (!ok) return h2->session = NULL, false;
    if (nghttp2_hd_inflate_new2(&h2->inflater, &h2->mem) != 0) return h2->inflater = NULL, false;
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, h2->limits.streams_max},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, h2->limits.stream_window_bytes},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, h2->limits.header_bytes_max},
        {NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, INFLATE_TABLE_BYTES},
    };
    return nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE, settings, ARRAY_LEN(settings)) == 0 &&
           nghttp2_session_set_local_window_size(h2->session, NGHTTP2_FLAG_NONE, 0, (int32_t)h2->limits.connection_window_bytes) == 0;
}

struct h2 *h2_new(struct core *core, const struct h2_limits *limits, h2_on_output on_output, void *owner) {
    struct h2 *h2 = mem_new(struct h2);
    if (!h2) return NULL;
    *h2 = (struct h2){.core = core, .limits = *limits, .on_output = on_output, .owner = owner, .pass_bytes = NGHTTP2_CLIENT_MAGIC_LEN, .flow_ns = core->now_ns,
                       .output_ns = core->now_ns};
    h2->limits.calm.streams_max = limits->streams_max;
    calm_init(&h2->calm, &h2->limits.calm, core->now_ns);
    list_init(&h2->calls);
    list_init(&h2->sent);
    if (!session_open(h2)) return h2_free(h2), NULL;
    on_output(owner);
    return h2;
}

void h2_set_watch(struct h2 *h2, void (*watch)(void *owner, unsigned timeout_ms)) { h2->watch = watch; }
void h2_watch_peer(struct h2 *h2, unsigned timeout_ms) {
    if (h2->watch) h2->watch(h2->owner, timeout_ms);
}

void h2_free(struct h2 *h2) {
    if (!h2) return;
    check(!h2->out_writer);
    for (struct list *l; (l = list_pop_front(&h2->calls));) {
        struct h2_stream *s = list_entry(l, struct h2_stream, link);
        bool was_open = s->open;
        s->open = false;
        s->h2 = NULL;
        list_remove(&s->sent_link);
        if (was_open) call_on_gone(s);
    }
    if (h2->session) nghttp2_session_del(h2->session);
    if (h2->inflater) nghttp2_hd_inflate_del(h2->inflater);
    check(h2->heap.bytes == 0);
    refused_fini(&h2->refused);
    mem_free(h2);
}

/* ---- bytes */
static void h2_receive(struct h2 *h2, const uint8_t *data, size_t len) {
    if (h2->error || h2->condemned || len == 0) return;
    ssize_t n = nghttp2_session_mem_recv(h2->session, data, len);
    if (n < 0 && !h2->condemned) h2_set_error(h2, (int)n);
}

/* ---- header blocks
 * They are inflated here, and of a request that is let in the session is told so much: the same stream, the same end, fields that any request has and that touch no table. So what is refused
 * from its head costs no stream, and the session's HPACK state has nothing to miss. */
static void pass_block(struct h2 *h2, const uint8_t *block, size_t len) {
    uint8_t frame[FRAME_HEAD + 64];
    struct writer w = writer_of(frame, sizeof frame);
    write_be32(&w, (uint32_t)len << 8 | NGHTTP2_HEADERS);
    write_u8(&w, NGHTTP2_FLAG_END_HEADERS | (h2->block_ends ? NGHTTP2_FLAG_END_STREAM : 0));
    write_be32(&w, h2->block_id);
    write_bytes(&w, block, len);
    check(!w.full);
    h2_receive(h2, frame, w.len);
}

/* RFC 7541, indices of the static table: POST, http, "/", an :authority of one letter, content-length (28: 15 + 13), accept-encoding. Of what is malformed the session says so itself: a field too
 * many, or a pseudo-header in trailers. */
static void pass_request(struct h2 *h2) {
    static const uint8_t fields[] = {0x83, 0x86, 0x84, 0x01, 0x01, 'a'};
    uint8_t block[48];
    struct writer w = writer_of(block, sizeof block);
    const struct head *head = &h2->head;
    write_bytes(&w, fields, sizeof fields);
    if (head->malformed) write_u8(&w, 0x83);
    else if (head->length_len) write_u8(&w, 0x0f), write_u8(&w, 13), write_u8(&w, head->length_len), write_bytes(&w, head->length, head->length_len);
    h2->passed_id = h2->block_id;
    pass_block(h2, block, w.len);
}
static void pass_trailers(struct h2 *h2) {
    static const uint8_t fine = 0x90, bad = 0x83;
    if (h2->block_ends) refused_end(&h2->refused, h2->block_id);
    if (h2->block_id <= h2->passed_id) pass_block(h2, h2->head.malformed ? &bad : &fine, 1);
}

static bool is_refused(struct h2 *h2) {
    struct slice block = h2->goaway_sent || h2->head.malformed ? (struct slice){0} : call_refuse(h2->core, &h2->head);
    if (!block.len) return false;
    switch (refused_add(&h2->refused, 2 * h2->limits.streams_max, h2->block_id, block, h2->block_ends)) {
    case REFUSED_ADDED: h2->refused_count++, h2->on_output(h2->owner); break;
    case REFUSED_TOO_MANY: h2_condemn(h2, CUT_CONNECTION_MEMORY); break; /* twice as many streams as it may have, and it does not read */
    case REFUSED_NO_MEMORY: h2_set_error(h2, NGHTTP2_ERR_NOMEM); break;
    }
    return true;
}

static void block_end(struct h2 *h2) {
    h2->in_block = false;
    if (h2->condemned || h2->error) return;
    if (h2->block_trails) return pass_trailers(h2);
    head_end(&h2->head);
    h2->requests++;
    if (!is_refused(h2)) pass_request(h2);
}

static void block_inflate(struct h2 *h2, const uint8_t *at, size_t len, bool last) {
    for (;;) {
        nghttp2_nv nv;
        int flags = 0;
        ssize_t n = nghttp2_hd_inflate_hd2(h2->inflater, &nv, &flags, at, len, last);
        if (n == NGHTTP2_ERR_NOMEM) return h2_set_error(h2, (int)n);
        if (n < 0) return h2_break_off(h2, NGHTTP2_COMPRESSION_ERROR);
        at += n, len -= (size_t)n;
        if (flags & NGHTTP2_HD_INFLATE_EMIT) {
            if (!h2->block_trails) head_on_field(&h2->head, slice_of(nv.name, nv.namelen), slice_of(nv.value, nv.valuelen));
            else h2->head.bytes += nv.namelen + nv.valuelen + HEADER_FIELD_BYTES, h2->head.malformed |= nv.namelen && nv.name[0] == ':'; /* a client's trailers say nothing to us */
            /* HPACK turns one byte into 4 KiB; past the limit call refuses the request, far past it the connection ends. */
            if (h2->head.bytes > (uint64_t)HEADER_PATIENCE * h2->limits.header_bytes_max) return h2_condemn(h2, CUT_HEADER_BYTES);
        }
        if (flags & NGHTTP2_HD_INFLATE_FINAL) return (void)nghttp2_hd_inflate_end_headers(h2->inflater);
        if (!(flags & NGHTTP2_HD_INFLATE_EMIT) && len == 0) return;
    }
}

/* A frame of a header block begins. */
static void part_begin(struct h2 *h2, uint8_t type, uint8_t flags, uint32_t id, uint32_t len) {
    bool first = type == NGHTTP2_HEADERS;
    h2->part_bytes = len;
    h2->part_last = flags & NGHTTP2_FLAG_END_HEADERS;
    h2->part_padded = first && flags & NGHTTP2_FLAG_PADDED;
    h2->part_prefix = (h2->part_padded ? 1 : 0) + (first && flags & NGHTTP2_FLAG_PRIORITY ? 5 : 0);
    h2->part_pad = 0;
    h2->part_whole = false;
    if (h2->part_prefix > len) return h2_break_off(h2, NGHTTP2_FRAME_SIZE_ERROR);
    h2->in_block = true;
    if (!first) return;
    h2->block_id = id;
    h2->block_ends = flags & NGHTTP2_FLAG_END_STREAM;
    h2->block_trails = id <= h2->last_id;
    h2->last_id = MAX_OF(h2->last_id, id);
    head_begin(&h2->head);
}

/* Takes what of these bytes is the frame's: prefix, block, padding. */
static size_t part_feed(struct h2 *h2, const uint8_t *at, size_t len) {
    size_t n = 0;
    for (; n < len && h2->part_prefix; n++, h2->part_prefix--, h2->part_bytes--) {
        if (h2->part_padded) h2->part_pad = at[n], h2->part_padded = false;
    }
    if (h2->part_prefix) return n;
    if (!h2->part_whole) {
        if (h2->part_pad > h2->part_bytes) return h2_break_off(h2, NGHTTP2_PROTOCOL_ERROR), n;
        size_t left = h2->part_bytes - h2->part_pad, block = MIN_OF(len - n, left);
        h2->part_whole = block == left;
        if (block || h2->part_whole) block_inflate(h2, at + n, block, h2->part_whole && h2->part_last);
        n += block, h2->part_bytes -= (uint32_t)block;
        if (!h2->part_whole) return n;
    }
    size_t pad = MIN_OF(len - n, (size_t)h2->part_bytes);
    h2->part_bytes -= (uint32_t)pad;
    return n + pad;
}

/* ---- frames */
enum fate { FRAME_PASSES, FRAME_IS_LEFT_OUT, FRAME_IS_BLOCK };

/* Of a stream that the session never heard of: refused, or not opened at all. gRPC's C core, and with it most languages' clients, resets a stream that it never opened when a call is
 * cancelled before its headers were written. RFC 9113 section 5.1 makes that an error of the connection, and nghttp2 would end all its calls for it. */
static bool is_nobodys(struct h2 *h2, uint8_t type, uint8_t flags, uint32_t id, uint32_t len) {
    bool refused = id > h2->passed_id && id <= h2->last_id && id % 2 == 1;
    switch (type) {
    case NGHTTP2_DATA:
        if (h2->refused.count && flags & NGHTTP2_FLAG_END_STREAM) refused_end(&h2->refused, id);
        if (refused) h2->refused.window_bytes += len, h2->in.bytes += len;
        return refused;
    case NGHTTP2_RST_STREAM:
        if (h2->refused.count) refused_reset(&h2->refused, id);
        return len == 4 && (refused || (id > h2->last_id && id % 2 == 1));
    case NGHTTP2_WINDOW_UPDATE: return len == 4 && refused;
    case NGHTTP2_SETTINGS: return flags & NGHTTP2_FLAG_ACK && id == 0 && len == 0 && throttle_on_ack(&h2->throttle);
    default: return false;
    }
}

static enum cut reset_begin(struct h2 *h2, uint32_t id) {
    const struct h2_stream *s = stream_of(h2, (int32_t)id);
    uint64_t now = h2->core->now_ns;
    if (s) return calm_on_reset(&h2->calm, &h2->limits.calm, now, now - s->begun_ns, s->timeout_ns);
    bool was = id % 2 == 1 && id <= h2->last_id;
    return was ? calm_on_late_reset(&h2->calm, &h2->limits.calm, now) : calm_on_fault(&h2->calm, &h2->limits.calm, now);
}

/* A frame head: counted, and looked at. */
static enum fate frame_begin(struct h2 *h2, const uint8_t *head) {
    uint32_t len = get_be32(head) >> 8, id = get_be32(head + 5) & INT32_MAX;
    uint8_t type = head[3], flags = head[4];
    uint64_t now = h2->core->now_ns;
    h2_judge(h2, type == NGHTTP2_RST_STREAM ? reset_begin(h2, id) : calm_on_frame(&h2->calm, &h2->limits.calm, now, type, flags, len));
    if (!h2->in_block) h2->frame_ns = now;
    if (h2->in_block != (type == NGHTTP2_CONTINUATION) || (h2->in_block && id != h2->block_id)) return h2_break_off(h2, NGHTTP2_PROTOCOL_ERROR), FRAME_IS_LEFT_OUT;
    h2->pass_bytes = len;
    if (len > FRAME_BYTES_MAX) return FRAME_PASSES; /* the session says what is to be said */
    if (type == NGHTTP2_CONTINUATION || (type == NGHTTP2_HEADERS && id % 2 == 1)) return part_begin(h2, type, flags, id, len), h2->pass_bytes = 0, FRAME_IS_BLOCK;
    if (!is_nobodys(h2, type, flags, id, len)) return FRAME_PASSES;
    h2->pass_bytes = 0;
    h2->skip_bytes = len;
    return FRAME_IS_LEFT_OUT;
}

/* Hands nghttp2 the longest runs that it can: all of the bytes, but for header blocks, frames that are left out, and a head that is not whole yet. */
bool h2_feed(struct h2 *h2, struct slice bytes) {
    const uint8_t *at = bytes.data, *end = at + bytes.len, *run = at;
    bool block = h2->in_block && h2->part_bytes;
    while (at < end && !h2->condemned && !h2->error) {
        size_t left = (size_t)(end - at), n;
        if (h2->skip_bytes) {
            n = MIN_OF(left, h2->skip_bytes);
            h2->skip_bytes -= n;
            at += n, run = at;
        } else if (h2->pass_bytes) {
            n = MIN_OF(left, h2->pass_bytes);
            h2->pass_bytes -= n;
            at += n;
        } else if (block) {
            at += part_feed(h2, at, left), run = at;
            block = h2->part_bytes;
            if (!block && h2->part_last) block_end(h2);
        } else {
            uint8_t *head = h2->head_len || left < FRAME_HEAD ? h2->frame_head : NULL;
            const uint8_t *begin = at;
            if (head) {
                n = MIN_OF(left, FRAME_HEAD - h2->head_len);
                h2_receive(h2, run, (size_t)(at - run));
                if (!h2->head_len && !h2->in_block) h2->frame_ns = h2->core->now_ns;
                memcpy(head + h2->head_len, at, n);
                h2->head_len += n;
                at += n, run = at;
                if (h2->head_len < FRAME_HEAD) break;
                h2->head_len = 0;
            } else {
                at += FRAME_HEAD;
            }
            enum fate fate = frame_begin(h2, head ? head : begin);
            if (fate == FRAME_PASSES) {
                if (head) h2_receive(h2, head, FRAME_HEAD);
                continue;
            }
            if (!head) h2_receive(h2, run, (size_t)(begin - run));
            run = at;
            block = fate == FRAME_IS_BLOCK;
            if (block && h2->part_bytes == 0) { /* an empty frame: nothing comes that would end it */
                block = false;
                (void)part_feed(h2, at, 0);
                if (h2->part_last) block_end(h2);
            }
        }
    }
    h2_receive(h2, run, (size_t)(at - run));
    if (nghttp2_session_want_write(h2->session)) h2->on_output(h2->owner);
    return !h2->error && !h2->condemned;
}

uint64_t h2_frame_begun_ns(const struct h2 *h2) { return h2->head_len || h2->skip_bytes || h2->in_block || (h2->pass_bytes && h2->frame_ns) ? h2->frame_ns : 0; }

void h2_output(struct h2 *h2, struct writer *w) {
    check(w->cap - w->len >= H2_OUTPUT_BYTES_MIN);
    h2->out_writer = w;
    h2->output_ns = h2->core->now_ns;
    /* Our SETTINGS are to be the first frame. A quarter of the room at first, and what the answers leave. */
    if (h2->spoke && !h2->condemned) refused_write(&h2->refused, w, (w->cap - w->len) / 4);
    while (w->cap - w->len >= FRAME_ROOM && !h2->over) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(h2->session, &data);
        if (n < 0) h2_set_error(h2, (int)n);
        if (n <= 0) break;
        write_bytes(w, data, (size_t)n);
        h2->spoke = true;
    }
    if (h2->spoke && !h2->condemned) {
        if (refused_window_due(&h2->refused, h2->limits.connection_window_bytes)) refused_write_window(&h2->refused, w);
        refused_write(&h2->refused, w, w->cap - w->len);
        if (h2->core->streams_told) throttle_write(&h2->throttle, h2->core->streams_told + h2->lasting_count, h2->limits.streams_max, h2->open_count, w);
    }
    check(!w->full);
    h2->out_writer = NULL;
    for (struct list *l; (l = list_pop_front(&h2->sent));) {
        struct h2_stream *s = list_entry(l, struct h2_stream, sent_link);
        h2_wait(s, H2_WAIT_NOT);
        if (s->open) call_on_sent(s);
    }
}

static bool refused_wait(const struct h2 *h2) {
    return !h2->condemned && (h2->refused.count || refused_window_due(&h2->refused, h2->limits.connection_window_bytes));
}
bool h2_wants_output(const struct h2 *h2) { return !h2->over && (nghttp2_session_want_write(h2->session) != 0 || refused_wait(h2)); }
/* want_read falls when GOAWAY was sent or received and no stream is left. */
bool h2_finished(const struct h2 *h2) {
    return h2->error || h2->over || (!refused_wait(h2) && !nghttp2_session_want_read(h2->session) && !nghttp2_session_want_write(h2->session));
}
enum cut h2_fault(const struct h2 *h2) { return h2->fault; }
const char *h2_error(const struct h2 *h2) { return h2->error ? h2->error : h2->ended; }
uint32_t h2_open_streams(const struct h2 *h2) { return h2->open_count; }
void h2_set_principal(struct h2 *h2, uint64_t principal) { h2->principal = principal; }
uint64_t h2_principal(const struct h2 *h2) { return h2->principal; }
uint64_t h2_refused(const struct h2 *h2) { return h2->refused_count; }
bool h2_served(const struct h2 *h2) { return h2->served; }
uint64_t h2_requests(const struct h2 *h2) { return h2->requests; }
size_t h2_memory_bytes(const struct h2 *h2) { return sizeof *h2 + h2->heap.bytes + refused_memory_bytes(&h2->refused); }

void h2_drain_notice(struct h2 *h2) {
    if (h2->draining) return;
    h2->draining = true;
    h2_check_submit(h2, nghttp2_submit_shutdown_notice(h2->session));
}

void h2_drain_final(struct h2 *h2) {
    if (h2->goaway_sent) return;
    h2->draining = h2->goaway_sent = true;
    int32_t last = nghttp2_session_get_last_proc_stream_id(h2->session);
    h2_check_submit(h2, nghttp2_submit_goaway(h2->session, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, NULL, 0));
}

/* A page of the frame buffer is a quarter of what an idle connection holds. */
void h2_rest(struct h2 *h2) {
    if (h2->heap.frames && h2->open_count == 0 && !h2_wants_output(h2)) mem_discard(h2->heap.frames);
    refused_rest(&h2->refused);
}

void h2_ping(struct h2 *h2) { h2_check_submit(h2, nghttp2_submit_ping(h2->session, NGHTTP2_FLAG_NONE, NULL)); }

/* ---- slow peers
 * Bytes are counted in pieces of grace_ns, so a peer that was fast once can't live on it. Not slow is a stream on a connection that is fast as a whole (its peer serves other streams first), and
 * an answer while the socket takes nothing at all: that is conn's to judge. */
static uint64_t bytes_due(const struct h2 *h2, uint64_t since_ns) { return (h2->core->now_ns - since_ns) / NS_PER_MS * h2->limits.bytes_per_s_min / 1000; }

static enum cut stream_slow(struct h2 *h2, struct h2_stream *s) {
    const struct h2_limits *l = &h2->limits;
    uint64_t now = h2->core->now_ns;
    if (!s->open || s->waits == H2_WAIT_NOT) return CUT_NONE;
    if (now > s->progress_ns && now - s->progress_ns > l->stall_ns) return CUT_STALLED;
    if (s->waits == H2_WAIT_PEER) return CUT_NONE;
    if (now - s->waits_ns > l->transfer_ns) return CUT_TRANSFER_LATE;
    if (now - s->rate_ns < l->grace_ns || (s->going_out && h2->output_ns < s->rate_ns)) return CUT_NONE;
    const struct flow *flow = s->going_out ? &h2->out : &h2->in;
    if (s->rate_bytes < bytes_due(h2, s->rate_ns) && !flow->fast) return s->going_out ? CUT_SLOW_ANSWER : CUT_SLOW_REQUEST;
    s->rate_ns = now;
    s->rate_bytes = 0;
    return CUT_NONE;
}

enum cut h2_sweep(struct h2 *h2) {
    enum cut last = CUT_NONE;
    if (h2->core->now_ns - h2->flow_ns >= h2->limits.grace_ns) {
        uint64_t fast = FAST_STREAMS * bytes_due(h2, h2->flow_ns);
        h2->in = (struct flow){.fast = h2->in.bytes >= fast};
        h2->out = (struct flow){.fast = h2->out.bytes >= fast};
        h2->flow_ns = h2->core->now_ns;
    }
    list_each(l, &h2->calls) {
        struct h2_stream *s = list_entry(l, struct h2_stream, link);
        enum cut why = stream_slow(h2, s);
        if (!why) continue;
        metric_cut(&h2->core->metrics, last = why);
        h2_reset(s, H2_RESET_CANCEL);
    }
    return last;
}

void h2_lasts(struct h2_stream *s) {
    if (!s->open || s->lasts) return;
    s->lasts = true;
    s->h2->lasting_count++;
}

void h2_wait(struct h2_stream *s, enum h2_wait what) {
    if (s->waits == what) return;
    s->waits = what;
    s->waits_ns = s->progress_ns = s->rate_ns = s->h2 ? s->h2->core->now_ns : 0;
    s->rate_bytes = 0;
}

/* ---- streams */
static void stream_give_parts(struct h2_stream *s, const struct slice *parts, size_t count) {
    if (count <= ARRAY_LEN(s->parts_inline)) {
        for (size_t i = 0; i < count; i++) s->parts_inline[i] = parts[i];
        parts = s->parts_inline;
    }
    s->parts = parts;
    s->part_count = count;
    s->part_offset = 0;
    s->bytes_left = 0;
    for (size_t i = 0; i < count; i++) s->bytes_left += parts[i].len;
    s->waits = H2_WAIT_NOT;
    s->going_out = true;
    h2_wait(s, H2_WAIT_BYTES);
}

static void stream_begin_answer(struct h2_stream *s) {
    nghttp2_data_provider provider = {.source.ptr = s, .read_callback = read_cb};
    h2_check_submit(s->h2, nghttp2_submit_response(s->h2->session, s->id, reply_head, ARRAY_LEN(reply_head), &provider));
}

void h2_send_message(struct h2_stream *s, const struct slice *parts, size_t count) {
    if (!s->open) return;
    check(!s->streaming);
    stream_give_parts(s, parts, count);
    stream_begin_answer(s);
}

void h2_send_part(struct h2_stream *s, const struct slice *parts, size_t count) {
    if (!s->open) return;
    check(s->bytes_left == 0);
    bool first = !s->streaming;
    s->streaming = true;
    stream_give_parts(s, parts, count);
    check(s->bytes_left > 0);
    if (first) return stream_begin_answer(s);
    int rv = nghttp2_session_resume_data(s->h2->session, s->id); /* not deferred: it is read anyway */
    h2_check_submit(s->h2, rv == NGHTTP2_ERR_INVALID_ARGUMENT ? 0 : rv);
}

void h2_send_end(struct h2_stream *s, const struct h2_field *fields, size_t count) {
    check(count <= H2_FIELDS_MAX);
    if (!s->open) return;
    nghttp2_nv nv[H2_FIELDS_MAX];
    for (size_t i = 0; i < count; i++) nv[i] = NV_OF(fields[i]);
    s->waits = H2_WAIT_NOT;
    s->going_out = true;
    h2_wait(s, H2_WAIT_BYTES);
    /* Header blocks overtake data: trailers only behind a message that went out whole. */
    check(!s->streaming || s->bytes_left == 0);
    h2_check_submit(s->h2, s->streaming ? nghttp2_submit_trailer(s->h2->session, s->id, nv, count) : nghttp2_submit_response(s->h2->session, s->id, nv, count, NULL));
}

void h2_reset(struct h2_stream *s, enum h2_reset why) {
    static const uint32_t codes[] = {[H2_RESET_CANCEL] = NGHTTP2_CANCEL, [H2_RESET_REFUSED] = NGHTTP2_REFUSED_STREAM, [H2_RESET_INTERNAL] = NGHTTP2_INTERNAL_ERROR};
    if (!s->open) return;
    h2_wait(s, H2_WAIT_NOT);
    h2_check_submit(s->h2, nghttp2_submit_rst_stream(s->h2->session, NGHTTP2_FLAG_NONE, s->id, codes[why]));
}

void h2_on_unreadable(struct h2_stream *s, uint64_t bytes) {
    struct h2 *h2 = s->h2;
    if (h2) h2_judge(h2, calm_on_unreadable(&h2->calm, &h2->limits.calm, h2->core->now_ns, bytes));
}

void h2_consume(struct h2_stream *s, size_t n) {
    if (!s->open || n == 0) return;
    h2_check_submit(s->h2, nghttp2_session_consume_stream(s->h2->session, s->id, n));
}

void h2_forget(struct h2_stream *s) {
    if (!s->open) return;
    check(nghttp2_session_set_stream_user_data(s->h2->session, s->id, NULL) == 0);
    stream_closed(s);
    h2_wait(s, H2_WAIT_NOT);
}

void h2_stream_end(struct h2_stream *s) {
    check(!s->open);
    if (!s->h2) return;
    list_remove(&s->link);
    list_remove(&s->sent_link);
    check(s->h2->call_count > 0);
    s->h2->call_count--;
    s->h2 = NULL;
}

const char *h2_library_version(void) {
    const nghttp2_info *info = nghttp2_version(0x013400);
    return info ? info->version_str : NULL;
}
