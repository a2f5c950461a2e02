/* The half of a Subscribe call that outlives it: its session in the engine's dispatchers, and the DETACH of each partition. The call may be gone at any moment (connection lost), while
 * what it held has to go back at once, and dispatchers may still look at the session: so this has memory of its own. On the core of the call. */
#ifndef SERVER_SUBSCRIPTION_H
#define SERVER_SUBSCRIPTION_H

#include "engine/engine.h"

struct core;
struct subscription;

uint64_t subscription_session_id(void); /* never told twice, ascending */
/* NULL: no memory. member_id is copied. */
struct subscription *subscription_new(struct core *core, uint32_t group_id, struct slice member_id);
struct consumer_session *subscription_session(struct subscription *s);
/* Everything that the session holds goes to others, no attempt counted, and polls under way come home. Again: nothing. After this no op of the session may be sent. */
void subscription_detach(struct subscription *s);
/* on_detached(owner) runs once all partitions have let go; unless it is put before. */
void subscription_on_detached(struct subscription *s, void (*on_detached)(void *owner), void *owner);
/* The call ends: all its ops are home. Detaches if that was not done, and goes as soon as the last partition has let go. */
void subscription_put(struct subscription *s);

#endif
