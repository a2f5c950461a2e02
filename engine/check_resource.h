/* The shape of resources: every rule that needs neither the store nor the registry. As check.h, for AdminService.ApplyResource. */
#ifndef ENGINE_CHECK_RESOURCE_H
#define ENGINE_CHECK_RESOURCE_H

#include "engine/command.h"
#include "engine/resource.h"
#include "orderdb/v1/admin.pb-c.h"

enum { CHECK_LIMIT_METHOD_BYTES_MAX = 128 };

struct checked_resource {
    enum resource_kind kind;
    struct slice name;
    bool remove, dry_run;
    struct slice command; /* encoded, in the arena; for SLOT_META */
};
/* false: f says why. The message is put into canonical form in place: unknown fields are dropped. */
bool check_resource(Orderdb__V1__ApplyResourceRequest *m, struct arena *arena, struct checked_resource *out, struct failure *f);
/* A kind as ListResources names it, "" for all. */
bool check_resource_kind(const char *name, enum resource_kind *kind, struct failure *f);

#endif
