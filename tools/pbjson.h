/* protobuf-c messages as JSON and back, by their descriptors; the mapping of https://protobuf.dev/programming-guides/json/: 64-bit integers as
 * strings, bytes in base64, enums by name, timestamps as RFC 3339, durations as "1.5s" (read: "30m", "1d12h" too), field masks as "a,b", maps as objects. Fields are written
 * under their names in the .proto file and read under those or in camelCase. Defaults are left out. The only includer of jansson. */
#ifndef TOOLS_PBJSON_H
#define TOOLS_PBJSON_H

#include <protobuf-c/protobuf-c.h>

#include "proto/base/arena.h"
#include "proto/base/buf.h"

enum { PBJSON_ERROR_BYTES = 256 };

/* JSON text with a NUL behind it, mem_free() it; NULL: no memory. indent 0: one line. */
char *pbjson_format(const ProtobufCMessage *m, unsigned indent);
/* A message in the arena. NULL: error says what and where ("order.items[2].quantity: not a whole number"). Unknown fields are errors. */
ProtobufCMessage *pbjson_parse(const ProtobufCMessageDescriptor *type, struct slice json, struct arena *arena, char error[PBJSON_ERROR_BYTES]);
/* Whether the text is an object with this key at its top. */
bool pbjson_has_key(struct slice json, const char *key);
/* Appends text as a JSON string, quotes included; what is not UTF-8 becomes U+FFFD. */
bool pbjson_quote(struct buf *out, const char *text) MUST_USE;

#endif
