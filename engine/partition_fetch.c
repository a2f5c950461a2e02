/* A replica that is behind the log gets a snapshot: the taking side.
 *
 *   offer -> ASKING <-> WRITING, a job each chunk -> FINISHING, a job -> READY -> [a leader is known] -> LOGGING -> [durable] -> SWITCHING -> [no read is away] -> the new state
 *              nothing comes, a bad stream, a full disk: thrown away, and the next offer taken
 *
 * Until READY the group knows nothing of it: it follows, votes and applies as it did. The state lies beside the store, whole and durable, and tells its own index.
 *
 * The commit point is one record of the log, ENTRY_RESTART with the snapshot's index: "the log of this group begins anew behind it". Before it is durable, a restart finds the old store and
 * the old log. After it, a restart finds a log that begins behind the snapshot, and a finished import to put in the store's place (partition_fetch_recover). The store's own switch is
 * atomic (store.h), and later than the record. So store, log and votes agree at any crash, and no entry of the old log comes back behind the new state. */
#include <inttypes.h>
#include <stdio.h>

#include "engine/partition_snapshot.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum fetch_state { FETCH_ASKING, FETCH_WRITING, FETCH_FINISHING, FETCH_READY, FETCH_LOGGING, FETCH_SWITCHING };
struct snapshot_fetch {
    struct partition *partition;
    struct env_job job;
    enum fetch_state state;
    uint64_t node_id, session, total, offset;
    uint64_t ask_ns, came_ns;   /* when to ask; when something came */
    bool staged, flying;        /* LOGGING: in the log's batch being gathered; in the one under way */
    struct store_import *import;
    struct partition_record found;
    uint8_t *buffer;
    size_t bytes;
    enum status status;
    char error[256];
};

/* ---- beginning and giving up */

void partition_fetch_close(struct partition *p) {
    struct snapshot_fetch *f = p->fetch;
    if (!f) return;
    check(f->state != FETCH_WRITING && f->state != FETCH_FINISHING);
    store_import_free(f->import, f->state >= FETCH_LOGGING); /* in the log: a restart installs it */
    mem_free(f->buffer);
    mem_free(f);
    p->fetch = NULL;
}

static void fetch_drop(struct partition *p, uint64_t pause_ns) {
    partition_fetch_close(p);
    p->fetch_not_before_ns = p->engine->now_ns + pause_ns;
}

bool partition_fetch_busy(const struct partition *p) { return p->fetch && (p->fetch->state == FETCH_WRITING || p->fetch->state == FETCH_FINISHING); }

static void ask(struct partition *p) {
    struct snapshot_fetch *f = p->fetch;
    struct peer_message m = {.kind = PEER_FETCH, .fetch = {f->session, f->session ? f->offset : p->record.applied_index, partition_chunk_bytes(p->engine)}};
    f->ask_ns = p->engine->now_ns + SNAPSHOT_ASK_NS;
    partition_send(p, &m, f->node_id);
}

void partition_fetch_offered(struct partition *p, uint64_t node_id, uint64_t index) {
    struct engine *e = p->engine;
    if (p->fetch || p->source || index <= p->record.applied_index || p->state == PARTITION_FAILED || e->disk_full || e->draining || e->now_ns < p->fetch_not_before_ns) return;
    struct snapshot_fetch *f = mem_new(struct snapshot_fetch);
    if (f) f->buffer = mem_alloc(partition_chunk_bytes(e));
    if (!f || !f->buffer) {
        mem_free(f);
        return;
    }
    f->partition = p, f->node_id = node_id, f->came_ns = e->now_ns, f->ask_ns = e->now_ns;
    p->fetch = f;
    log_info("this replica is behind the log, and fetches a snapshot", "partition=%s applied=%" PRIu64 " offered=%" PRIu64 " node=%" PRIu64, p->name, p->record.applied_index, index, node_id);
}

/* ---- jobs */

static void away(struct snapshot_fetch *f, enum fetch_state state, void (*run)(struct env_job *), void (*done)(struct env_job *)) {
    struct engine *e = f->partition->engine;
    f->state = state;
    f->partition->reads_away++;
    f->job = (struct env_job){.run = run, .done = done, .patient = true};
    e->env->ops->offload(e->env, &f->job);
}

/* What can't be taken is thrown away. false: it was. */
static bool home(struct snapshot_fetch *f) {
    struct partition *p = f->partition;
    p->reads_away--;
    f->state = FETCH_ASKING;
    if (!f->status) return true;
    log_warn("a snapshot can't be taken", "partition=%s status=%s err=%s", p->name, status_name(f->status), f->error);
    fetch_drop(p, f->status == STATUS_DISK_FULL ? 5 * SNAPSHOT_PAUSE_NS : SNAPSHOT_PAUSE_NS);
    return false;
}

