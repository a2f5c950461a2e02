/* What the files of the filter share: filter_parse.c (text to tree), filter_field.c (names and literals), filter_match.c, filter_print.c. */
#ifndef ENGINE_FILTER_LOCAL_H
#define ENGINE_FILTER_LOCAL_H

#include "engine/filter.h"

enum filter_type { FILTER_TEXT, FILTER_NUMBER, FILTER_BOOL, FILTER_ENUM, FILTER_TIME, FILTER_DURATION, FILTER_BYTES, FILTER_MAP, FILTER_MESSAGE, FILTER_OTHER };
enum filter_op { FILTER_EQ, FILTER_NE, FILTER_LT, FILTER_LE, FILTER_GT, FILTER_GE, FILTER_IN, FILTER_HAS, FILTER_PRESENT };

/* number: integers, 0 and 1, an enum's number, seconds. nanos: of times and durations. text: of texts and bytes. What is not of the type is zero. */
struct filter_value {
    int64_t number;
    int32_t nanos;
    struct slice text;
};

/* One comparison. fields[0..field_count): from the message to the last field; key: of a map, the last one. */
struct filter_predicate {
    const ProtobufCFieldDescriptor **fields;
    unsigned field_count;
    bool has_key;
    struct slice key;
    enum filter_type type; /* of what is compared: the last field, or the value under the key */
    enum filter_op op;
    struct filter_value *values; /* IN: sorted, none twice; PRESENT: none; else one */
    unsigned value_count;
    /* of the match */
    bool by_occurrence; /* what it looks at has no default: messages (times too), elements, keys. PRESENT: that it is there is enough */
    bool on_default;    /* what it says of the default, when its message is there without it */
    unsigned index;     /* of its truth */
    struct filter_predicate *next_of_step, *next_owned;
};

/* The tree of operators: AND and OR have two children or more and none of their own kind, NOT has one that is no NOT. */
enum filter_node_kind { FILTER_PREDICATE, FILTER_AND, FILTER_OR, FILTER_NOT };
struct filter_node {
    enum filter_node_kind kind;
    unsigned depth; /* 0: a predicate */
    struct filter_predicate *predicate;
    struct filter_node *first, *next;
};

/* The tree of fields: what the walk over a message stops at. */
enum filter_step_kind {
    STEP_MESSAGE,  /* of a singular message */
    STEP_ELEMENTS, /* of a repeated one */
    STEP_MAP,      /* its children are keys */
    STEP_KEY,
    STEP_VALUE,
    STEP_VALUES, /* a repeated text */
};
struct filter_step {
    enum filter_step_kind kind;
    uint32_t number;
    enum filter_type type; /* of STEP_VALUE and STEP_VALUES */
    bool narrow;           /* 32 bits on the wire's 64 */
    struct slice key;      /* STEP_KEY */
    uint64_t wanted;       /* pb_number_bit of each child */
    struct filter_step *children, *next;
    struct filter_predicate *predicates; /* about this field itself */
    struct filter_predicate *owned;      /* the root and STEP_ELEMENTS: predicates whose innermost repeated message this is */
};

struct filter {
    struct filter_node *root; /* NULL: empty */
    struct filter_step fields;
    unsigned predicate_count;
};

/* ---- filter_field.c: names and literals ---- */

enum filter_type filter_type_of(const ProtobufCFieldDescriptor *field);
static inline bool filter_is_repeated(const ProtobufCFieldDescriptor *field) { return field->label == PROTOBUF_C_LABEL_REPEATED; }
static inline bool filter_is_map(const ProtobufCFieldDescriptor *field) { return filter_type_of(field) == FILTER_MAP; }
const ProtobufCFieldDescriptor *filter_field_named(const ProtobufCMessageDescriptor *type, struct slice name);
/* The fields of a schema's prefix, "after.items"; how many. */
unsigned filter_prefix_fields(const ProtobufCMessageDescriptor *type, const char *prefix, const ProtobufCFieldDescriptor *fields[FILTER_PATH_MAX]);
/* A message that is compared by one of its fields: Money by its minor units, FieldMask by its paths. NULL: none of these. */
const ProtobufCFieldDescriptor *filter_field_behind(const ProtobufCFieldDescriptor *field);
/* The name nearest to what was written, for people; NULL: nothing is near. In the arena where it is a path. */
const char *filter_field_nearest(const struct filter_schema *schema, const ProtobufCMessageDescriptor *type, struct slice written, struct arena *arena);
const char *filter_enum_nearest(const ProtobufCEnumDescriptor *type, struct slice written);

struct filter_literal {
    struct slice text; /* a quoted one: without quotes and escapes */
    bool quoted;
};
/* true: *out is what the literal says as a value of this field, or of a map's value (field NULL). Borrows the literal's text. */
bool filter_value_read(enum filter_type type, const ProtobufCFieldDescriptor *field, const struct filter_literal *l, struct filter_value *out);
/* "an integer": what filter_value_read wanted. */
const char *filter_value_expected(enum filter_type type);
int filter_value_compare(enum filter_type type, const struct filter_value *a, const struct filter_value *b);
/* "the text holds the value as whole words", docs/FILTER.md. */
bool filter_text_has(struct slice text, struct slice words);

/* ---- filter_match.c ---- */

bool filter_predicate_holds(const struct filter_predicate *p, const struct filter_value *v);

#endif
