/* Refusal at the door: calls that can't be served in time are answered from their headers alone, before a byte of a message is kept or decoded. One per core,
 * on its thread. What is full is said by the engines (engine_write_queue), all cores' together: before it is decoded nobody knows to which core a call goes. */
#ifndef SERVER_SHED_H
#define SERVER_SHED_H

#include "proto/base/bytes.h"

struct core;
struct method;
struct shed;

/* What a method is to the door. */
enum shed_class {
    SHED_OTHER,    /* reads: answered as they come; a refusal costs half of one. Those that go to disk have a limit of their own in the engine */
    SHED_WRITE,    /* stands in the queue of the log and apply: as many are let in as can be done in time */
    SHED_RESERVED, /* health, topology, resources, reflection: never refused here, and with slots and memory of their own, so that operators get in */
};
enum shed_class shed_class_of(const struct method *m);
bool shed_is_batch(const struct method *m); /* many requests in one message */

enum shed_reason {
    SHED_NOT,
    SHED_QUEUE,    /* writes wait for the target already */
    SHED_DEADLINE, /* they wait for longer than this call has time */
    SHED_TABLES,   /* none is taken: tables are behind, everywhere */
    SHED_REFUSING, /* somewhere, and enough of them were decoded to be refused (core.c) */
    SHED_CALLS,    /* too many calls of this core in flight */
    SHED_REASON_COUNT,
};

struct shed *shed_new(struct core *core); /* NULL: no memory */
void shed_free(struct shed *s);
/* May this call come in? calls_full: the core's calls are all taken but for the reserve. deadline_ns: 0: none. */
enum shed_reason shed_judge(const struct shed *s, enum shed_class class, uint64_t deadline_ns, bool calls_full);
/* RESOURCE_EXHAUSTED OVERLOADED as a header block (call_refuse), made at start; the delay in it varies, so that those who were refused together do not come back together. */
struct slice shed_answer(struct shed *s, enum shed_reason why);
/* A write that was let in, and that is done with (answered and out of the engines). */
void shed_enter(struct shed *s);
void shed_leave(struct shed *s);

#endif
