/* Keeps what resources say where it is needed: rate limits on every core, status machines in every partition. Lives on core 0, asks the meta partition and goes on
 * until all is as it says; what fails is tried again a second later. Handlers of ApplyResource bring machines to the partitions themselves, so that
 * their answer means "everywhere"; this is for what they leave behind when they are cut off, and for a crash in between. */
#ifndef SERVER_RESOURCES_H
#define SERVER_RESOURCES_H

#include "proto/base/bytes.h"
#include "proto/status.h"

struct core;
struct node;
struct resources;

/* All resources but machines, as orderdb.v1.Resource. Read-only, shared by the cores, until the hook returns. */
struct resource_list {
    const struct slice *resources;
    unsigned count;
};

/* core_hooks.resources gets the list on every core's thread: once before the first client is let in, and after every change. */
struct resources *resources_new(struct node *node);
void resources_free(struct resources *r); /* all loops have ended */
/* On core 0, once its engine is ready. */
void resources_begin(struct resources *r, struct core *core0);
/* The list has come to this core (node.c: the first time, before clients are let in). Its thread. */
bool resources_told(const struct resources *r, const struct core *core);
/* Something was applied. Any core's thread. */
void resources_changed(struct core *core);

#endif
