/* Members of a group as bytes, and as questions. */
#include "engine/group_core.h"

bool group_members_valid(const struct group_members *m) {
    unsigned voters = 0;
    if (m->count < 1 || m->count > GROUP_MEMBERS_MAX) return false;
    for (uint32_t i = 0; i < m->count; i++) {
        if (m->member[i].node_id == 0 || m->member[i].kind < GROUP_VOTER || m->member[i].kind > GROUP_SPARE) return false;
        voters += m->member[i].kind == GROUP_VOTER;
        for (uint32_t j = 0; j < i; j++)
            if (m->member[j].node_id == m->member[i].node_id) return false;
    }
    return voters > 0;
}

enum { MEMBERS_FORMAT = 1 };

size_t group_members_encode(const struct group_members *m, uint8_t *out, size_t cap) {
    struct writer w = writer_of(out, cap);
    write_u8(&w, MEMBERS_FORMAT), write_u8(&w, (uint8_t)m->count), write_le64(&w, m->index);
    for (uint32_t i = 0; i < m->count; i++) write_le64(&w, m->member[i].node_id), write_u8(&w, m->member[i].kind);
    return w.full ? 0 : w.len;
}

bool group_members_decode(struct slice s, struct group_members *out) {
    struct reader r = reader_of(s);
    struct group_members m = {0};
    if (read_u8(&r) != MEMBERS_FORMAT) return false;
    m.count = read_u8(&r), m.index = read_le64(&r);
    if (m.count > GROUP_MEMBERS_MAX) return false;
    for (uint32_t i = 0; i < m.count; i++) m.member[i].node_id = read_le64(&r), m.member[i].kind = read_u8(&r);
    if (r.bad || reader_left(&r) != 0 || m.index > PEER_NUMBER_MAX || !group_members_valid(&m)) return false;
    *out = m;
    return true;
}

uint8_t group_member_kind(const struct group_members *m, uint64_t node_id) {
    for (uint32_t i = 0; i < m->count; i++)
        if (m->member[i].node_id == node_id) return m->member[i].kind;
    return 0;
}

unsigned group_members_voters(const struct group_members *m) {
    unsigned n = 0;
    for (uint32_t i = 0; i < m->count; i++) n += m->member[i].kind == GROUP_VOTER;
    return n;
}
