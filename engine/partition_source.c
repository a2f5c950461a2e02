/* A snapshot for replicas that lag behind the log: the giving side.
 *
 *   asked -> [a flush that began later has returned] -> making, a job -> ready, read chunk by chunk, a job each -> nobody has asked for SNAPSHOT_IDLE_NS, or for SNAPSHOT_THANKED_NS since somebody got all of it: gone
 *
 * The asker pulls, so the pace is its own. A checkpoint serves all who ask, each at its own offset; who asks with a session that is not ours (a restart, another leader) begins
 * anew. From the first question on, entries behind the checkpoint are kept in memory (hold_index), or a busy group would outrun whoever fetches; but not more than HOLD_BYTES_MAX of
 * them: then that replica needs a second snapshot, and the leader lives.
 *
 * It goes on when the lead is lost: what was applied is committed, whoever leads. */
#include <inttypes.h>

#include "engine/partition_snapshot.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

struct asked {
    uint64_t node_id, offset; /* node_id 0: free */
    uint32_t bytes;
};
struct snapshot_source {
    struct partition *partition;
    struct env_job job;
    struct store_checkpoint *checkpoint; /* NULL: not made yet */
    uint64_t session, total, reached;    /* reached: bytes that were read in order */
    uint64_t hold_index, used_ns;
    bool away, failed;
    struct asked asked[GROUP_MEMBERS_MAX], reading;
    uint8_t *buffer; /* SNAPSHOT_CHUNK_BYTES of the configuration, at most what was asked for */
    enum status status;
    char error[256];
};

#define HOLD_BYTES_MAX ((size_t)64 << 20) /* of all partitions of a core together */

uint32_t partition_chunk_bytes(const struct engine *e) { return e->config.snapshot_chunk_bytes ? e->config.snapshot_chunk_bytes : SNAPSHOT_CHUNK_BYTES; }

uint64_t partition_source_hold(const struct partition *p) {
    const struct snapshot_source *s = p->source;
    return s && group_memory(p->group) <= HOLD_BYTES_MAX / p->engine->held_count ? s->hold_index : UINT64_MAX;
}

void partition_send(struct partition *p, struct peer_message *m, uint64_t node_id) {
    struct engine *e = p->engine;
    m->group = p->group_id, m->from = e->config.node_id, m->to = node_id, m->term = MAX_OF(group_term(p->group), 1ull);
    size_t n = peer_encoded_bytes(m);
    uint8_t *bytes = mem_alloc(n);
    struct writer w = writer_of(bytes, n);
    if (bytes) {
        check(peer_encode(m, &w));
        e->config.send(e->config.send_ctx, p->group_id, node_id, writer_slice(&w));
    } else {
        e->stats.frames_lost++;
    }
    mem_free(bytes);
}

static void answer(struct partition *p, uint64_t node_id, enum peer_chunk_state state) {
    struct peer_message m = {.kind = PEER_CHUNK, .chunk = {.state = state}};
    if (p->source) m.chunk.session = p->source->session;
    partition_send(p, &m, node_id);
}

static void source_free(struct partition *p) {
    struct snapshot_source *s = p->source;
    check(!s->away);
    store_checkpoint_free(s->checkpoint);
    mem_free(s->buffer);
    mem_free(s);
    p->source = NULL;
    p->engine->sources--;
}

void partition_source_close(struct partition *p) {
    if (p->source) source_free(p);
}

static bool source_new(struct partition *p) {
    struct engine *e = p->engine;
    struct snapshot_source *s = e->sources < SNAPSHOT_SOURCES_MAX ? mem_new(struct snapshot_source) : NULL;
    if (s) s->buffer = mem_alloc(partition_chunk_bytes(e));
    if (!s || !s->buffer) return mem_free(s), false;
    s->partition = p;
    s->session = MAX_OF(e->env->ops->random(e->env) & PEER_NUMBER_MAX, 1ull);
    s->hold_index = p->record.applied_index - 1; /* the checkpoint is of the next index or a later one, whose term is asked for too */
    e->sources++;
    p->source = s;
    return true;
}

/* ---- jobs */

static void away(struct snapshot_source *s, void (*run)(struct env_job *), void (*done)(struct env_job *)) {
    struct engine *e = s->partition->engine;
    s->away = true;
    s->partition->reads_away++;
    s->job = (struct env_job){.run = run, .done = done, .patient = true};
    e->env->ops->offload(e->env, &s->job);
}
static struct partition *home(struct snapshot_source *s) {
    s->away = false;
    s->partition->reads_away--;
    return s->partition;
}

