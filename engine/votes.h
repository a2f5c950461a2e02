/* Term and vote of every group of a core, in two checksummed copies in one file, written one after the other. Owned by one engine.
 * A change is staged by votes_set and durable after votes_commit's callback; many groups share one sync. No message or log
 * entry that depends on a vote leaves before that. A failed write or sync stops the process. Format: docs/LOG.md. */
#ifndef ENGINE_VOTES_H
#define ENGINE_VOTES_H

#include "engine/env.h"
#include "proto/status.h"

struct votes;
/* One damaged copy is mended from the other: what was acknowledged stands in both. Both damaged: STATUS_CHECKSUM_MISMATCH, error[] names file and offset. */
enum status votes_open(struct votes **out, struct env *env, const char *name, char error[256]) MUST_USE;
void votes_close(struct votes *v); /* any time: a write in flight ends by itself and then frees the rest, without calling done() */
/* The file was not there and was made: with a log that holds entries beside it, votes were lost, and the node must not vote. */
bool votes_is_new(const struct votes *v);
/* false: the group is not known. */
bool votes_get(const struct votes *v, uint64_t group, uint64_t *term, uint64_t *voted_for);
enum status votes_set(struct votes *v, uint64_t group, uint64_t term, uint64_t voted_for) MUST_USE;
bool votes_dirty(const struct votes *v);
/* Writes what is staged; done(ctx) from the loop when all staged before this call is durable. One at a time: check !votes_busy. */
void votes_commit(struct votes *v, void (*done)(void *ctx), void *ctx);
bool votes_busy(const struct votes *v);

#endif
