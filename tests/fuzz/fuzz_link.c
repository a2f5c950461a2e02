/* Bytes of strangers at the peer port: frames, one behind the other, and what is in them. The first byte says whether checksums are set right before, which chance would never do.
 * What is read lies in the bytes; what is written again from what was read reads the same. */
#include "proto/base/hash.h"
#include "proto/base/mem.h"
#include "proto/link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mend(uint8_t *f, size_t len) {
    uint32_t n = get_le32(f);
    if (n < LINK_HEAD_BYTES || n > len) put_le32(f, n = (uint32_t)len);
    f[4] = (uint8_t)(LINK_HELLO + f[4] % LINK_JOINED), f[5] &= 1, put_le16(f + 6, 0);
    put_le32(f + 8, crc32c(crc32c(0, f, 8), f + LINK_HEAD_BYTES, n - LINK_HEAD_BYTES));
}

static void look(struct slice body) {
    struct link_hello h;
    uint8_t again[LINK_HELLO_BYTES];
    char version[LINK_VERSION_BYTES_MAX + 1];
    if (link_version_decode(body, version)) check(slice_equal(slice_str(version), body));
    uint8_t told[LINK_LEAD_ZONE_BYTES_MAX];
    char zone[LINK_ZONE_BYTES + 1];
    if (link_lead_zone_decode(body, zone)) check(!link_version_decode(body, version) && slice_equal(slice_of(told, link_lead_zone_encode(zone, told)), body));
    if (link_hello_decode(body, &h) != STATUS_OK) return;
    link_hello_encode(&h, again);
    check(memcmp(again, body.data, sizeof again) == 0); /* one meaning, one encoding */
    check(link_hello_match(&h, &h) == LINK_OTHER_NODE); /* nobody talks to itself */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t copy[1 << 16], unpacked[LINK_BODY_BYTES_MAX];
    struct buf out = {0};
    if (size < 1 || size > sizeof copy) return 0;
    size_t len = size - 1;
    memcpy(copy, data + 1, len);
    for (size_t at = 0; at < len;) {
        struct link_frame f, again;
        if ((data[0] & 1) && len - at >= LINK_HEAD_BYTES) mend(copy + at, len - at);
        if (link_read(slice_of(copy + at, len - at), &f) != STATUS_OK) break;
        check(f.length >= LINK_HEAD_BYTES && f.length <= len - at);
        check(f.body.data >= copy + at && f.body.data + f.body.len == copy + at + f.length);
        struct slice body = f.body;
        if (f.packed && link_unpack(&f, unpacked) != STATUS_OK) body = (struct slice){0};
        else if (f.packed) body = slice_of(unpacked, f.unpacked);
        look(body);
        out.len = 0;
        check(link_write(&out, f.kind, body, at % 2));
        check(link_read(buf_slice(&out), &again) == STATUS_OK);
        check(again.kind == f.kind && again.unpacked == body.len);
        at += f.length;
    }
    buf_fini(&out);
    return 0;
}
