#include "bench/gen/order_text.h"

#include <stdio.h>

#include "bench/gen/zipf.h"

void order_text_make(struct order_text *t, uint64_t draw) {
    static const char *const words[] = {"umbrella", "kettle", "lamp", "notebook", "cable", "jacket", "backpack", "tea", "keyboard", "mug"};
    static const char *const names[] = {"Chen Wei", "Li Na", "Wang Fang", "Zhang Min", "Liu Yang", "Zhao Lei", "Sun Li", "Zhou Jing"};
    static const char *const regions[] = {"CN-31", "CN-11", "CN-44", "CN-33", "CN-51", "CN-32", "CN-42", "CN-37"};
    t->items_total = 0;
    for (unsigned i = 0; i < ORDER_ITEMS; i++) {
        uint64_t r = draw_next(&draw);
        t->items[i].sku = (uint32_t)(r % ORDER_SKUS);
        t->items[i].quantity = 1 + (uint32_t)(r >> 8 & 3);
        t->items[i].price = (int64_t)(r >> 32 & 0xffff) + 1;
        snprintf(t->items[i].title, sizeof t->items[i].title, "%s, model %u, colour %u", words[r % 10], (unsigned)(r >> 20 & 0xfff), (unsigned)(r >> 40 & 15));
        t->items_total += t->items[i].quantity * t->items[i].price;
    }
    t->freight = 800;
    t->payable = t->items_total + t->freight;
    uint64_t r = draw_next(&draw);
    t->merchant = (uint32_t)(r % ORDER_MERCHANTS);
    t->name = names[r >> 16 & 7], t->region = regions[r >> 20 & 7];
    snprintf(t->phone, sizeof t->phone, "138%08u", (unsigned)(draw_next(&draw) % 100000000));
    r = draw_next(&draw);
    snprintf(t->line, sizeof t->line, "%u Harbour Road, building %u, staircase %u, floor %u, room %u, by the lighthouse", (unsigned)(r % 900), (unsigned)(r >> 16 & 63),
             (unsigned)(r >> 22 & 7), (unsigned)(r >> 25 & 31), (unsigned)(r >> 30 & 1023));
}

void order_text_recipient(const struct order_text *t, char out[192]) { snprintf(out, 192, "%s|%s|%s|%s", t->name, t->phone, t->region, t->line); }
