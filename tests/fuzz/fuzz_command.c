/* The command and entry decoders: whatever the log holds, they refuse or yield slices inside it; what decodes encodes to something that decodes
 * to the same. */
#include "engine/command.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_command(struct slice bytes, struct arena *arena)
{
    struct command c, again;
    if (command_decode(bytes, arena, &c) != STATUS_OK) return;
    struct slice s = command_encode(&c, arena);
    if (!s.data) return;
    check(command_decode(s, arena, &again) == STATUS_OK);
    check(again.type == c.type);
    check(slice_equal(again.origin.request_id, c.origin.request_id));
    if (c.type == COMMAND_IMPORT || c.type == COMMAND_IMPORT_UNTOLD) check(again.import.history_count == c.import.history_count);
    bool moves = c.type == COMMAND_TRANSITION || c.type == COMMAND_PATCH;
    if (moves) check(again.transition.expected_status_count == c.transition.expected_status_count);
    if (moves) check(again.transition.patch.fields == c.transition.patch.fields);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena;
    struct entry_reader r;
    struct slice command;
    enum status st;
    arena_init(&arena, 1 << 20);
    try_command(slice_of(data, size), &arena);
    if (entry_open(slice_of(data, size), &r) == STATUS_OK)
        while (entry_next(&r, &command, &st)) {
            check(command.data >= data);
            check(command.data + command.len <= data + size);
            try_command(command, &arena);
        }
    arena_fini(&arena);
    return 0;
}
