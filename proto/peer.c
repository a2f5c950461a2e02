#include "proto/peer.h"

#include "proto/base/hash.h"

static const uint8_t magic[4] = {'O', 'D', 'P', 'M'};
enum { OFFSET_CRC = 12, OFFSET_AFTER_CRC = 16, OFFSET_LENGTH = 8 };
enum { VOTE_PRE = 1, VOTE_DISRUPT = 2, RESULT_PRE = 1, RESULT_GRANTED = 2 };

/* ---- encoding */

size_t peer_encoded_bytes(const struct peer_message *m) {
    size_t n = PEER_HEAD_BYTES;
    switch (m->kind) {
    case PEER_VOTE: n += 24; break;
    case PEER_VOTE_RESULT: n += 8; break;
    case PEER_APPEND:
        n += 32;
        for (uint32_t i = 0; i < m->append.count; i++) n += PEER_ENTRY_HEAD_BYTES + m->append.entries[i].data.len;
        break;
    case PEER_APPEND_RESULT: n += 16; break;
    case PEER_SNAPSHOT: n += 32 + m->snapshot.members.len; break;
    case PEER_TIMEOUT_NOW: n += 16; break;
    case PEER_FETCH: n += 24; break;
    case PEER_CHUNK: n += 32 + m->chunk.data.len; break;
    case PEER_RETURN: n += 16; break;
    case PEER_RETURNED: n += 32; break;
    case PEER_CONFIRM:
    case PEER_CONFIRMED:
    case PEER_HOW_FAR:
    case PEER_SO_FAR: n += 8 + m->round.places.len; break;
    }
    return n <= PEER_FRAME_BYTES_MAX ? n : 0;
}

static void encode_flags(struct writer *w, uint8_t flags) {
    static const uint8_t zero[7] = {0};
    write_u8(w, flags), write_bytes(w, zero, sizeof zero);
}

static void encode_append(struct writer *w, const struct peer_message *m) {
    static const uint8_t zero[3] = {0};
    write_le64(w, m->append.prev_index), write_le64(w, m->append.prev_term), write_le64(w, m->append.commit);
    write_le32(w, m->append.count), write_le32(w, 0);
    for (uint32_t i = 0; i < m->append.count; i++) {
        const struct peer_entry *e = &m->append.entries[i];
        write_le64(w, e->term), write_le32(w, (uint32_t)e->data.len), write_u8(w, e->type), write_bytes(w, zero, sizeof zero);
        write_slice(w, e->data);
    }
}

void peer_place_put(uint8_t out[PEER_PLACE_BYTES], struct peer_place place) { put_le64(out, place.group), put_le64(out + 8, place.term), put_le64(out + 16, place.index); }
struct peer_place peer_place_at(const struct peer_message *m, size_t i) {
    const uint8_t *at = m->round.places.data + i * PEER_PLACE_BYTES;
    return (struct peer_place){get_le64(at), get_le64(at + 8), get_le64(at + 16)};
}

