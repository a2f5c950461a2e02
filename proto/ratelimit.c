#include "proto/ratelimit.h"

#include <string.h>

static const char *const scope_names[LIMIT_SCOPES] = {"global", "principal", "user", "merchant"};

const char *limit_scope_name(enum limit_scope scope) { return scope_names[scope]; }

bool limit_scope_of(const char *name, enum limit_scope *out) {
    for (int i = 0; i < LIMIT_SCOPES; i++)
        if (strcmp(scope_names[i], name) == 0) return *out = (enum limit_scope)i, true;
    return false;
}

enum row {
#define METHOD(service, method, kind, handler) ROW_##service##_##method,
#define METHOD_IN(row, package, service, method, kind, handler) ROW_##row,
#include "proto/methods.tbl"
#undef METHOD
#undef METHOD_IN
    ROW_COUNT,
};
static_assert(ROW_COUNT <= 64, "methods are bits of a word");

static const struct {
    const char *service, *name;
} methods[] = {
#define METHOD(service, method, kind, handler) {#service, #service "/" #method},
#include "proto/methods.tbl"
#undef METHOD
};
static_assert(ARRAY_LEN(methods) <= ROW_COUNT, "ours come first, so places are rows");

#define ROW(method) (1ull << ROW_OrderService_##method)
static const uint64_t user_rows = ROW(CreateOrder) | ROW(BatchCreateOrders) | ROW(ListOrders) | ROW(GetRequestOutcome) | ROW(ImportOrders);
static const uint64_t merchant_rows = ROW(CreateOrder) | ROW(BatchCreateOrders) | ROW(ImportOrders);
#undef ROW

uint64_t limit_method_rows(const char *method, enum limit_scope scope) {
    const char *slash = strchr(method, '/');
    bool all = !*method, whole_service = slash && strcmp(slash, "/*") == 0;
    uint64_t rows = 0;
    for (unsigned i = 0; i < ARRAY_LEN(methods); i++) {
        if (strcmp(methods[i].service, "AdminService") == 0) continue;
        size_t len = strlen(methods[i].service);
        bool in_service = whole_service && len == (size_t)(slash - method) && memcmp(method, methods[i].service, len) == 0;
        if (all || in_service || strcmp(method, methods[i].name) == 0) rows |= 1ull << i;
    }
    return scope == LIMIT_USER ? rows & user_rows : scope == LIMIT_MERCHANT ? rows & merchant_rows : rows;
}
