#!/usr/bin/python3
"""docs/ERRORS.md from proto/status.tbl and proto/status_doc.tbl. With --check: says what is out of date or not proved by any test, and changes nothing."""
import glob
import os
import re
import sys

os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGE = "docs/ERRORS.md"
AGAIN = {"NEVER": "no", "SAME": "yes, the same request_id", "LATER": "after the delay"}
TEXT = r'((?:"(?:[^"\\]|\\.)*"\s*)+)'

HEAD = """# Errors

Made from `proto/status.tbl` and `proto/status_doc.tbl` by `make errors-doc`: change those.

A failed call has `grpc-status`, `grpc-message` (a sentence for people, which may change) and `grpc-status-details-bin`: a google.rpc.Status with

- **ErrorInfo**: `reason` (below), `domain` = `orderdb`, `metadata` (below). Code, reason and keys are the contract; programs decide by the reason.
- **BadRequest** where fields are at fault: one violation each, `field` is its path (`order.items[3].quantity`), the text names limit and value. At most 20.
- **RetryInfo** where waiting helps, and `grpc-retry-pushback-ms` with the same delay in the trailers.

A seek of a consumer group that failed half-way has, whatever the reason, the metadata `moved_slots` and `unmoved_slots`, and is gone on with by the servers ([API](API.md#consumer-groups)).

The same Status stands in the results of batches and in `rejected` of an import, there with the paths of the one request.

**Again**: may the same call be sent again with the same request_id? `no`: it would be answered the same. For any call that got no answer at all (a lost connection) the answer is yes.

"""


def read(path):
    with open(path) as f:
        return f.read()


def unquoted(text):
    return "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', text)).replace('\\"', '"')


def tables():
    rows = re.findall(r'^STATUS\((\w+), GRPC_(\w+), "(\w*)", (\w+)\)', read("proto/status.tbl"), re.M)
    words = read("proto/status_doc.tbl")
    docs = {name: (since, unquoted(when), unquoted(remedy)) for name, since, when, remedy in re.findall(r"^DOC\((\w+), (\w+),\s*" + TEXT + r",\s*" + TEXT + r"\)", words, re.M)}
    metas = [(name, key, unquoted(meaning)) for name, key, meaning in re.findall(r"^META\((\w+), (\w+), " + TEXT + r"\)", words, re.M)]
    names = [r[0] for r in rows]
    wrong = ["status.tbl has %s, status_doc.tbl has not" % n for n in names if n not in docs]
    wrong += ["status_doc.tbl has %s, status.tbl has not" % n for n in docs if n not in names]
    wrong += ["META of %s, which is not there" % n for n, _, _ in metas if n not in docs]
    if len(re.findall(r"^DOC\(", words, re.M)) != len(docs) or len(re.findall(r"^META\(", words, re.M)) != len(metas):
        wrong.append("status_doc.tbl: a row that cannot be read")
    return rows, docs, metas, wrong


def page(rows, docs, metas):
    shown = [r for r in rows if docs[r[0]][0] == "NOW"]
    out = [HEAD, "| Reason | Code | Again |\n|---|---|---|\n"]
    out += ["| [%s](#%s) | %s | %s |\n" % (reason, name.lower(), code, AGAIN[retry]) for name, code, reason, retry in shown]
    for name, code, reason, retry in shown:
        _, when, remedy = docs[name]
        out.append("\n## %s\n\n" % name if name == reason else "\n## %s\n\nReason `%s`. " % (name, reason))
        out.append("%s. Again: %s.\n\n%s\n\n%s\n" % (code, AGAIN[retry], when, remedy))
        keys = [(key, meaning) for n, key, meaning in metas if n == name]
        if keys:
            out.append("\n| Metadata | |\n|---|---|\n" + "".join("| `%s` | %s |\n" % row for row in keys))
    out.append("\n## Not answered yet\n\nIn the contract, for what later versions bring: ")
    out.append("; ".join("%s (%s): %s" % (reason, code, docs[name][1][0].lower() + docs[name][1][1:].rstrip(".")) for name, code, reason, _ in rows if docs[name][0] == "LATER") + ".\n")
    out.append("\nINTERNAL has no reason of its own: it is a bug, or a fault of the disk that the log tells.\n")
    return "".join(out)


def untold(metas):
    """Keys of metadata that the code sets and no page tells."""
    told = {key for _, key, _ in metas} | set(re.findall(r"`(\w+)`", HEAD))
    for path in sorted(glob.glob("engine/*.c") + glob.glob("server/*.c")):
        for key in re.findall(r'failure_meta\([^"]*?,\s*"(\w+)"', read(path)):
            if key not in told:
                yield "%s sets the metadata %s, of which status_doc.tbl says nothing" % (path, key)


def unproved(rows, docs, metas):
    """Reasons and metadata keys that no test names."""
    tests = "".join(read(f) for f in sorted(glob.glob("tests/unit/*.c") + glob.glob("tests/integration/*.py")) if not f.endswith("/test_status.c"))
    for name, _, reason, _ in rows:
        if docs[name][0] == "NOW" and name != "CANCELLED" and not re.search(r'STATUS_%s\b|"%s"' % (name, reason), tests):
            yield "no test provokes %s" % name
    for name, key, _ in metas:
        if not re.search(r'"%s"' % key, tests):
            yield "no test asks for the metadata %s of %s" % (key, name)


def main():
    rows, docs, metas, wrong = tables()
    if not wrong:
        made = page(rows, docs, metas)
        if "--check" in sys.argv:
            wrong += list(unproved(rows, docs, metas)) + list(untold(metas))
            if not os.path.exists(PAGE) or read(PAGE) != made:
                wrong.append("%s is not what the tables say: make errors-doc" % PAGE)
        else:
            with open(PAGE, "w") as f:
                f.write(made)
    for w in wrong:
        print(w)
    sys.exit(bool(wrong))


main()
