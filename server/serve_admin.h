/* What the serve_* files of AdminService share. */
#ifndef SERVER_SERVE_ADMIN_H
#define SERVER_SERVE_ADMIN_H

struct call;
/* Answers the call with the topology as it is now. */
void serve_topology(struct call *call);

#endif