static void encode_body(struct writer *w, const struct peer_message *m) {
    switch (m->kind) {
    case PEER_VOTE:
        write_le64(w, m->vote.last_index), write_le64(w, m->vote.last_term);
        encode_flags(w, (uint8_t)((m->vote.pre_vote ? VOTE_PRE : 0) | (m->vote.disrupt ? VOTE_DISRUPT : 0)));
        break;
    case PEER_VOTE_RESULT:
        encode_flags(w, (uint8_t)((m->vote_result.pre_vote ? RESULT_PRE : 0) | (m->vote_result.granted ? RESULT_GRANTED : 0)));
        break;
    case PEER_APPEND: encode_append(w, m); break;
    case PEER_APPEND_RESULT: write_le64(w, m->append_result.rejected), write_le64(w, m->append_result.last_index); break;
    case PEER_SNAPSHOT:
        write_le64(w, m->snapshot.index), write_le64(w, m->snapshot.index_term), write_le64(w, m->snapshot.members_index);
        write_le32(w, (uint32_t)m->snapshot.members.len), write_le32(w, 0), write_slice(w, m->snapshot.members);
        break;
    case PEER_TIMEOUT_NOW: write_le64(w, m->timeout_now.last_index), write_le64(w, m->timeout_now.last_term); break;
    case PEER_FETCH: write_le64(w, m->fetch.session), write_le64(w, m->fetch.offset), write_le32(w, m->fetch.bytes), write_le32(w, 0); break;
    case PEER_CHUNK:
        write_le64(w, m->chunk.session), write_le64(w, m->chunk.total), write_le64(w, m->chunk.offset);
        write_le32(w, (uint32_t)m->chunk.data.len), write_le32(w, (uint32_t)m->chunk.state), write_slice(w, m->chunk.data);
        break;
    case PEER_RETURN: write_le64(w, m->back.nonce), write_le64(w, m->back.last_index); break;
    case PEER_RETURNED:
        write_le64(w, m->returned.nonce), write_le64(w, m->returned.last_index);
        write_u8(w, (uint8_t)m->returned.phase), write_u8(w, m->returned.leads), write_le16(w, 0), write_le32(w, 0);
        write_le64(w, m->returned.members_index);
        break;
    case PEER_CONFIRM:
    case PEER_CONFIRMED:
    case PEER_HOW_FAR:
    case PEER_SO_FAR: write_le64(w, m->round.round), write_slice(w, m->round.places); break;
    }
}

static uint32_t frame_crc(struct slice frame) {
    uint32_t crc = crc32c(0, frame.data, OFFSET_CRC);
    return crc32c(crc, frame.data + OFFSET_AFTER_CRC, frame.len - OFFSET_AFTER_CRC);
}

bool peer_encode(const struct peer_message *m, struct writer *w) {
    size_t n = peer_encoded_bytes(m), start = w->len;
    if (n == 0 || w->full || n > w->cap - w->len) return false;
    write_bytes(w, magic, sizeof magic), write_u8(w, PEER_FORMAT), write_u8(w, (uint8_t)m->kind), write_le16(w, 0);
    write_le32(w, (uint32_t)n), write_le32(w, 0);
    write_le64(w, m->group), write_le64(w, m->from), write_le64(w, m->to), write_le64(w, m->term);
    encode_body(w, m);
    check(!w->full);
    check(w->len - start == n);
    put_le32(w->data + start + OFFSET_CRC, frame_crc(slice_of(w->data + start, n)));
    return true;
}

/* ---- decoding */

static bool number_ok(uint64_t v) { return v >= 1 && v <= PEER_NUMBER_MAX; }
static bool number_or_zero_ok(uint64_t v) { return v <= PEER_NUMBER_MAX; }

static bool read_zeros(struct reader *r, size_t n) {
    struct slice s = read_bytes(r, n);
    for (size_t i = 0; i < s.len; i++)
        if (s.data[i] != 0) return false;
    return true;
}

static bool decode_flags(struct reader *r, uint8_t *flags) {
    *flags = read_u8(r);
    return read_zeros(r, 7) && (*flags & ~3u) == 0;
}

