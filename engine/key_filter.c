#include "engine/key_filter.h"

#include <string.h>

#include "proto/base/mem.h"

enum {
    SHARES = 4,       /* each is one more line to look at; fewer: keys that have expired stay for longer */
    BLOCK_WORDS = 8,
    BLOCK_BYTES = 64,
    BLOCK_BITS = 512,
    BITS = 6,         /* of a key: at 12 bits a key 0.8 % are taken for known, in blocks */
    CLEAN_BLOCKS = 8, /* with each key */
    LASTING_PART = 32 /* of the whole: for keys that never expire */
};
static_assert(KEY_FILTER_BYTES_MIN / LASTING_PART >= BLOCK_BYTES, "it has a block");
static_assert(BLOCK_WORDS * 64 == BLOCK_BITS && BLOCK_BYTES * 8 == BLOCK_BITS, "a block is a line");
static_assert(BITS * 9 <= 64, "a bit takes 9 bits of a hash to name");
static_assert(KEY_FILTER_BITS_A_KEY * CLEAN_BLOCKS > BLOCK_BITS / KEY_FILTER_BITS_A_KEY, "a share is clean long before the one before it is full");

struct share {
    uint64_t count;     /* 0: free */
    uint64_t expiry_us; /* of its last key */
    uint64_t clean;     /* blocks that are zero, from the first on */
};
struct key_filter {
    uint64_t *words;
    uint64_t blocks, keys_max; /* of a share */
    unsigned current;
    struct share shares[SHARES];
    uint64_t *lasting; /* behind the shares, never cleaned */
    uint64_t lasting_blocks, lasting_count;
    void (*warm)(void *ctx, void *memory, size_t bytes); /* NULL: nobody does */
    void *warm_ctx;
    unsigned warmed; /* shares whose pages are there, or were asked for */
};

struct key_filter *key_filter_new(uint64_t bytes)
{
    check(bytes >= KEY_FILTER_BYTES_MIN);
    struct key_filter *f = mem_new(struct key_filter);
    if (!f) return NULL;
    f->lasting_blocks = bytes / LASTING_PART / BLOCK_BYTES;
    f->blocks = (bytes / BLOCK_BYTES - f->lasting_blocks) / SHARES;
    f->keys_max = f->blocks * BLOCK_BITS / KEY_FILTER_BITS_A_KEY;
    uint64_t size = (SHARES * f->blocks + f->lasting_blocks) * BLOCK_BYTES, huge = (size + MEM_HUGE_BYTES - 1) / MEM_HUGE_BYTES * MEM_HUGE_BYTES;
    f->words = size > 2 * MEM_HUGE_BYTES ? mem_alloc_huge(huge) : mem_alloc_aligned(BLOCK_BYTES, size);
    if (!f->words) return mem_free(f), NULL;
    f->lasting = f->words + SHARES * f->blocks * BLOCK_WORDS;
    memset(f->words, 0, f->blocks * BLOCK_BYTES);
    memset(f->lasting, 0, f->lasting_blocks * BLOCK_BYTES);
    f->shares[0].clean = f->blocks;
    f->warmed = 1;
    return f;
}

void key_filter_warm(struct key_filter *f, void (*warm)(void *ctx, void *memory, size_t bytes), void *ctx)
{
    f->warm = warm, f->warm_ctx = ctx;
}

void key_filter_free(struct key_filter *f)
{
    if (!f) return;
    mem_free(f->words);
    mem_free(f);
}

static uint64_t *block_in(uint64_t *words, uint64_t blocks, uint64_t hash) { return words + ((hash >> 32) * blocks >> 32) * BLOCK_WORDS; }
static uint64_t *block_of(const struct key_filter *f, unsigned share, uint64_t hash) { return block_in(f->words + share * f->blocks * BLOCK_WORDS, f->blocks, hash); }
static uint64_t *lasting_block_of(const struct key_filter *f, uint64_t hash) { return block_in(f->lasting, f->lasting_blocks, hash); }
/* Which bits, nine each: independent of the block, which the upper half of the hash has chosen. */
static uint64_t bits_of(uint64_t hash) { return (hash ^ hash >> 32) * 0x9e3779b97f4a7c15u; }

/* The share that a new key goes to. A full one goes on where the next is not free yet. */
static unsigned share_for(struct key_filter *f)
{
    unsigned next = (f->current + 1) % SHARES;
    struct share *n = &f->shares[next];
    if (next == f->warmed) {
        if (f->warm) f->warm(f->warm_ctx, f->words + next * f->blocks * BLOCK_WORDS, f->blocks * BLOCK_BYTES);
        f->warmed++;
    }
    if (!n->count && n->clean < f->blocks) {
        uint64_t some = MIN_OF(f->blocks - n->clean, (uint64_t)CLEAN_BLOCKS);
        memset(f->words + (next * f->blocks + n->clean) * BLOCK_WORDS, 0, some * BLOCK_BYTES);
        n->clean += some;
    }
    if (f->shares[f->current].count >= f->keys_max && !n->count && n->clean == f->blocks) f->current = next;
    return f->current;
}

static void block_put(uint64_t *block, uint64_t bits)
{
    for (unsigned i = 0; i < BITS; i++, bits >>= 9) block[bits >> 6 & (BLOCK_WORDS - 1)] |= 1ull << (bits & 63);
}

void key_filter_put(struct key_filter *f, uint64_t hash, uint64_t expiry_us)
{
    if (expiry_us >= KEY_FILTER_NEVER_US) { /* in a share it would keep the others there for ever */
        f->lasting_count++;
        return block_put(lasting_block_of(f, hash), bits_of(hash));
    }
    unsigned to = share_for(f);
    struct share *s = &f->shares[to];
    block_put(block_of(f, to, hash), bits_of(hash));
    s->count++;
    s->clean = 0;
    s->expiry_us = MAX_OF(s->expiry_us, expiry_us);
}

static bool block_has(const uint64_t *block, uint64_t bits)
{
    for (unsigned i = 0; i < BITS; i++, bits >>= 9)
        if (!(block[bits >> 6 & (BLOCK_WORDS - 1)] >> (bits & 63) & 1)) return false;
    return true;
}

bool key_filter_may_have(const struct key_filter *f, uint64_t hash)
{
    for (unsigned i = 0; i < SHARES; i++)
        if (f->shares[i].count && block_has(block_of(f, i, hash), bits_of(hash))) return true;
    return f->lasting_count && block_has(lasting_block_of(f, hash), bits_of(hash));
}

void key_filter_expire(struct key_filter *f, uint64_t horizon_us)
{
    for (unsigned i = 0; i < SHARES; i++)
        if (i != f->current && f->shares[i].count && f->shares[i].expiry_us <= horizon_us) f->shares[i] = (struct share){0};
}

uint64_t key_filter_count(const struct key_filter *f)
{
    uint64_t n = f->lasting_count;
    for (unsigned i = 0; i < SHARES; i++) n += f->shares[i].count;
    return n;
}

uint64_t key_filter_count_max(const struct key_filter *f) { return SHARES * f->keys_max; }
