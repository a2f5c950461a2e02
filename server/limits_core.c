/* Rate limits on their way from resources to a core. */
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "server/core.h"
#include "server/limits.h"
#include "server/node.h"
#include "server/resources.h"

void limits_of_resources(struct core *core, const struct resource_list *list) {
    struct limit_spec *specs = mem_alloc((list->count + 1) * sizeof *specs);
    size_t n = 0;
    for (unsigned i = 0; specs && i < list->count; i++) n += limits_read(list->resources[i], &specs[n]);
    unsigned left_out = 0;
    struct limits *fresh = specs ? limits_new(core->node->limits_share, specs, n, &left_out) : NULL;
    mem_free(specs);
    if (!fresh) {
        log_warn("rate limits stay as they were: out of memory", "core=%u", core->id);
        return;
    }
    if (left_out) log_warn("rate limits are left out: too many, or out of memory", "core=%u count=%u", core->id, left_out);
    limits_free(core->limits);
    core->limits = fresh;
}
