#include "engine/apply.h"
#include "engine/keys.h"

static_assert(2 * APPLY_EXPECT_MAX <= STORE_EXPECT_MAX, "two rows of each");

void apply_expect(const struct store_view *view, const struct slice *commands, unsigned count, struct arena *scratch)
{
    struct key keys[2 * APPLY_EXPECT_MAX];
    struct slice names[2 * APPLY_EXPECT_MAX];
    unsigned n = 0;
    check(count <= APPLY_EXPECT_MAX);
    for (unsigned i = 0; i < count; i++) {
        int64_t order_id = command_order_of(commands[i]);
        if (!order_id) continue;
        key_head(&keys[n], order_id), key_body(&keys[n + 1], order_id);
        names[n] = key_slice(&keys[n]), names[n + 1] = key_slice(&keys[n + 1]);
        n += 2;
    }
    if (n) store_expect(view, names, n, scratch);
}
