#include "tools/refusal.h"

#include <string.h>

/* The message of a refusal is often its first violation. */
static bool is_told(const char *message, const struct failure_violation *v) {
    size_t n = strlen(v->field);
    return strncmp(message, v->field, n) == 0 && strncmp(message + n, ": ", 2) == 0 && strcmp(message + n + 2, v->description) == 0;
}

bool refusal_read(const Google__Rpc__Status *status, struct arena *a, struct details *d, struct buf *out) {
    struct buf packed = {0};
    *d = (struct details){.reason = "", .message = ""};
    bool ok = status && buf_reserve(&packed, google__rpc__status__get_packed_size(status));
    if (ok) packed.len = google__rpc__status__pack(status, packed.data);
    ok = ok && details_decode(buf_slice(&packed), a, d) && buf_append(out, slice_str(d->message));
    for (const struct failure_violation *v = ok ? d->violations : NULL; ok && v; v = v->next) {
        if (is_told(d->message, v)) continue;
        ok = buf_append(out, SLICE_LIT("; ")) && buf_append(out, slice_str(v->field)) && buf_append(out, SLICE_LIT(": ")) && buf_append(out, slice_str(v->description));
    }
    buf_fini(&packed);
    return ok && buf_append(out, slice_of("", 1));
}