static void make_run(struct env_job *job) {
    struct snapshot_source *s = container_of(job, struct snapshot_source, job);
    s->status = store_checkpoint_make(s->partition->store, &s->checkpoint, s->error);
}
static void make_home(struct env_job *job) {
    struct snapshot_source *s = container_of(job, struct snapshot_source, job);
    struct partition *p = home(s);
    if (s->status) {
        log_warn("no snapshot can be made for a replica that is behind", "partition=%s status=%s err=%s", p->name, status_name(s->status), s->error);
        s->failed = true;
        return;
    }
    s->total = store_checkpoint_bytes(s->checkpoint);
    p->engine->stats.snapshots_given++;
    log_info("a snapshot stands ready for replicas that are behind", "partition=%s index>=%" PRIu64 " bytes=%" PRIu64, p->name, s->hold_index, s->total);
}

static void read_run(struct env_job *job) {
    struct snapshot_source *s = container_of(job, struct snapshot_source, job);
    s->status = store_checkpoint_read(s->checkpoint, s->reading.offset, s->buffer, s->reading.bytes);
}
static void read_home(struct env_job *job) {
    struct snapshot_source *s = container_of(job, struct snapshot_source, job);
    struct partition *p = home(s);
    if (s->status) {
        log_warn("a snapshot can't be read", "partition=%s status=%s", p->name, status_name(s->status));
        s->failed = true;
        return;
    }
    s->reached = MAX_OF(s->reached, s->reading.offset + s->reading.bytes);
    struct peer_message m = {.kind = PEER_CHUNK, .chunk = {s->session, s->total, s->reading.offset, PEER_CHUNK_DATA, slice_of(s->buffer, s->reading.bytes)}};
    partition_send(p, &m, s->reading.node_id);
    partition_source_tick(p);
}

/* ---- questions */

/* Of no use to who asks, or the log does not reach back to it any more. */
static bool stale(const struct partition *p, uint64_t applied_index) {
    const struct snapshot_source *s = p->source;
    struct group_entry entry;
    return s && s->checkpoint && (applied_index > s->hold_index || (s->hold_index < group_last_index(p->group) && !group_entry(p->group, s->hold_index + 1, &entry)));
}

void partition_source_asked(struct partition *p, const struct peer_message *m) {
    struct engine *e = p->engine;
    struct snapshot_source *s = p->source;
    if (m->fetch.session && (!s || s->session != m->fetch.session)) return answer(p, m->from, PEER_CHUNK_GONE);
    if (s && (s->failed || (!m->fetch.session && stale(p, m->fetch.offset)))) {
        s->failed = true;
        partition_source_tick(p);
        return answer(p, m->from, m->fetch.session ? PEER_CHUNK_GONE : PEER_CHUNK_WAIT);
    }
    if (!s && (p->state == PARTITION_FAILED || e->draining || p->fetch)) return answer(p, m->from, PEER_CHUNK_GONE);
    if (!s && !source_new(p)) return answer(p, m->from, PEER_CHUNK_WAIT);
    s = p->source;
    bool thanks = s->checkpoint && m->fetch.session && m->fetch.offset >= s->total; /* others may wait for a checkpoint of theirs, and there are few */
    s->used_ns = thanks ? e->now_ns + SNAPSHOT_THANKED_NS - SNAPSHOT_IDLE_NS : e->now_ns;
    if (m->fetch.session && (m->fetch.offset > s->reached || m->fetch.offset >= s->total)) return;
    struct asked *at = NULL;
    for (unsigned i = 0; i < GROUP_MEMBERS_MAX; i++)
        if (s->asked[i].node_id == m->from || (!s->asked[i].node_id && !at)) at = &s->asked[i];
    if (!at) return; /* more than there are members */
    *at = (struct asked){m->from, m->fetch.session ? m->fetch.offset : 0, m->fetch.bytes};
    if (!s->checkpoint) answer(p, m->from, PEER_CHUNK_WAIT);
    partition_source_tick(p);
}

static void make_begin(struct partition *p) {
    struct snapshot_source *s = p->source;
    if (p->state == PARTITION_FAILED || p->fetch) return;
    if (p->flushed.applied_index <= s->hold_index) partition_flush(p);
    else if (!p->flushing) away(s, make_run, make_home);
}

static void read_begin(struct snapshot_source *s) {
    for (unsigned i = 0; i < GROUP_MEMBERS_MAX; i++) {
        if (!s->asked[i].node_id) continue;
        s->reading = s->asked[i];
        s->asked[i].node_id = 0;
        s->reading.bytes = (uint32_t)MIN_OF((uint64_t)MIN_OF(s->reading.bytes, partition_chunk_bytes(s->partition->engine)), s->total - s->reading.offset);
        return away(s, read_run, read_home);
    }
}

void partition_source_tick(struct partition *p) {
    struct snapshot_source *s = p->source;
    if (!s || s->away) return;
    if (s->failed || p->engine->draining || p->engine->now_ns >= s->used_ns + SNAPSHOT_IDLE_NS) source_free(p);
    else if (!s->checkpoint) make_begin(p);
    else read_begin(s);
}
