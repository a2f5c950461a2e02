/* Intrusive lists: a doubly linked ring with a head. The node lives in the object; nothing is allocated. */
#ifndef PROTO_BASE_LIST_H
#define PROTO_BASE_LIST_H

#include "proto/base/base.h"

struct list {
    struct list *prev, *next;
};

static inline void list_init(struct list *l) { l->prev = l->next = l; }
static inline bool list_empty(const struct list *head) { return head->next == head; }
static inline void list_push_back(struct list *head, struct list *n) {
    n->prev = head->prev, n->next = head;
    head->prev->next = n, head->prev = n;
}
static inline void list_push_front(struct list *head, struct list *n) { list_push_back(head->next, n); }
/* Safe to call again: a removed node is a ring of its own. */
static inline void list_remove(struct list *n) {
    n->prev->next = n->next, n->next->prev = n->prev;
    list_init(n);
}
static inline struct list *list_pop_front(struct list *head) {
    if (list_empty(head)) return NULL;
    struct list *n = head->next;
    list_remove(n);
    return n;
}
/* Moves all of `from` to the end of `to`. */
static inline void list_splice_back(struct list *to, struct list *from) {
    if (list_empty(from)) return;
    from->next->prev = to->prev, to->prev->next = from->next;
    from->prev->next = to, to->prev = from->prev;
    list_init(from);
}
#define list_entry(ptr, type, member) container_of(ptr, type, member)
#define list_each(it, head) for (struct list *it = (head)->next, *it##_next = it->next; it != (head); it = it##_next, it##_next = it->next)

#endif