static bool decode_append(struct reader *r, struct peer_message *m, struct peer_entry *entries) {
    m->append.prev_index = read_le64(r), m->append.prev_term = read_le64(r), m->append.commit = read_le64(r);
    m->append.count = read_le32(r), m->append.entries = entries;
    if (!read_zeros(r, 4) || r->bad || m->append.count > PEER_ENTRIES_MAX) return false;
    /* No group has anything before its synthetic snapshot, so nothing is ever appended after index 0. */
    if (!number_ok(m->append.prev_index) || !number_ok(m->append.prev_term) || !number_or_zero_ok(m->append.commit)) return false;
    if (m->append.prev_term > m->term || m->append.prev_index > PEER_NUMBER_MAX - PEER_ENTRIES_MAX) return false;
    uint64_t term = m->append.prev_term;
    for (uint32_t i = 0; i < m->append.count; i++) {
        struct peer_entry *e = &entries[i];
        e->term = read_le64(r);
        uint32_t len = read_le32(r);
        e->type = read_u8(r);
        if (!read_zeros(r, 3) || len > PEER_ENTRY_BYTES_MAX) return false;
        e->data = read_bytes(r, len);
        if (r->bad || e->term < term || e->term > m->term || e->type < 1 || e->type > PEER_TYPE_MEMBERS) return false;
        /* libraft gives a membership entry the index of the first new entry of its message (replication.c:848): it must be alone. */
        if (e->type == PEER_TYPE_MEMBERS && m->append.count != 1) return false;
        term = e->term;
    }
    return true;
}

static bool decode_chunk(struct reader *r, struct peer_message *m) {
    m->chunk.session = read_le64(r), m->chunk.total = read_le64(r), m->chunk.offset = read_le64(r);
    uint32_t len = read_le32(r), state = read_le32(r);
    if (r->bad || len > PEER_CHUNK_BYTES_MAX || state < PEER_CHUNK_DATA || state > PEER_CHUNK_GONE) return false;
    m->chunk.data = read_bytes(r, len), m->chunk.state = (enum peer_chunk_state)state;
    if (state != PEER_CHUNK_DATA) return len == 0 && m->chunk.total == 0;
    return number_ok(m->chunk.session) && number_ok(m->chunk.total) && number_or_zero_ok(m->chunk.offset) && len > 0 && m->chunk.offset + len <= m->chunk.total;
}

static bool decode_round(struct reader *r, struct peer_message *m) {
    m->round.round = read_le64(r);
    if (r->bad || !number_ok(m->round.round) || reader_left(r) % PEER_PLACE_BYTES != 0) return false;
    m->round.places = read_bytes(r, reader_left(r));
    size_t n = peer_places_count(m);
    if (m->group != 0 || m->term != 0 || n < 1 || n > PEER_PLACES_MAX) return false;
    for (size_t i = 0; i < n; i++) {
        struct peer_place at = peer_place_at(m, i);
        if (at.group == 0 || !number_ok(at.term) || (m->kind == PEER_SO_FAR ? !number_ok(at.index) : at.index != 0)) return false;
    }
    return true;
}

