/* tools/yaml.h: YAML and JSON become JSON, lines are found again, and what is not taken is said with its line. */
#include "tests/lib/test.h"

#include "proto/base/mem.h"
#include "tools/yaml.h"

static void assert_json(const char *text, const char *json)
{
    struct yaml y;
    unsigned line;
    char error[YAML_ERROR_BYTES];
    if (!yaml_read(slice_str(text), &y, &line, error)) fail_msg("line %u: %s", line, error);
    assert_slice(buf_slice(&y.json), json);
    yaml_fini(&y);
}

static void assert_refused(const char *text, unsigned at, const char *part)
{
    struct yaml y;
    unsigned line;
    char error[YAML_ERROR_BYTES];
    assert_false(yaml_read(slice_str(text), &y, &line, error));
    if (!strstr(error, part)) fail_msg("\"%s\" does not hold \"%s\"", error, part);
    if (line != at) fail_msg("%s: line %u, expected %u", error, line, at);
    yaml_fini(&y);
}

static void scalars_are_those_of_the_core_schema(void **state)
{
    assert_json("a: yes\nb: true\nc: 007\nd: 1.5\ne: \"1\"\nf:\ng: ~\nh: -3\ni: 30m\nj: 1e3\nk: '~'\nl: +5\n",
                "{\"a\":\"yes\",\"b\":true,\"c\":7,\"d\":1.5,\"e\":\"1\",\"f\":null,\"g\":null,\"h\":-3,\"i\":\"30m\",\"j\":1000,\"k\":\"~\",\"l\":5}");
    assert_json("n: 123456789012345678901234567890\n", "{\"n\":\"123456789012345678901234567890\"}");
    assert_json("n: 1e999\n", "{\"n\":\"1e999\"}");
    assert_json("|\n  two\n  lines\n", "\"two\\nlines\\n\"");
}

static void json_is_yaml(void **state) { assert_json("{\"a\": [1, {\"b\": \"c\"}], \"d\": {}, \"e\": []}", "{\"a\":[1,{\"b\":\"c\"}],\"d\":{},\"e\":[]}"); }

static void lines_are_found_by_path(void **state)
{
    struct yaml y;
    unsigned line;
    char error[YAML_ERROR_BYTES];
    const char *text = "name: shop\nstates:\n  - name: A\n    initial: true\n  - name: B\n    timers:\n      - after: 5s\n";
    assert_true(yaml_read(slice_str(text), &y, &line, error));
    assert_int_equal(yaml_line(&y, "name"), 1);
    assert_int_equal(yaml_line(&y, "states[0].initial"), 4);
    assert_int_equal(yaml_line(&y, "states[1].timers[0].after"), 7);
    assert_int_equal(yaml_line(&y, "states[1].terminal"), 5); /* what would hold it */
    assert_int_equal(yaml_line(&y, "edges"), 1);
    yaml_fini(&y);
}

static void what_is_not_taken_is_said_with_its_line(void **state)
{
    char deep[200];
    assert_refused("a: 1\nb: 2\na: 3\n", 3, "a: is given twice");
    assert_refused("a:\n  - x: 1\n    x: 2\n", 3, "a[0].x: is given twice");
    assert_refused("a: &x 1\nb: *x\n", 1, "anchors");
    assert_refused("a: 1\nb: !!str 5\n", 2, "tags");
    assert_refused("", 1, "empty");
    assert_refused("# nothing\n", 2, "empty");
    assert_refused("a: 1\n---\nb: 2\n", 2, "one document");
    assert_refused("a: [1,\nb: 2", 3, "did not find");
    assert_refused("a: \"\\0\"\n", 1, "NUL");
    assert_refused("a: \xff\n", 1, "");
    assert_refused("? [a]\n: b\n", 1, "a key must be a name");
    memset(deep, '[', sizeof deep - 1), deep[sizeof deep - 1] = 0;
    assert_refused(deep, 1, "nested too deeply");
}

static void sizes_are_bounded(void **state)
{
    struct buf b = {0};
    struct yaml y;
    unsigned line;
    char error[YAML_ERROR_BYTES];
    for (int i = 0; i < YAML_NODES_MAX; i++) check(buf_append(&b, SLICE_LIT("- x\n")));
    assert_false(yaml_read(buf_slice(&b), &y, &line, error));
    assert_string_equal(error + strlen(error) - 15, "too many fields");
    yaml_fini(&y);
    check(buf_reserve(&b, YAML_BYTES_MAX));
    assert_false(yaml_read(slice_of(b.data, YAML_BYTES_MAX + 1), &y, &line, error));
    assert_string_equal(error, "larger than 1 MiB");
    yaml_fini(&y);
    buf_fini(&b);
}

static void plain_texts_stay_what_they_are(void **state)
{
    static const char *const plain[] = {"PAID", "a-b_c", "v1.2x", "30m"}, *const quoted[] = {"", "true", "null", "12", "1.5", "-x", "a b", "a: b", "1e3", "~", "é", "No", "off", "y", "0x1f", "2026-01-31", "1.5s", "1:30"};
    for (size_t i = 0; i < ARRAY_LEN(plain); i++) assert_true(yaml_is_plain(plain[i]));
    for (size_t i = 0; i < ARRAY_LEN(quoted); i++) assert_false(yaml_is_plain(quoted[i]));
}

static void json_is_written_in_blocks(void **state)
{
    static const char json[] = "{\"a\": \"PAID\", \"id\": \"12\", \"num\": -1.5, \"on\": true, \"e\": [], \"l\": [{\"t\": \"a \\\"b\\\"\\n\\u0001 \xe6\x94\xb6\"}, [\"no\", null]], \"o\": {}}";
    struct buf out = {0};
    struct yaml y;
    unsigned line;
    char error[YAML_ERROR_BYTES];
    assert_true(yaml_write(slice_str(json), &out));
    assert_true(buf_append(&out, slice_of("", 1)));
    assert_string_equal((char *)out.data, "a: PAID\nid: \"12\"\nnum: -1.5\n\"on\": true\ne: []\nl:\n- t: \"a \\\"b\\\"\\n\\x01 \xe6\x94\xb6\"\n- - \"no\"\n  - null\no: {}\n");
    assert_true(yaml_read(slice_of(out.data, out.len - 1), &y, &line, error)); /* and it is read as what it was */
    assert_memory_equal(y.json.data, "{\"a\":\"PAID\",\"id\":\"12\",\"num\":-1.5,\"on\":true,\"e\":[],\"l\":[{\"t\":\"a \\\"b\\\"\\n\\u0001 \xe6\x94\xb6\"},[\"no\",null]],\"o\":{}}", y.json.len);
    yaml_fini(&y);
    out.len = 0;
    assert_false(yaml_write(SLICE_LIT("{\"a\": ["), &out));
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_are_those_of_the_core_schema),
        cmocka_unit_test(json_is_yaml),
        cmocka_unit_test(lines_are_found_by_path),
        cmocka_unit_test(what_is_not_taken_is_said_with_its_line),
        cmocka_unit_test(sizes_are_bounded),
        cmocka_unit_test(plain_texts_stay_what_they_are),
        cmocka_unit_test(json_is_written_in_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
