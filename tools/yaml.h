/* YAML, and JSON, which is YAML too, as JSON text for pbjson; and where in the file each field stands. One document, no anchors, no tags. And JSON text as YAML.
 * The only includer of libyaml. What a plain scalar means is YAML 1.2's core schema: null, true, false, numbers; anything else is text. */
#ifndef TOOLS_YAML_H
#define TOOLS_YAML_H

#include "proto/base/buf.h"

enum { YAML_BYTES_MAX = 1 << 20, YAML_NODES_MAX = 10000, YAML_DEPTH_MAX = 32, YAML_ERROR_BYTES = 200 };

struct yaml_place {
    char *path; /* "states[2].name"; "": the whole */
    unsigned line;
};
struct yaml {
    struct buf json;
    struct yaml_place *places;
    size_t place_count, place_cap;
};

/* false: *line and error say where and why; yaml_fini all the same. */
bool yaml_read(struct slice text, struct yaml *out, unsigned *line, char error[YAML_ERROR_BYTES]);
void yaml_fini(struct yaml *y);
/* The line of a field, or of what holds it. */
unsigned yaml_line(const struct yaml *y, const char *path);
/* Written as it is, the text is read as this text, by readers of YAML 1.1 too (to which no, on and dates are something else): needs no quotes. */
bool yaml_is_plain(const char *text);
/* Appends JSON text as YAML in block style, with its line's end. false: it is no JSON, or no memory. */
bool yaml_write(struct slice json, struct buf *out) MUST_USE;

#endif
