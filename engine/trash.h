/* Files that nobody needs any more, freed piece by piece (store_rocks_trash.c).
 *
 * To remove a file of a gigabyte frees its blocks at once, in one commit of the file system's journal; mounted with `discard` it then tells the disk so, block by block, and the disk does nothing else meanwhile: the log's
 * next sync waited for 10 to 30 ms a hundred megabytes, for half a second behind a large merge. So each table that a watched directory holds gets a second name here, by a look once a second; when only this one is
 * left, the file is cut from its end, 2 MiB at a time with a rest and a sync behind each, and removed. (RocksDB's SstFileManager does the same, and its C API has none.) What is short-lived enough to be gone before the
 * look, and what a file system without hard links holds, is removed as ever.
 *
 * Where less than a tenth of the disk is free, or a quarter of what is free waits here, files are removed whole; and rests grow shorter the more waits. A process that ends leaves names behind, the next one goes on with them; in a copy of the
 * directory they are other inodes' numbers, and it removes them at once.
 *
 * A file is cut only when it has one name, so nothing may be read through a descriptor of a table that has lost its last other name. One thread of its own, at low priority; all calls from any thread. */
#ifndef ENGINE_TRASH_H
#define ENGINE_TRASH_H

#include "proto/base/base.h"
#include "proto/status.h"

struct trash;
struct trash_config {
    const char *dir;       /* made if it is absent; of the file system of what is watched, and for nothing else */
    uint64_t piece_bytes;  /* 0: 2 MiB. Cut at a time */
    uint32_t rest_us;      /* 0: 20,000. Behind each, while no more than 256 MiB wait */
    uint32_t look_us;      /* 0: 1,000,000. From look to look */
    uint64_t keep_free;         /* bytes; 0: 1 GiB, or a tenth of the file system, if that is more. With less free, files are removed whole */
    unsigned keep_free_percent; /* of the file system; not looked at if keep_free is 0 */
};

/* error names what and where. IO_FAILED, DISK_FULL, MEMORY_LIMIT. */
enum status trash_open(struct trash **out, const struct trash_config *config, char error[256]) MUST_USE;
/* What is not freed yet waits for the next trash_open. NULL: nothing. */
void trash_close(struct trash *t);
/* Looks after the directory's files that end in ".sst". false: no memory, its files are removed as ever. */
bool trash_watch(struct trash *t, const char *path) MUST_USE;
/* Nothing of path is looked at any more. Not watched: nothing. */
void trash_unwatch(struct trash *t, const char *path);
/* Of files that have no other name, as far as they are not cut yet. */
uint64_t trash_bytes(const struct trash *t);

#endif