static void finish_run(struct env_job *job) {
    struct snapshot_fetch *f = container_of(job, struct snapshot_fetch, job);
    struct store *look;
    struct arena arena;
    f->status = store_import_finish(f->import, &look, f->error);
    if (f->status) return;
    arena_init(&arena, 64 * KIB);
    f->status = partition_record_read(look, &arena, &f->found);
    arena_fini(&arena);
    store_close(look);
    if (f->status) snprintf(f->error, sizeof f->error, "it has no partition record");
}
static void finish_home(struct env_job *job) {
    struct snapshot_fetch *f = container_of(job, struct snapshot_fetch, job);
    struct partition *p = f->partition;
    if (!home(f)) return;
    f->state = FETCH_READY;
    log_info("a snapshot has come", "partition=%s index=%" PRIu64 " bytes=%" PRIu64, p->name, f->found.applied_index, f->total);
    partition_fetch_tick(p);
}

static void write_run(struct env_job *job) {
    struct snapshot_fetch *f = container_of(job, struct snapshot_fetch, job);
    f->status = f->import ? STATUS_OK : store_import_begin(f->partition->store, f->total, &f->import, f->error);
    if (!f->status) f->status = store_import_write(f->import, slice_of(f->buffer, f->bytes), f->error);
}
static void write_home(struct env_job *job) {
    struct snapshot_fetch *f = container_of(job, struct snapshot_fetch, job);
    struct engine *e = f->partition->engine;
    if (!home(f)) return;
    f->offset += f->bytes;
    e->stats.snapshot_bytes += f->bytes;
    e->now_ns = e->env->ops->mono_ns(e->env);
    uint64_t rate = e->config.snapshot_bytes_per_s ? e->config.snapshot_bytes_per_s : SNAPSHOT_BYTES_PER_S;
    e->fetch_due_ns = MAX_OF(e->fetch_due_ns, f->came_ns) + f->bytes * NS_PER_S / rate; /* partitions take turns: at most a chunk of each is ahead */
    f->ask_ns = MAX_OF(e->fetch_due_ns, e->now_ns);
    if (f->offset == f->total) {
        ask(f->partition); /* thanks */
        away(f, FETCH_FINISHING, finish_run, finish_home);
    } else if (f->ask_ns <= e->now_ns) {
        ask(f->partition);
    }
}

void partition_fetch_came(struct partition *p, const struct peer_message *m) {
    struct snapshot_fetch *f = p->fetch;
    if (!f || f->state != FETCH_ASKING || f->node_id != m->from) return;
    if (m->chunk.state == PEER_CHUNK_GONE && (!f->session || m->chunk.session != f->session)) return fetch_drop(p, SNAPSHOT_WAIT_NS);
    if (m->chunk.state != PEER_CHUNK_DATA) {
        if (m->chunk.state == PEER_CHUNK_WAIT) f->came_ns = p->engine->now_ns, f->ask_ns = MIN_OF(f->ask_ns, f->came_ns + SNAPSHOT_WAIT_NS);
        return;
    }
    if (!f->session) f->session = m->chunk.session, f->total = m->chunk.total;
    if (m->chunk.session != f->session || m->chunk.total != f->total || m->chunk.offset != f->offset || m->chunk.data.len > partition_chunk_bytes(p->engine)) return; /* an old one */
    f->came_ns = p->engine->now_ns;
    f->bytes = m->chunk.data.len;
    memcpy(f->buffer, m->chunk.data.data, f->bytes);
    away(f, FETCH_WRITING, write_run, write_home);
}

/* ---- from the old state to the new one */

static struct group_snapshot snapshot_of(const struct partition_record *r) { return (struct group_snapshot){.index = r->applied_index, .term = r->applied_term, .members = r->members}; }

static void install_begin(struct partition *p) {
    struct snapshot_fetch *f = p->fetch;
    struct group_snapshot snapshot = snapshot_of(&f->found);
    enum status st = f->found.applied_index <= p->record.applied_index ? STATUS_ABSENT : group_install(p->group, engine_now_ms(p->engine), &snapshot);
    if (st == STATUS_ABSENT) fetch_drop(p, SNAPSHOT_PAUSE_NS); /* the log has got there by itself */
}

/* The group's log is void, in memory; on the disk from the record on. */
void partition_fetch_voided(struct partition *p, uint64_t index) {
    struct snapshot_fetch *f = p->fetch;
    check(f && f->state == FETCH_READY && f->found.applied_index == index);
    f->state = FETCH_LOGGING;
    p->next_stage = index + 1;
    p->syncing = 0;
}

