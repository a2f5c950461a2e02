#include "server/trailers.h"

#include <stdio.h>

#include "proto/grpc.h"
#include "server/serve_common.h"

enum { DETAILS_BYTES_MAX = 4500 }; /* 6,000 in base64: stock clients take 8 KiB of trailers */

/* google.rpc.Status in base64; violations are left out until it fits what clients take. */
static struct slice encode_details(struct arena *scratch, const struct failure *f) {
    struct slice raw = failure_encode_within(f, scratch, DETAILS_BYTES_MAX);
    char *text = raw.len ? arena_alloc(scratch, BASE64_LEN(raw.len)) : NULL;
    return text ? slice_of(text, base64_encode(raw, text)) : (struct slice){0};
}

size_t trailers_make(struct trailers *t, const struct failure *failure, struct arena *scratch) {
    struct failure with_delay = *failure, *f = &with_delay;
    f->retry_delay_ms = serve_retry_delay_ms(failure);
    t->code = status_grpc_code(f->status);
    size_t n = 0;
    t->fields[n++] = (struct h2_field){SLICE_LIT(":status"), SLICE_LIT("200")};
    t->fields[n++] = (struct h2_field){SLICE_LIT("content-type"), SLICE_LIT("application/grpc")};
    t->fields[n++] = (struct h2_field){SLICE_LIT("grpc-status"), slice_of(t->code_text, (size_t)snprintf(t->code_text, sizeof t->code_text, "%u", (unsigned)t->code))};
    struct slice text = slice_cut_utf8(slice_str(f->message ? f->message : status_reason(f->status)), TRAILERS_TEXT_BYTES_MAX);
    t->fields[n++] = (struct h2_field){SLICE_LIT("grpc-message"), slice_of(t->message, grpc_percent_encode(text, t->message))};
    struct slice details = encode_details(scratch, f);
    if (details.len) t->fields[n++] = (struct h2_field){SLICE_LIT("grpc-status-details-bin"), details};
    /* Clients are told by their service config to send RESOURCE_EXHAUSTED again: -1 says that it is of no use this time (gRFC A6). Other
     * codes do without: there a pushback would count as a failure in the clients' retry budgets. */
    if (t->code == GRPC_RESOURCE_EXHAUSTED && status_retry(f->status) == RETRY_NEVER) {
        t->fields[n++] = (struct h2_field){SLICE_LIT("grpc-retry-pushback-ms"), SLICE_LIT("-1")};
    } else if (f->retry_delay_ms) {
        size_t len = (size_t)snprintf(t->delay_text, sizeof t->delay_text, "%u", f->retry_delay_ms);
        t->fields[n++] = (struct h2_field){SLICE_LIT("grpc-retry-pushback-ms"), slice_of(t->delay_text, len)};
    }
    if (f->status == STATUS_ENCODING_UNKNOWN) t->fields[n++] = (struct h2_field){SLICE_LIT("grpc-accept-encoding"), SLICE_LIT("identity")};
    check(n <= TRAILERS_FIELDS_MAX - H2_TRAILERS_MAX);
    return n;
}
