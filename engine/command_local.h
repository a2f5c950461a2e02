/* Shared by the files of command alone. */
#ifndef ENGINE_COMMAND_LOCAL_H
#define ENGINE_COMMAND_LOCAL_H

#include "engine/command.h"
#include "proto/route.h"

bool command_is_group(enum command_type type);
size_t command_group_bytes_max(const struct command *c); /* behind the head */
void command_group_encode(const struct command *c, struct writer *w);
void command_group_decode(struct reader *r, struct command *c); /* r->bad: damaged */

#endif
