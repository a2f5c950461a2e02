/* A table of 128 cells for some 50 paths: hash, then look at the next cells. Made on first use by each thread, read-only after. */
#include "server/methods.h"

#include "orderdb/v1/admin.pb-c.h"
#include "orderdb/v1/order.pb-c.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/base/hash.h"

enum { CELL_COUNT = 128 };

static const struct method methods[] = {
#define METHOD(service, method, kind, handler) {SLICE_LIT("/orderdb.v1." #service "/" #method), #service "/" #method, METHOD_##kind, handler, 0, NULL},
#define METHOD_IN(row, package, service, method, kind, handler) \
    {SLICE_LIT("/" #package "." #service "/" #method), #package "." #service "/" #method, METHOD_##kind, handler, 0, NULL},
#include "proto/methods.tbl"
#undef METHOD
#undef METHOD_IN
};
static_assert(ARRAY_LEN(methods) * 2 <= CELL_COUNT, "half of the cells are free, so that a miss ends soon");

/* Of the thread: cores share nothing that is written. */
static _Thread_local struct {
    bool made;
    struct method cells[CELL_COUNT];
} table;

static const ProtobufCServiceDescriptor *const services[] = {&orderdb__v1__order_service__descriptor, &orderdb__v1__stream_service__descriptor, &orderdb__v1__admin_service__descriptor};

static const ProtobufCMessageDescriptor *input_of(const char *name) {
    for (unsigned i = 0; i < ARRAY_LEN(services); i++) {
        size_t n = strlen(services[i]->short_name);
        if (strncmp(name, services[i]->short_name, n) != 0 || name[n] != '/') continue;
        const ProtobufCMethodDescriptor *m = protobuf_c_service_descriptor_get_method_by_name(services[i], name + n + 1);
        return check(m), m->input;
    }
    return NULL;
}

static void table_make(void) {
    for (unsigned i = 0; i < ARRAY_LEN(methods); i++) {
        unsigned at = (unsigned)hash64(methods[i].path) % CELL_COUNT;
        while (table.cells[at].path.data) at = (at + 1) % CELL_COUNT;
        table.cells[at] = methods[i];
        table.cells[at].row = i;
        table.cells[at].input = input_of(methods[i].name);
    }
    table.made = true;
}

const struct method *method_find(struct slice path) {
    if (!table.made) table_make();
    for (unsigned at = (unsigned)hash64(path) % CELL_COUNT; table.cells[at].path.data; at = (at + 1) % CELL_COUNT)
        if (slice_equal(table.cells[at].path, path)) return &table.cells[at];
    return NULL;
}