bool partition_fetch_has_to_stage(const struct partition *p) { return p->fetch && p->fetch->state == FETCH_LOGGING && !p->fetch->staged; }

/* Behind everything that the log got of the group before. */
enum status partition_fetch_stage(struct partition *p) {
    struct snapshot_fetch *f = p->fetch;
    if (!partition_fetch_has_to_stage(p)) return STATUS_OK;
    enum status st = wal_append(p->engine->wal, p->group_id, f->found.applied_index, f->found.applied_term, ENTRY_RESTART, NULL, 0);
    f->staged = !st;
    return st;
}
void partition_fetch_log_committed(struct partition *p) {
    if (p->fetch && p->fetch->state == FETCH_LOGGING) p->fetch->flying = p->fetch->staged;
}
void partition_fetch_synced(struct partition *p) {
    if (p->fetch && p->fetch->state == FETCH_LOGGING && p->fetch->flying) p->fetch->state = FETCH_SWITCHING;
}

static void store_switch(struct partition *p, struct store_import *import, const char *why) {
    char error[256] = "";
    p->shown_index = MAX_OF(p->shown_index, p->record.applied_index);
    partition_store_unload(p);
    enum status st = store_import_install(import, error);
    if (!st) st = partition_store_load(p, error);
    if (st) panic_now("partition %s: a snapshot can't take the store's place: %s: %s. A restart goes on with it", p->name, status_name(st), error);
    p->log_bytes_unflushed = 0;
    p->damaged = p->proving = false;
    p->damage = (struct store_damage){0};
    p->reopen_pause_ns = 0;
    p->state = PARTITION_OPENING;
    p->engine->stats.snapshots_taken++;
    log_info(why, "partition=%s applied=%" PRIu64 " orders=%" PRId64, p->name, p->record.applied_index, p->record.order_count);
}

static void install(struct partition *p) {
    struct engine *e = p->engine;
    struct snapshot_fetch *f = p->fetch;
    struct group_snapshot snapshot = snapshot_of(&f->found);
    store_switch(p, f->import, "a snapshot has taken the store's place");
    check(p->record.applied_index == snapshot.index && p->record.applied_term == snapshot.term);
    f->import = NULL;
    partition_fetch_close(p);
    group_installed(p->group, engine_now_ms(e), &snapshot);
    wal_trim(e->wal, p->group_id, snapshot.index);
}

void partition_fetch_tick(struct partition *p) {
    struct engine *e = p->engine;
    struct snapshot_fetch *f = p->fetch;
    if (!f) return;
    switch (f->state) {
    case FETCH_ASKING:
        if (e->draining || e->now_ns >= f->came_ns + SNAPSHOT_GIVE_UP_NS) fetch_drop(p, 0);
        else if (e->now_ns >= f->ask_ns) ask(p);
        break;
    case FETCH_READY:
        if (!e->draining && p->state != PARTITION_FAILED && !p->flushing && !votes_dirty(e->votes) && !votes_busy(e->votes)) install_begin(p);
        break;
    case FETCH_SWITCHING:
        if (!p->flushing && !p->reads_away) install(p);
        break;
    case FETCH_WRITING:
    case FETCH_FINISHING:
    case FETCH_LOGGING: break;
    }
}

uint64_t partition_fetch_deadline_ns(const struct partition *p) { return p->fetch && p->fetch->state == FETCH_ASKING ? p->fetch->ask_ns : UINT64_MAX; }

/* ---- a start */

/* The log says where it begins anew (0: nowhere). A store that is behind that has its import beside it; any other import was not decided upon. */
enum status partition_fetch_recover(struct partition *p, uint64_t restart_index, char error[256]) {
    struct store_import *import;
    enum status st = store_import_find(p->store, &import, error);
    if (restart_index <= p->record.applied_index) {
        if (!st) store_import_free(import, false);
        return st == STATUS_ABSENT ? STATUS_OK : st;
    }
    if (st) {
        snprintf(error, 256, "partition %s: its log begins behind %" PRIu64 ", its store ends at %" PRIu64 ", and the snapshot between them can't be found", p->name, restart_index, p->record.applied_index);
        return st == STATUS_ABSENT ? STATUS_CHECKSUM_MISMATCH : st;
    }
    store_switch(p, import, "a snapshot has taken the store's place, as a crash had left it to be done");
    if (p->record.applied_index == restart_index) return STATUS_OK;
    snprintf(error, 256, "partition %s: its log begins behind %" PRIu64 ", and its snapshot ends at %" PRIu64, p->name, restart_index, p->record.applied_index);
    return STATUS_CHECKSUM_MISMATCH;
}
