/* The operations port's parser: whatever comes, a request that is accepted lies inside the bytes, and no byte more changes a refusal. */
#include "server/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct http_request rq, longer;
    enum http_parse p = http_parse(slice_of(data, size), &rq);
    if (p == HTTP_PARSE_OK) {
        check(rq.bytes <= size);
        check(rq.method.len > 0);
        check(rq.path.len > 0);
        check(rq.path.data[0] == '/');
        check(rq.method.data >= data);
        check(rq.path.data + rq.path.len <= data + rq.bytes);
    }
    /* Byte by byte, as a slow client sends it: the answer is the same, once there is one. */
    for (size_t n = 0; n < size && n < 256; n++) {
        enum http_parse early = http_parse(slice_of(data, n), &longer);
        check(early == HTTP_PARSE_MORE || early == p);
    }
    return 0;
}