static bool decode_body(struct reader *r, struct peer_message *m, struct peer_entry *entries) {
    uint8_t flags;
    switch (m->kind) {
    case PEER_VOTE:
        m->vote.last_index = read_le64(r), m->vote.last_term = read_le64(r);
        if (!decode_flags(r, &flags)) return false;
        m->vote.pre_vote = flags & VOTE_PRE, m->vote.disrupt = flags & VOTE_DISRUPT;
        return number_ok(m->vote.last_index) && number_ok(m->vote.last_term) && m->vote.last_term <= m->term;
    case PEER_VOTE_RESULT:
        if (!decode_flags(r, &flags)) return false;
        m->vote_result.pre_vote = flags & RESULT_PRE, m->vote_result.granted = flags & RESULT_GRANTED;
        return true;
    case PEER_APPEND: return decode_append(r, m, entries);
    case PEER_APPEND_RESULT:
        m->append_result.rejected = read_le64(r), m->append_result.last_index = read_le64(r);
        return number_or_zero_ok(m->append_result.rejected) && number_or_zero_ok(m->append_result.last_index);
    case PEER_SNAPSHOT: {
        m->snapshot.index = read_le64(r), m->snapshot.index_term = read_le64(r), m->snapshot.members_index = read_le64(r);
        uint32_t len = read_le32(r);
        if (!read_zeros(r, 4) || len > PEER_MEMBERS_BYTES_MAX) return false;
        m->snapshot.members = read_bytes(r, len);
        return number_ok(m->snapshot.index) && number_ok(m->snapshot.index_term) && m->snapshot.index_term <= m->term &&
               number_ok(m->snapshot.members_index) && m->snapshot.members_index <= m->snapshot.index;
    }
    case PEER_TIMEOUT_NOW:
        m->timeout_now.last_index = read_le64(r), m->timeout_now.last_term = read_le64(r);
        return number_ok(m->timeout_now.last_index) && number_ok(m->timeout_now.last_term) && m->timeout_now.last_term <= m->term;
    case PEER_FETCH:
        m->fetch.session = read_le64(r), m->fetch.offset = read_le64(r), m->fetch.bytes = read_le32(r);
        return read_zeros(r, 4) && number_or_zero_ok(m->fetch.session) && number_or_zero_ok(m->fetch.offset) && m->fetch.bytes >= 1 && m->fetch.bytes <= PEER_CHUNK_BYTES_MAX;
    case PEER_CHUNK: return decode_chunk(r, m);
    case PEER_RETURN: m->back.nonce = read_le64(r), m->back.last_index = read_le64(r); return number_or_zero_ok(m->back.last_index);
    case PEER_RETURNED: {
        m->returned.nonce = read_le64(r), m->returned.last_index = read_le64(r);
        uint8_t phase = read_u8(r), leads = read_u8(r);
        m->returned.phase = (enum peer_phase)phase, m->returned.leads = leads;
        if (!read_zeros(r, 6)) return false;
        m->returned.members_index = read_le64(r);
        return number_ok(m->returned.members_index) && number_or_zero_ok(m->returned.last_index) && phase >= PEER_FRESH && phase <= PEER_GONE && leads <= 1 && (!leads || phase == PEER_ACTING);
    }
    case PEER_CONFIRM:
    case PEER_CONFIRMED:
    case PEER_HOW_FAR:
    case PEER_SO_FAR: return decode_round(r, m);
    }
    return false;
}

enum status peer_frame_length(struct slice start, uint32_t *length) {
    if (start.len < OFFSET_CRC) return STATUS_WOULD_BLOCK;
    if (memcmp(start.data, magic, sizeof magic) != 0) return STATUS_FIELD_INVALID;
    if (start.data[4] != PEER_FORMAT) return STATUS_FORMAT_UNKNOWN;
    *length = get_le32(start.data + OFFSET_LENGTH);
    return *length >= PEER_HEAD_BYTES && *length <= PEER_FRAME_BYTES_MAX ? STATUS_OK : STATUS_FIELD_INVALID;
}

enum status peer_decode(struct slice frame, struct peer_message *out, struct peer_entry *entries) {
    uint32_t length;
    enum status st = peer_frame_length(frame, &length);
    if (st == STATUS_WOULD_BLOCK || (st == STATUS_OK && length != frame.len)) return STATUS_FIELD_INVALID;
    if (st) return st;
    if (get_le32(frame.data + OFFSET_CRC) != frame_crc(frame)) return STATUS_CHECKSUM_MISMATCH;
    if (get_le16(frame.data + 6) != 0) return STATUS_FIELD_INVALID;
    *out = (struct peer_message){.kind = (enum peer_kind)frame.data[5]};
    struct reader r = reader_of(slice_of(frame.data + OFFSET_AFTER_CRC, frame.len - OFFSET_AFTER_CRC));
    out->group = read_le64(&r), out->from = read_le64(&r), out->to = read_le64(&r), out->term = read_le64(&r);
    if (out->from == 0 || out->to == 0 || out->from == out->to) return STATUS_FIELD_INVALID;
    if (!number_ok(out->term) && out->kind < PEER_CONFIRM) return STATUS_FIELD_INVALID;
    if (!decode_body(&r, out, entries) || r.bad || reader_left(&r) != 0) return STATUS_FIELD_INVALID;
    return STATUS_OK;
}
