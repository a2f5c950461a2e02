#include "engine/placement.h"

#include "proto/base/hash.h"

struct candidate {
    uint64_t node_id;
    unsigned zone; /* a number for its name */
    bool alive, may_lead, near; /* UP or DRAINING; UP; of lead_zone */
    uint32_t load, leads;
};
struct map {
    struct candidate node[GROUP_MEMBERS_MAX]; /* by ascending id */
    unsigned count, alive, replicas;          /* replicas: of each partition */
    uint32_t partition_count;
    struct placement *out;
};

static bool read_rows(struct map *m, struct slice rows, struct slice lead_zone) {
    struct slice zones[GROUP_MEMBERS_MAX];
    unsigned zone_count = 0;
    struct reader r = reader_of(rows);
    for (struct node_row row; node_list_next(&r, &row);) {
        bool alive = node_state_is_member(row.state);
        if ((!alive && row.state != NODE_STATE_LOST) || m->count == GROUP_MEMBERS_MAX) continue;
        unsigned zone = 0;
        while (zone < zone_count && !slice_equal(zones[zone], row.zone)) zone++;
        if (zone == zone_count) zones[zone_count++] = row.zone;
        m->alive += alive;
        m->node[m->count++] = (struct candidate){.node_id = row.node_id, .zone = zone, .alive = alive, .may_lead = row.state == NODE_STATE_UP, .near = lead_zone.len && slice_equal(lead_zone, row.zone)};
    }
    return !r.bad;
}

static uint64_t score(const struct candidate *c, uint32_t partition) {
    uint8_t bytes[12];
    struct writer w = writer_of(bytes, sizeof bytes);
    write_be64(&w, c->node_id), write_be32(&w, partition);
    return hash64(writer_slice(&w));
}

/* ---- sets, as masks of candidates */

static unsigned in_zone(const struct map *m, unsigned set, unsigned zone) {
    unsigned n = 0;
    for (unsigned i = 0; i < m->count; i++) n += (set >> i & 1) && m->node[i].zone == zone;
    return n;
}

/* The best of those that live, or of the others, in a zone that has fewest of the set. Below 0: there is none. */
static int best(const struct map *m, unsigned set, bool alive, uint32_t partition) {
    int found = -1;
    unsigned found_zone = 0;
    uint64_t found_score = 0;
    for (unsigned i = 0; i < m->count; i++) {
        const struct candidate *c = &m->node[i];
        if ((set >> i & 1) || c->alive != alive) continue;
        unsigned zone = in_zone(m, set, c->zone);
        uint64_t s = score(c, partition);
        if (found >= 0 && (zone > found_zone || (zone == found_zone && s <= found_score))) continue;
        found = (int)i, found_zone = zone, found_score = s;
    }
    return found;
}

static unsigned choose(const struct map *m, unsigned replicas, uint32_t partition) {
    unsigned set = 0, n = 0;
    for (int at; n < MIN_OF(replicas, m->alive) && (at = best(m, set, true, partition)) >= 0; n++) set |= 1u << at;
    for (int at; n < replicas && (at = best(m, set, false, partition)) >= 0; n++) set |= 1u << at;
    return set;
}

static unsigned set_of(const struct map *m, const struct engine_wanted *w) {
    unsigned set = 0;
    for (unsigned i = 0; i < m->count && i < GROUP_MEMBERS_MAX; i++) /* the latter: GCC 12 with UBSan sees more */
        for (uint32_t k = 0; k < w->count; k++) set |= (unsigned)(w->node_id[k] == m->node[i].node_id) << i;
    return set;
}

static void set_put(const struct map *m, unsigned set, struct engine_wanted *w) {
    *w = (struct engine_wanted){0};
    for (unsigned i = 0; i < m->count; i++)
        if (set >> i & 1) w->node_id[w->count++] = m->node[i].node_id;
}

/* ---- even loads */

/* From one node to the other: the partition whose hashes mind least. false: none can go, each has both, or a zone would get more. */
static bool move_one(struct map *m, unsigned from, unsigned to) {
    uint32_t found = 0;
    double found_cost = 0;
    bool some = false;
    for (uint32_t p = 0; p < m->partition_count; p++) {
        unsigned set = set_of(m, &m->out[p].members);
        if (!(set >> from & 1) || (set >> to & 1)) continue;
        unsigned from_zone = m->node[from].zone, to_zone = m->node[to].zone;
        if (from_zone != to_zone && in_zone(m, set, to_zone) >= in_zone(m, set, from_zone)) continue;
        double cost = (double)score(&m->node[from], p) - (double)score(&m->node[to], p);
        if (some && cost >= found_cost) continue;
        some = true, found = p, found_cost = cost;
    }
    if (!some) return false;
    set_put(m, (set_of(m, &m->out[found].members) & ~(1u << from)) | 1u << to, &m->out[found].members);
    m->node[from].load--, m->node[to].load++;
    return true;
}

/* true: something moved. The largest difference first; the sum of the squares of all loads goes down with each, so it ends. */
static bool even_out(struct map *m) {
    for (uint32_t difference = m->partition_count; difference >= 2; difference--)
        for (unsigned from = 0; from < m->count; from++)
            for (unsigned to = 0; to < m->count; to++)
                if (m->node[from].alive && m->node[to].alive && m->node[from].load == m->node[to].load + difference && move_one(m, from, to)) return true;
    return false;
}

/* ---- leads */

static void give_lead(struct map *m, struct placement *p) {
    struct candidate *found = NULL;
    unsigned set = set_of(m, &p->members);
    for (unsigned near = 2; near-- > 0 && !found;)
        for (unsigned i = 0; i < m->count; i++) {
            struct candidate *c = &m->node[i];
            if ((set >> i & 1) && c->may_lead && c->near >= near && (!found || c->leads < found->leads)) found = c;
        }
    if (found) found->leads++;
    p->leader = found ? found->node_id : 0;
}

void placement_make(struct slice rows, uint32_t replicas, struct slice lead_zone, uint32_t partition_count, struct placement *out) {
    struct map m = {.partition_count = partition_count, .out = out};
    memset(out, 0, (partition_count + 1) * sizeof *out);
    if (!read_rows(&m, rows, lead_zone)) return;
    m.replicas = MIN_OF(replicas, m.count);
    for (uint32_t p = 0; p < partition_count; p++) {
        unsigned set = choose(&m, m.replicas, p);
        set_put(&m, set, &out[p].members);
        for (unsigned i = 0; i < m.count; i++) m.node[i].load += set >> i & 1;
    }
    while (even_out(&m)) {}
    set_put(&m, choose(&m, MAX_OF(m.replicas, m.alive), partition_count), &out[partition_count].members);
    for (uint32_t p = 0; p <= partition_count; p++) give_lead(&m, &out[p]);
}
