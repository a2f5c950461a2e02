/* The content of a drawn order, the same for every system that is measured: who, from whom, three items, where to. What a driver makes of it is its own. */
#ifndef BENCH_GEN_ORDER_TEXT_H
#define BENCH_GEN_ORDER_TEXT_H

#include "proto/base/base.h"

enum { ORDER_ITEMS = 3, ORDER_SKUS = 100000, ORDER_MERCHANTS = 20000 };

struct order_text {
    uint32_t merchant;              /* below ORDER_MERCHANTS */
    const char *name, *region;
    char phone[16], line[128];      /* with name and region the recipient: about 120 bytes */
    struct {
        uint32_t sku, quantity;     /* below ORDER_SKUS; 1 to 4 */
        int64_t price;              /* minor units */
        char title[48];
    } items[ORDER_ITEMS];
    int64_t items_total, freight, payable;
};
void order_text_make(struct order_text *t, uint64_t draw);
/* As one text, for those who keep it in a column: "name|phone|region|line". */
void order_text_recipient(const struct order_text *t, char out[192]);

#endif
