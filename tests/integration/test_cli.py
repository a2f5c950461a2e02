#!/usr/bin/python3
"""orderctl as a user has it, the load generator, and the Olist load: every number computed again here, from the CSV, by other code."""
import collections
import csv
import ctypes
import decimal
import json
import locale
import os
import pty
import random
import signal
import subprocess

import orderdb_test as t
from orderdb_test import equal, test, true

OLIST = os.environ.get("ORDERDB_OLIST") or os.path.join(t.ROOT, "..", "shared", "data", "olist")
UMBRELLA = ["--user", "ann", "--currency", "CNY", "--item", "sku=u1,title=雨伞\\, big,qty=2,price=19.99", "--freight", "5", "--discount", "1.5"]


def refused(p, code, *words):
    equal(p.returncode, code, "exit code (%s)" % p.stderr)
    equal(p.stdout, "", "stdout")
    for w in words:
        true(w in p.stderr, "%r is not in: %s" % (w, p.stderr))


_libc = ctypes.CDLL(None)
locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


def fits(text):
    """By the C library's wcwidth()."""
    for line in text.splitlines():
        true(sum(_libc.wcwidth(ord(c)) for c in line.rstrip()) <= 80, "wider than 80 columns: %r" % line)


# ---- orders
@test("order create: amounts by the currency's exponent, sums, replay with the same request id")
def _(server):
    create = ["order", "create", *UMBRELLA, "--request-id", "cli-request-0001", "--client-order-no", "W-1", "--merchant", "m7", "--attr", "channel=app",
              "--address", "recipient=Ann,phone=138,region=CN-31,line=Road 1\\, left", "--operator", "bob"]
    first = server.orderctl_json(*create)
    o = first["order"]
    equal(o["status"], "PENDING_PAYMENT")
    equal((o["items_total"]["minor_units"], o["payable"]["minor_units"]), ("3998", "4348"))
    equal((o["items"][0]["title"], o["items"][0]["quantity"]), ("雨伞, big", 2))
    equal((o["address"]["line"], o["attributes"]), ("Road 1, left", {"channel": "app"}))
    true("replayed" not in first)
    again = server.orderctl_json(*create)
    equal((again["order"]["order_id"], again["replayed"]), (o["order_id"], True))
    yen = server.orderctl_json("order", "create", "--user", "ann", "--currency", "JPY", "--item", "sku=j,price=1200,qty=3")
    equal(yen["order"]["payable"]["minor_units"], "3600")
    dinar = server.orderctl_json("order", "create", "--user", "ann", "--currency", "KWD", "--item", "sku=k,price=1.234")
    equal(dinar["order"]["payable"]["minor_units"], "1234")
    p = server.orderctl("order", "create", *UMBRELLA)
    fits(p.stdout)
    true("19.99 CNY" in p.stdout and "43.48 CNY" in p.stdout, p.stdout)


@test("order create -f: a whole request or an order alone, from a file or stdin")
def _(server):
    money = {"currency_code": "CNY", "minor_units": 500}
    order = {"userId": "file-1", "items": [{"sku_id": "s", "quantity": 1, "unit_price": money}], "itemsTotal": money, "payable": money}
    path = os.path.join(server.directory, "order.json")
    with open(path, "w") as f:
        json.dump({"order": order, "options": {"request_id": "cli-request-file-1"}}, f)
    one = server.orderctl_json("order", "create", "-f", path)["order"]["order_id"]
    equal(server.orderctl_json("order", "create", "-f", path)["order"]["order_id"], one)
    true(server.orderctl_json("order", "create", "-f", "-", input=json.dumps(order))["order"]["order_id"] != one)
    refused(server.orderctl("order", "create", "-f", "-", input='{"order": {"itemz": []}}', check=False), 2, "order.itemz: no such field")


@test("order transition, get, history: events, targets, guards, what a refusal says")
def _(server):
    id_ = server.orderctl_json("order", "create", *UMBRELLA)["order"]["order_id"]
    paid = server.orderctl_json("order", "transition", id_, "pay", "--request-id", "cli-request-pay-1", "--operator", "bob", "--reason", "cash")
    equal((paid["order"]["status"], paid["entry"]["version"]), ("PAID", "2"))
    refused(server.orderctl("order", "transition", id_, "pay", check=False), 1, "FAILED_PRECONDITION STATUS_MISMATCH", "status: PAID", "winner_request_id: cli-request-pay-1")
    refused(server.orderctl("order", "transition", id_, "ship", "--version", "1", check=False), 1, "ABORTED VERSION_MISMATCH", "version: 2")
    refused(server.orderctl("order", "transition", id_, "ship", "--expect", "SHIPPED,DELIVERED", check=False), 1, "STATUS_MISMATCH")
    refused(server.orderctl("order", "transition", id_, "fly", check=False), 1, "EDGE_NOT_DEFINED")
    p = server.orderctl("order", "transition", id_, "--to", "SHIPPED", "--expect", "PAID")
    true("PAID -> SHIPPED (ship), version 3" in p.stdout, p.stdout)
    history = server.orderctl_json("order", "history", id_)["entries"]
    equal([(h["event"], h["to_status"]) for h in history], [("create", "PENDING_PAYMENT"), ("pay", "PAID"), ("ship", "SHIPPED")])
    equal((history[1]["operator"], history[1]["reason"]), ("bob", "cash"))
    p = server.orderctl("order", "history", id_)
    fits(p.stdout)
    p = server.orderctl("order", "get", id_)
    fits(p.stdout)
    true("SHIPPED" in p.stdout and "雨伞, big" in p.stdout)
    refused(server.orderctl("order", "get", "7", check=False), 1, "NOT_FOUND ORDER_NOT_FOUND")


@test("order transition, update: content in the same commit, by itself, and cleared")
def _(server):
    id_ = server.orderctl_json("order", "create", *UMBRELLA, "--attr", "a=1", "--type", "normal")["order"]["order_id"]
    paid = server.orderctl_json("order", "transition", id_, "pay", "--payment", "no=p1,channel=card,amount=43.48,currency=CNY,time=2026-01-31T08:00:00Z",
                                "--attr", "b=2", "--attr", "c=3", "--clear", "order_type")
    o = paid["order"]
    equal((o["status"], o["version"], o["attributes"], "order_type" in o), ("PAID", "2", {"b": "2", "c": "3"}, False))
    equal(o["payments"], [{"payment_no": "p1", "channel": "card", "amount": {"currency_code": "CNY", "minor_units": "4348"}, "pay_time": "2026-01-31T08:00:00Z"}])
    path = os.path.join(server.directory, "extension")
    with open(path, "wb") as f:
        f.write(b"\x00\xff")
    o = server.orderctl_json("order", "update", id_, "--shipment", "no=n1,carrier=c,sku=a,sku=b", "--address", "line=Road 1\\, left", "--extension", path, "--version", "2",
                             "--request-id", "cli-request-update-1")["order"]
    equal((o["version"], o["shipments"], o["address"], o["extension"]), ("3", [{"tracking_no": "n1", "carrier": "c", "sku_ids": ["a", "b"]}], {"line": "Road 1, left"}, "AP8="))
    again = server.orderctl("order", "update", id_, "--shipment", "no=n1,carrier=c,sku=a,sku=b", "--address", "line=Road 1\\, left", "--extension", path, "--version", "2",
                            "--request-id", "cli-request-update-1")
    true("had been made before" in again.stdout and "Road 1, left" in again.stdout, again.stdout)
    fits(again.stdout)
    dry = server.orderctl("order", "update", id_, "--clear", "address,payments", "--validate-only")
    true("Nothing was written" in dry.stdout and "Road 1" not in dry.stdout, dry.stdout)
    o = server.orderctl_json("order", "update", id_, "--clear", "address,payments")["order"]
    equal((o["version"], "address" in o, "payments" in o), ("4", False, False))
    refused(server.orderctl("order", "update", id_, "--clear", "items", check=False), 1, "FIELD_INVALID", "update_mask.paths[0]")
    refused(server.orderctl("order", "update", id_, "--attr", "a=1", "--version", "1", check=False), 1, "VERSION_MISMATCH")
    for arguments, words in ((["update", id_], "name what is to change"), (["update", id_, "--clear", ","], "names no field"),
                             (["update", id_, "--attr", "a=1", "--clear", "attributes"], "it is set too"), (["update", id_, "--payment", "no=1,amount=5"], "no currency"),
                             (["transition", id_, "ship", "--payment", "amount=1.234,currency=CNY"], "not an amount in CNY"),
                             (["transition", id_, "ship", "--shipment", "box=1"], "no part"), (["transition", id_, "ship", "--attr", "x"], "key=value"),
                             (["transition", id_, "ship", "--payment", "time=soon"], "is not a time"), (["update", id_, "--extension", "/nowhere"], "cannot read")):
        refused(server.orderctl("order", *arguments, check=False), 2, words)
    equal(server.orderctl_json("order", "get", id_)["version"], "4")


@test("order verify: the chain of real histories holds, by id and by user; what is not there is refused")
def _(server):
    ids = [server.orderctl_json("order", "create", "--user", "verifier", "--currency", "CNY", "--item", "sku=a,price=%d" % i, "--reason", "雨")["order"]["order_id"]
           for i in range(4)]
    for event in ("pay", "ship", "deliver"):
        server.orderctl("order", "transition", ids[0], event, "--operator", "bob")
    equal(server.orderctl_json("order", "verify", *ids), {"orders": 4, "entries": 7})
    p = server.orderctl("order", "verify", ids[0])
    head = server.call("ListOrderHistory", order_id=int(ids[0])).entries[-1].chain_hash.hex()
    fits(p.stdout)
    true("versions 1 to 4 hold" in p.stdout and head in p.stdout, p.stdout)
    p = server.orderctl("order", "verify", "--user", "verifier")
    equal(p.stdout, "4 orders, 7 entries: every link holds\n")
    refused(server.orderctl("order", "verify", "7", check=False), 1, "ORDER_NOT_FOUND")
    refused(server.orderctl("order", "verify", check=False), 2, "--user USER")


@test("-o yaml: whatever prints JSON prints YAML, with the same content")
def _(server):
    create = ["order", "create", "--user", "yaml", "--currency", "EUR", "--item", "sku=no,title=Tea: green,qty=2,price=7.50", "--request-id", "cli-yaml-request-01"]
    order = server.orderctl_json(*create)["order"]
    shown = server.orderctl("order", "get", order["order_id"], "-o", "yaml").stdout.splitlines()
    for line in ('order_id: "%s"' % order["order_id"], "user_id: yaml", "status: PENDING_PAYMENT", 'version: "1"', "items:", '- sku_id: "no"', '  title: "Tea: green"', "  quantity: 2", "    currency_code: EUR"):
        true(line in shown, "%r is not in %s" % (line, shown))
    again = server.orderctl(*create, "-o", "yaml").stdout.splitlines()
    true("replayed: true" in again and "order:" in again and "  status: PENDING_PAYMENT" in again, again)
    equal(server.orderctl("order", "verify", order["order_id"], "-o", "yaml").stdout, "orders: 1\nentries: 1\n")
    equal(server.orderctl("group", "list", "-o", "yaml").stdout, "[]\n")
    for name in ("yaml-a", "yaml-b"):
        server.orderctl("group", "create", name)
    equal([line for line in server.orderctl("group", "list", "--output=yaml").stdout.splitlines() if line.startswith("- ")], ["- group: yaml-a", "- group: yaml-b"])
    for name in ("yaml-a", "yaml-b"):
        equal(server.orderctl("group", "delete", name, "--yes", "-o", "yaml").stdout, "{}\n")
    for how in (["-o", "yaml"], ["--format", "yaml"], ["-o", "json", "--format", "yaml"]):
        tail = server.orderctl("stream", "tail", "--user", "yaml", "--from", "earliest", "--stop-at-end", *how).stdout.splitlines()
        equal((tail[0], tail.count("---"), "order_id: \"%s\"" % order["order_id"] in tail), ("---", 1, True))
    true("partitions:" in server.orderctl("status", "-o", "yaml").stdout.splitlines())
    refused(server.orderctl("status", "-o", "xml", check=False), 2, "--output is json, yaml or table, not xml")


@test("index check: orders and index rows agree, in every partition or in one; what is no partition is refused")
def _(server):
    for i in range(5):
        server.orderctl("order", "create", "--user", "index-%d" % i, "--currency", "CNY", "--item", "sku=a,price=1", "--item", "sku=b,price=1")
    all_ = server.orderctl_json("index", "check", "--rate", "1000000")
    true(int(all_["orders"]) >= 5 and int(all_["rows"]) >= 3 * 5 and all_["defects"] == "0" and all_["building"] == 0, all_)
    parts = [server.orderctl_json("index", "check", "--partition", str(p), "--rate", "1000000") for p in range(all_["partitions"])]
    equal(sum(int(p["orders"]) for p in parts), int(all_["orders"]))
    equal(sum(int(p["rows"]) for p in parts), int(all_["rows"]))
    p = server.orderctl("index", "check")
    fits(p.stdout)
    true(p.stdout.endswith("they agree both ways\n"), p.stdout)
    refused(server.orderctl("index", "check", "--partition", "1024", check=False), 1, "partition_id")
    refused(server.orderctl("index", "check", "--rate", "0", check=False), 2, "--rate")


@test("order timers, timer-set, timer-cancel")
def _(server):
    id_ = server.orderctl_json("order", "create", *UMBRELLA)["order"]["order_id"]
    equal(server.orderctl_json("order", "timers", id_)["timers"][0]["timer_id"], "pay_timeout")
    set_ = server.orderctl_json("order", "timer-set", id_, "remind", "--at", "2030-01-31T08:00:00Z", "--event", "cancel", "--expect", "PENDING_PAYMENT,PAID")
    equal(set_["timer"], {"timer_id": "remind", "fire_time": "2030-01-31T08:00:00Z", "event": "cancel", "expected_statuses": ["PENDING_PAYMENT", "PAID"]})
    true("2030-01-31T08:00:00Z" in server.orderctl("order", "timers", id_).stdout)
    true("pay_timeout" in server.orderctl("order", "timer-set", id_, "pay_timeout", "--in", "2h", "--event", "pay_timeout", "--validate-only").stdout)
    equal(server.orderctl("order", "timer-cancel", id_, "remind").stdout, "%s: timer remind cancelled\n" % id_)
    refused(server.orderctl("order", "timer-cancel", id_, "remind", check=False), 1, "TIMER_NOT_FOUND")
    refused(server.orderctl("order", "timer-set", id_, "remind", check=False), 2, "--in or --at")
    refused(server.orderctl("order", "timer-set", id_, "remind", "--in", "soon", check=False), 2, "90s")
    server.orderctl("order", "transition", id_, "pay")
    equal(server.orderctl("order", "timers", id_).stdout, "no timers\n")


@test("order batch-get, get --as-of, outcome")
def _(server):
    made = server.orderctl_json("order", "create", *UMBRELLA, "--request-id", "cli-outcome-0001")["order"]
    id_ = made["order_id"]
    server.orderctl("order", "transition", id_, "pay")
    equal(server.orderctl_json("order", "get", id_, "--as-of", made["create_time"])["status"], "PENDING_PAYMENT")
    equal(server.orderctl_json("order", "get", id_)["status"], "PAID")
    refused(server.orderctl("order", "get", id_, "--as-of", "yesterday", check=False), 2, "not a time")
    refused(server.orderctl("order", "get", id_, "--as-of", "2020-01-01", check=False), 1, "NOT_FOUND ORDER_NOT_FOUND: order %s was not there yet" % id_)
    whole = server.orderctl_json("order", "get", id_, "--history", "100")
    equal([h["version"] for h in whole["history"]], [str(v + 1) for v in range(int(whole["version"]))])
    equal(whole["history"], server.orderctl_json("order", "history", id_)["entries"])
    equal("history" in server.orderctl_json("order", "get", id_), False)
    refused(server.orderctl("order", "get", id_, "--history", "101", check=False), 1, "history_entries")
    both = server.orderctl_json("order", "batch-get", id_, "7")
    equal(([o["order_id"] for o in both["orders"]], both["missing_ids"]), ([id_], ["7"]))
    p = server.orderctl("order", "batch-get", id_, "7")
    fits(p.stdout)
    true(id_ in p.stdout and "missing: 7" in p.stdout, p.stdout)
    equal(server.orderctl("order", "outcome", "cli-outcome-0001", "--user", "ann").stdout, "applied: order %s, version 1\n" % id_)
    equal(server.orderctl_json("order", "outcome", "cli-outcome-0002", "--user", "ann"), {"state": "NOT_APPLIED"})
    refused(server.orderctl("order", "create", *UMBRELLA, "--request-id", "cli-outcome-0002", check=False), 1, "REQUEST_FENCED")
    refused(server.orderctl("order", "outcome", "cli-outcome-0001", check=False), 2, "--user is needed")


def token_of(answer):
    return "%d:%s" % (answer["token"].get("slot", 0), answer["token"]["seq"])


def printed_token(p):
    return [line.split()[1] for line in p.stdout.splitlines() if line.startswith("token ")]


@test("commit tokens: writes print them; get, batch-get, list, history --at-least, --max-staleness, --summary")
def _(server):
    create = ["order", "create", "--user", "tokens", "--currency", "CNY", "--item", "sku=a,price=1", "--address", "line=Road 1", "--request-id", "cli-token-create-1"]
    made = server.orderctl_json(*create)
    id_, token = made["order"]["order_id"], token_of(made)
    slot, seq = token.split(":")
    equal(printed_token(server.orderctl(*create)), [token])
    pay = ["order", "transition", id_, "pay", "--request-id", "cli-token-pay-0001"]
    paid = server.orderctl_json(*pay)
    equal(token_of(paid), "%s:%d" % (slot, int(seq) + 1))
    equal(printed_token(server.orderctl(*pay)), [token_of(paid)])
    p = server.orderctl("order", "update", id_, "--attr", "a=b")
    equal(printed_token(p), ["%s:%d" % (slot, int(seq) + 2)])
    fits(p.stdout)
    newest = printed_token(p)[0]
    equal(printed_token(server.orderctl("order", "update", id_, "--attr", "a=c", "--validate-only")), [])
    equal(printed_token(server.orderctl("order", "get", id_)), [])
    p = server.orderctl("order", "batch-transition", "ship", id_, "7", check=False)
    fits(p.stdout)
    true("%s:%d" % (slot, int(seq) + 3) in p.stdout and p.returncode == 1, p.stdout)
    for bound in (["--at-least", newest], ["--max-staleness", "0s"], ["--max-staleness=1m30s"], ["--at-least", newest, "--max-staleness", "0.5s"]):
        equal(server.orderctl_json("order", "get", id_, *bound)["version"], "4")
        equal(server.orderctl_json("order", "batch-get", id_, *bound)["orders"][0]["version"], "4")
        equal(server.orderctl_json("order", "list", "tokens", *bound)["orders"][0]["version"], "4")
        equal(len(server.orderctl_json("order", "history", id_, *bound)["entries"]), 4)
    for what in (["get", id_], ["batch-get", id_], ["list", "tokens"], ["history", id_]):
        refused(server.orderctl("order", *what, "--at-least", "%s:999999" % slot, check=False), 1, "FIELD_INVALID", "read.at_least.seq")
        refused(server.orderctl("order", *what, "--at-least", "16384:1", check=False), 1, "FIELD_INVALID", "read.at_least.slot")
        for bad in ("7", ":1", "1:", "1:2:3", "-1:2", "1:-2", "x:1", "1:99999999999999999999", "9999999999:1"):
            refused(server.orderctl("order", *what, "--at-least", bad, check=False), 2, "is not SLOT:SEQ")
        refused(server.orderctl("order", *what, "--at-least", "1:2", "--at-least", "2:1", check=False), 2, "one token")
        for bad in ("soon", "5", "-1s", ""):
            refused(server.orderctl("order", *what, "--max-staleness", bad, check=False), 2, "--max-staleness", "5s")
        text = server.orderctl("order", what[0], "--help").stdout
        fits(text)
        true("--at-least SLOT:SEQ" in text and "--max-staleness TIME" in text, text)
    equal([key in server.orderctl_json("order", "get", id_, *flag) for flag in ([], ["--summary"]) for key in ("items", "address")], [True, True, False, False])
    equal(["items" in server.orderctl_json("order", "batch-get", id_, *flag)["orders"][0] for flag in ([], ["--summary"])], [True, False])
    equal(["items" in server.orderctl_json("order", "list", "tokens", *flag)["orders"][0] for flag in ([], ["--summary"], ["--full"])], [False, False, True])
    refused(server.orderctl("order", "list", "tokens", "--summary", "--full", check=False), 2, "exclude each other")


@test("order create, transition --validate-only: the decision, and nothing written")
def _(server):
    p = server.orderctl("order", "create", "--user", "trier", "--currency", "CNY", "--item", "sku=a,price=1", "--validate-only")
    true("PENDING_PAYMENT" in p.stdout and p.stdout.endswith("Nothing was written.\n"), p.stdout)
    true("orders" not in server.orderctl_json("order", "list", "trier"))
    refused(server.orderctl("order", "create", "--user", "trier", "--currency", "CNY", "--item", "sku=,price=1", "--validate-only", check=False), 1, "order.items[0].sku_id")
    id_ = server.orderctl_json("order", "create", "--user", "trier", "--currency", "CNY", "--item", "sku=a,price=1")["order"]["order_id"]
    p = server.orderctl("order", "transition", id_, "pay", "--validate-only")
    true("PENDING_PAYMENT -> PAID (pay), version 2" in p.stdout and "Nothing was written." in p.stdout, p.stdout)
    refused(server.orderctl("order", "transition", id_, "ship", "--validate-only", check=False), 1, "STATUS_MISMATCH")
    equal(server.orderctl_json("order", "get", id_)["status"], "PENDING_PAYMENT")


@test("order batch-create, batch-transition: a line for each, refusals told, the whole command again has no second effect")
def _(server):
    money = {"currency_code": "CNY", "minor_units": "500"}
    orders = [{"user_id": "batch-%d" % (i % 3), "items": [{"sku_id": "s", "quantity": int(i != 4), "unit_price": money}], "client_order_no": "b%d" % i} for i in range(12)]
    orders[7] = {"order": dict(orders[7], client_order_no="b1")}  # a whole request, of the same user as number 2
    text = "\n".join(json.dumps(o) for o in orders[:6]) + "\n\n" + "\n".join(json.dumps(o) for o in orders[6:]) + "\n"
    create = ["order", "batch-create", "-", "--request-id", "cli-batch-create", "--operator", "bob"]
    p = server.orderctl(*create, input=text, check=False)
    equal(p.returncode, 1, p.stderr)
    fits(p.stdout)
    true("\n10 done, 2 refused\n" in p.stdout and "CLIENT_ORDER_NO~" not in p.stdout and "CLIENT_ORDER_NO_TAKEN" in p.stdout, p.stdout)
    true("refused: 5: LIMIT_EXCEEDED: order.items[0].quantity: " in p.stderr and "refused: 8: CLIENT_ORDER_NO_TAKEN: " in p.stderr, p.stderr)
    again = json.loads(server.orderctl("-o", "json", *create, input=text, check=False).stdout)["results"]
    equal(["ok" in r for r in again], [i not in (4, 7) for i in range(12)])
    true(all(r["ok"]["replayed"] for r in again if "ok" in r), "replayed")
    ids = [r["ok"]["order"]["order_id"] for r in again if "ok" in r]
    equal(server.orderctl_json("order", "history", ids[0])["entries"][0]["request_id"], "cli-batch-create-1")
    p = server.orderctl("order", "batch-transition", "pay", *ids[:3], "7", "--validate-only", check=False)
    true(p.returncode == 1 and "3 done, 1 refused; nothing was written" in p.stdout and "refused: 4: ORDER_NOT_FOUND" in p.stderr, p.stdout + p.stderr)
    p = server.orderctl("order", "batch-transition", "pay", *ids[:3], "--expect", "PENDING_PAYMENT")
    fits(p.stdout)
    true("3 done, 0 refused" in p.stdout, p.stdout)
    equal(len(server.orderctl_json("order", "history", ids[0])["entries"][1]["request_id"]), 32, "the client gave it an id")
    refused(server.orderctl("order", "batch-create", "-", input="{}\n{nope", check=False), 2, "-: line 2: ")
    refused(server.orderctl("order", "batch-create", "-", input="\n", check=False), 2, "no order in it")
    refused(server.orderctl("order", "batch-create", "-", input="{}\n" * 1001, check=False), 2, "more than 1000")
    refused(server.orderctl("order", "batch-transition", "pay", ids[0], "x", check=False), 2, "not an order id")
    p = server.orderctl("order", "batch-create", "-", "--atomic", input="\n".join(json.dumps(dict(o, user_id="batch-atomic")) for o in orders[:5]), check=False)
    refused(p, 1, "requests[4].order.items[0].quantity")
    equal(server.orderctl_json("order", "list", "batch-atomic").get("total_size", "0"), "0")


@test("order list: pages, tokens, statuses, times, totals and counts")
def _(server):
    ids = [server.orderctl_json("order", "create", "--user", "lister", "--currency", "CNY", "--item", "sku=a,price=%d" % i, "--client-order-no", "L%d" % i)["order"]["order_id"]
           for i in range(7)]
    server.orderctl("order", "transition", ids[0], "pay")
    page = server.orderctl_json("order", "list", "lister", "--page-size", "3")
    equal([o["order_id"] for o in page["orders"]], ids[:3:-1])
    equal((page["total_size"], page["status_counts"]), ("7", {"PAID": "1", "PENDING_PAYMENT": "6"}))
    page = server.orderctl_json("order", "list", "lister", "--page-size", "3", "--page-token", page["next_page_token"])
    equal([o["order_id"] for o in page["orders"]], ids[3:0:-1])
    page = server.orderctl_json("order", "list", "lister", "--page-size", "3", "--page", "3")
    equal([o["order_id"] for o in page["orders"]], ids[:1])
    equal([o["order_id"] for o in server.orderctl_json("order", "list", "lister", "--status", "PAID,SHIPPED")["orders"]], ids[:1])
    p = server.orderctl("order", "list", "lister", "--status", "SHIPPED")
    equal(p.stdout, "0 orders; in all statuses: PENDING_PAYMENT 6, PAID 1\n")
    true("orders" not in server.orderctl_json("order", "list", "lister", "--to", "2025-06-01"))
    p = server.orderctl("order", "list", "lister")
    fits(p.stdout)
    true("7 orders: " in p.stdout and "PENDING_PAYMENT 6" in p.stdout, p.stdout)
    refused(server.orderctl("order", "list", "lister", "--page-token", "forged", check=False), 1, "PAGE_TOKEN_INVALID")
    refused(server.orderctl("order", "list", "lister", "--page-size", "-1", check=False), 1, "INVALID_ARGUMENT")


@test("tables fit 80 columns with the longest of everything, in any script; so does a list of many")
def _(server):
    user, money = "u" * 64, {"currency_code": "CNY", "minor_units": "9999999999999"}
    items = [{"sku_id": "s" * 128, "title": title, "quantity": 2, "unit_price": money, "discount": money}
             for title in ["超长标题" * 40, "नमस्ते " * 20, "👍☔⌚" * 10, "e\u0301" * 100, "한글" * 30, "\u202e\x1b[31m" * 9, "t"] * 20]
    order = {"user_id": user, "client_order_no": "号" * 42, "items": items, "payments": [{"payment_no": "p" * 128, "channel": "支" * 42, "amount": money, "pay_time": "2026-01-31T08:00:00.123456Z"}],
             "shipments": [{"tracking_no": "n" * 128, "carrier": "运" * 42, "sku_ids": ["s" * 128] * 3}], "attributes": {"status": "fake", "long": "x"}}
    id_ = server.orderctl_json("order", "create", "-f", "-", input=json.dumps(order))["order"]["order_id"]
    p = server.orderctl("order", "get", id_)
    fits("\n".join(p.stdout.split("\n\n", 1)[1].splitlines()))  # what is above is no table: values in full, to be copied
    true("attribute       status=fake" in p.stdout, p.stdout)
    server.orderctl("order", "transition", id_, "pay", "--operator", "人" * 42, "--reason", "因为" * 170)
    for command in (["order", "list", user], ["order", "history", id_], ["order", "batch-get", id_], ["order", "batch-transition", "ship", id_]):
        p = server.orderctl(*command)
        fits(p.stdout)
        true(id_ in p.stdout or command[1] == "history", "the id is whole: %s" % p.stdout)


@test("colour: on a terminal alone, and not with NO_COLOR or a dumb one")
def _(server):
    def on_terminal(*arguments, **env):
        leader, follower = pty.openpty()
        p = subprocess.Popen([os.path.join(t.BUILD, "orderctl"), *arguments], stdout=follower, stderr=follower, stdin=subprocess.DEVNULL,
                             env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "ORDERDB_SERVER": server.address, "TERM": "xterm", **env})
        os.close(follower)
        out = b""
        try:
            while True:
                out += os.read(leader, 4096)
        except OSError:  # EIO: the other side has closed
            pass
        p.wait(20 * t.SLOW)
        os.close(leader)
        return out
    true(b"\x1b[1mNODE" in on_terminal("status"))
    true(b"\x1b[1;31merror:\x1b[0m NOT_FOUND" in on_terminal("order", "get", "7"))
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        true(b"\x1b" not in on_terminal("status", **env) + on_terminal("order", "get", "7", **env), env)
    true("\x1b" not in server.orderctl("status").stdout and "\x1b" not in server.orderctl("order", "get", "7", check=False).stderr)
    true(b"\x1b" not in on_terminal("status", "-o", "json"))


@test("every violation is told, control characters of data are shown and not sent")
def _(server):
    p = server.orderctl("order", "create", "--user", "x" * 65, "--currency", "CNY", "--item", "sku=,qty=0,price=1", check=False)
    refused(p, 1, "INVALID_ARGUMENT", "order.user_id: ", "order.items[0].sku_id: ", "order.items[0].quantity: ")
    id_ = server.orderctl_json("order", "create", "--user", "evil", "--currency", "CNY", "--item", "sku=e,price=1,title=\x1b[31mred\u202e")["order"]["order_id"]
    out = server.orderctl("order", "get", id_).stdout
    true("\x1b" not in out and "\u202e" not in out and "\\x1b[31mred\\u{202e}" in out, repr(out))


@test("output that cannot be written is an error: of help, of answers, of streams; stdout that is closed too")
def _(server):
    id_ = server.orderctl_json("order", "create", "--user", "full", "--currency", "CNY", "--item", "sku=a,price=1")["order"]["order_id"]
    for arguments in [["--help"], ["--version"], ["help"], ["order", "--help"], ["order", "get", "--help"], ["completion", "bash"], ["order", "get", id_], ["-o", "json", "order", "get", id_],
                      ["-o", "yaml", "order", "list", "full"], ["order", "history", id_], ["machine", "list"], ["status"], ["stream", "tail", "--user", "full", "--from", "earliest", "--count", "1"]]:
        for out, why in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
            p = subprocess.run(["sh", "-c", 'exec "$0" "$@" ' + out, os.path.join(t.BUILD, "orderctl"), *arguments], env=dict(os.environ, ORDERDB_SERVER=server.address),
                               stderr=subprocess.PIPE, text=True, timeout=60)
            told = "orderctl: cannot write the output" + (": " + why if arguments[0] != "stream" else "")  # a stream finds out on its way
            true(p.returncode == 1 and p.stderr.startswith(told), "%s %s: %s %s" % (arguments, out, p.returncode, p.stderr))


@test("help at every level, usage errors, exit codes")
def _(server):
    commands = [line.split()[:2] if line.split()[0] != "status" else ["status"] for line in server.orderctl("--help").stdout.split("Commands:\n")[1].split("\n\n")[0].splitlines()
                if line.startswith("  ") and line[2] != " "]
    true(len(commands) > 15 and ["order", "batch-create"] in commands, commands)
    for arguments in [[], ["order"], ["machine"], ["resource"], ["completion"], *commands]:
        p = server.orderctl(*arguments, "--help")
        true("Examples:" in p.stdout, arguments)
        fits(p.stdout)
    true(server.orderctl("--version").stdout.startswith("orderctl "))
    for arguments, words in [(["nope"], "no command"), (["order", "nope"], "no command"), (["stauts"], "did you mean \"status\"?"), (["crate"], "did you mean \"order create\"?"),
                             (["order", "lst", "ann"], "did you mean \"order list\"?"), (["get", "7"], "did you mean \"order get\"?"),
                             (["order", "list", "a", "--pagesize", "7"], "did you mean --page-size?"), (["order", "get"], "ORDER_ID"), (["order", "get", "x"], "not an order id"),
                             (["order", "get", "7", "--nope"], "unknown flag --nope"), (["status", "-o", "xml"], "json, yaml or table"), (["order", "create", "--user"], "needs a value"),
                             (["order", "create", "--user", "a", "--currency", "JPY", "--item", "sku=a,price=1.5"], "not an amount in JPY"),
                             (["order", "list", "a", "--status", ""], "names no status"), (["order", "list", "a", "--page", "0"], "from 1"),
                             (["order", "transition", "7", "pay", "--expect", ","], "names no status"), (["status", "--timeout", "0"], "1 to 86400"),
                             (["order", "create", "-f", "x", "--user", "a"], "brings the whole order"), (["order", "create", "--user", "a", "--currency", "eur"], "ISO 4217"),
                             (["order", "transition", "7"], "name the event"), (["status", "--server", "h:x"], "HOST:PORT"), (["order", "import", "/nowhere"], "cannot read")]:
        refused(server.orderctl(*arguments, check=False), 2, words)
    refused(server.orderctl("status", "--server", "127.0.0.1:%d" % t.free_port(), check=False), 3, "UNAVAILABLE", "Connection refused", "make run")


def completed(*words, cwd=None):
    """What bash offers for the last of these words."""
    script = 'source <("$1" completion bash) || exit 9; shift; COMP_WORDS=(orderctl "$@"); COMP_CWORD=$#; _orderctl; printf "%s\\n" "${COMPREPLY[@]}"; declare -F'
    p = subprocess.run(["bash", "-euc", script, "bash", os.path.join(t.BUILD, "orderctl"), *words], capture_output=True, text=True, check=True, cwd=cwd, timeout=20 * t.SLOW)
    equal(p.stderr, "")
    lines = p.stdout.splitlines()
    functions = [x for x in lines if x.startswith("declare")]
    equal(functions, ["declare -f _orderctl"], "functions left in the shell")
    return [x for x in lines if x and x not in functions]


@test("bash completion: commands, flags, values and files, from the tables that help shows")
def _(server):
    true({"order", "machine", "resource", "stream", "status", "completion"} <= set(completed("")))
    equal(completed("sta"), ["status"])
    commands = completed("order", "")
    shown = [line.split()[1] for line in server.orderctl("order", "--help").stdout.splitlines() if line.startswith("  order ")]
    equal(commands, shown)
    equal(completed("order", "tr"), ["transition"])
    equal(completed("--server", "host:1", "-o", "json", "order", "tr"), ["transition"])
    for c in commands:
        told = {w.rstrip(",") for line in server.orderctl("order", c, "--help").stdout.split("Examples:")[0].splitlines() if line.startswith("  -") for w in line.split()[:2]
                if w.startswith("-")}
        equal(set(completed("order", c, "-")), told, "flags of order " + c)
    equal(completed("order", "list", "ann", "--page-"), ["--page-size", "--page-token"])
    equal(completed("status", "-o", ""), ["json", "table", "yaml"])
    equal(completed("order", "get", "--output", "=", "t"), ["table"])
    equal(completed("order", "get", ""), [])
    equal(completed("order", "create", "--user", ""), [])
    equal(completed("order", "nope", "-"), completed("nope", "-"))
    open(os.path.join(server.directory, "a file.json"), "w").close()
    equal(completed("order", "create", "-f", "a f", cwd=server.directory), ["a file.json"])
    equal(completed("order", "import", "a f", cwd=server.directory), ["a file.json"])
    equal(completed("completion", ""), ["bash"])
    equal(completed("cluster", ""), ["init", "status", "transfer", "node"])
    equal(completed("cluster", "init", "--d"), ["--data-dir", "--dry-run"])
    equal(completed("cluster", "node", ""), ["add", "drain", "remove"])
    equal(completed("cluster", "node", "--no-wait", "re"), ["remove"])
    equal(completed("cluster", "node", "remove", ""), [])


@test("status: nodes and partitions")
def _(server):
    p = server.orderctl("status")
    fits(p.stdout)
    true("2 partitions, " in p.stdout, p.stdout)
    topology = server.orderctl_json("status")
    equal([(s["slots"][0].get("first", 0), s["slots"][0]["last"]) for s in topology["partitions"]], [(0, 8191), (8192, 16383)])


# ---- consumer groups
@test("group create, update, list, show, lag, seek and back, pause, resume, delete")
def _(server):
    made = server.orderctl_json("group", "create", "cli-mail", "--filter", 'type = "CREATED"', "--key", "order", "--max-attempts", 3, "--on-exhausted", "park", "--ack-timeout", "5m")
    equal((made["ordering_key"], made["retry"]["max_attempts"], made["retry"]["on_exhausted"], made["ack_timeout"]), ("ORDER", 3, "DEAD_LETTER_AND_PARK_KEY", "300s"))
    refused(server.orderctl("group", "create", "cli-mail", check=False), 1, "ALREADY_EXISTS", "GROUP_EXISTS")
    refused(server.orderctl("group", "create", "cli-x", "--key", "shop", check=False), 2, "--key is user, order or none, not shop")
    refused(server.orderctl("group", "create", "cli-x", "--start", "soon", check=False), 2, "--start", "soon")
    changed = server.orderctl_json("group", "update", "cli-mail", "--min-backoff", "2s")
    equal((changed["retry"]["min_backoff"], changed["retry"]["max_attempts"], changed["filter"]), ("2s", 3, 'type = "CREATED"'))
    refused(server.orderctl("group", "update", "cli-mail", check=False), 2, "what is to change")
    server.orderctl("order", "create", *UMBRELLA)
    table = server.orderctl("group", "list").stdout
    fits(table)
    true("cli-mail" in table and "5m" in table, table)
    equal([g["group"] for g in server.orderctl_json("group", "list")], ["cli-mail"])
    fits(server.orderctl("group", "show", "cli-mail").stdout)
    lag = server.orderctl_json("group", "lag", "cli-mail")[0]
    true(int(lag["events"]) >= 1 and lag["group"] == "cli-mail", lag)
    fits(server.orderctl("group", "lag").stdout)
    undo = os.path.join(server.directory, "undo.cursor")
    dry = server.orderctl_json("group", "seek", "cli-mail", "--to", "latest", "--dry-run")
    equal(dry["events_skipped"], lag["events"])
    equal(server.orderctl_json("group", "seek", "cli-mail", "--to", "latest", "--undo", undo)["events_skipped"], lag["events"])
    true("events" not in server.orderctl_json("group", "lag", "cli-mail")[0])
    equal(server.orderctl_json("group", "seek", "cli-mail", "--cursor", undo)["events_to_redeliver"], lag["events"])
    equal(server.orderctl_json("group", "lag", "cli-mail")[0]["events"], lag["events"])
    refused(server.orderctl("group", "seek", "cli-mail", check=False), 2, "say where")
    equal(server.orderctl_json("group", "pause", "cli-mail")["paused"], True)
    true("paused" not in server.orderctl_json("group", "resume", "cli-mail"))
    equal(server.orderctl_json("dlq", "list", "cli-mail"), [])
    equal(server.orderctl_json("dlq", "redrive", "cli-mail", "--dry-run"), {})
    refused(server.orderctl("dlq", "purge", "cli-mail", check=False), 2, "--yes")
    equal(server.orderctl_json("dlq", "purge", "cli-mail", "--yes"), {})
    refused(server.orderctl("group", "delete", "cli-mail", check=False), 2, "--yes")
    server.orderctl("group", "delete", "cli-mail", "--yes")
    refused(server.orderctl("dlq", "list", "cli-mail", "-o", "table", check=False), 1, "NOT_FOUND", "GROUP_NOT_FOUND", "cli-mail")
    refused(server.orderctl("dlq", "list", "cli-mail", "-o", "json", check=False), 1, "NOT_FOUND", "GROUP_NOT_FOUND")  # and not half an array


# ---- import
def ndjson_order(no, user="nd-1", **fields):
    money = {"currency_code": "CNY", "minor_units": "100"}
    order = {"user_id": user, "client_order_no": no, "items": [{"sku_id": "s", "quantity": 1, "unit_price": money}], "status": "PAID"}
    order.update(fields)
    history = [{"event": "import", "to_status": "PENDING_PAYMENT", "time": "2026-01-01T00:00:00Z"},
               {"event": "pay", "from_status": "PENDING_PAYMENT", "to_status": "PAID", "time": "2026-01-01T01:00:00Z"}]
    return json.dumps({"order": order, "history": history})


@test("order import: Ctrl-C settles what is under way, reports it and exits 130")
def _(server):
    p = subprocess.Popen([os.path.join(t.BUILD, "orderctl"), "--server", server.address, "order", "import", "-"], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    p.stdin.write("".join(ndjson_order("ctrl-c-%d" % i, user="ctrl-c") + "\n" for i in range(150)) + '{"order": {"half of a')
    p.stdin.flush()
    caught = lambda: int(next(line for line in open("/proc/%d/status" % p.pid) if line.startswith("SigCgt")).split()[1], 16)
    t.until(lambda: caught() >> (signal.SIGINT - 1) & 1, what="the handler")
    p.send_signal(signal.SIGINT)
    code, out, err = p.wait(20), p.stdout.read(), p.stderr.read()
    equal(code, 130, err)
    true("interrupted" in err and "cannot be read" not in out, out + err)
    total = next(line for line in out.splitlines() if line.startswith("total")).split()
    equal(int(total[1]), server.call("ListOrders", user_id="ctrl-c").total_size)


@test("order import, NDJSON: counts by status, rejections by reason and by line, a second run changes nothing")
def _(server):
    lines = [ndjson_order("n%d" % i) for i in range(250)] + ["", ndjson_order("bad-sum", payable={"currency_code": "CNY", "minor_units": "5"}),
                                                            ndjson_order("bad-end", status="SHIPPED"), "{not json", '{"order": {"nope": 1}}']
    rejects = os.path.join(server.directory, "rejects")
    p = server.orderctl("-o", "json", "order", "import", "-", "--rejects", rejects, input="\n".join(lines), check=False)
    equal(p.returncode, 1, p.stderr)
    books = json.loads(p.stdout)
    equal(books["total"], {"imported": 250, "already_there": 0, "rejected": 4})
    equal(books["statuses"]["PAID"], {"imported": 250, "already_there": 0, "rejected": 1})
    equal(books["reasons"], {"INVARIANT_VIOLATED": 2, "line cannot be read": 2})
    told = {r["client_order_no"]: r for r in map(json.loads, open(rejects))}
    equal(set(told), {"bad-sum", "bad-end", "line 254", "line 255"})
    true("order.payable" in told["bad-sum"]["message"], told["bad-sum"])
    true("order.nope: no such field" in told["line 255"]["message"], told["line 255"])
    again = server.orderctl_json("order", "import", "-", input="\n".join(lines[:250]))
    equal(again["total"], {"imported": 0, "already_there": 250, "rejected": 0})
    equal(server.orderctl_json("order", "list", "nd-1")["total_size"], "250")
    refused(server.orderctl("order", "import", "--server", "127.0.0.1:%d" % t.free_port(), "-", input=lines[0], check=False), 3, "Connection refused")


@test("order import --no-events: the orders are there, the change stream was not told")
def _(server):
    lines = "\n".join(ndjson_order("quiet-%d" % i, user="quiet") for i in range(3))
    told = lambda: server.orderctl("-o", "json", "stream", "tail", "--user", "quiet", "--from", "earliest", "--stop-at-end").stdout.splitlines()  # noqa: E731
    equal(server.orderctl_json("order", "import", "--no-events", "-", input=lines)["total"], {"imported": 3, "already_there": 0, "rejected": 0})
    equal(told(), [])
    equal(server.orderctl_json("order", "import", "-", input=lines)["total"], {"imported": 0, "already_there": 3, "rejected": 0})
    equal(told(), [])
    server.orderctl("order", "import", "-", input=ndjson_order("quiet-3", user="quiet"))
    by_itself = json.loads(ndjson_order("quiet-4", user="quiet"))
    server.orderctl("order", "import", "-", input=json.dumps(dict(by_itself, no_event=True)))
    equal([json.loads(e)["type"] for e in told()], ["IMPORTED"])
    equal(server.orderctl_json("order", "list", "quiet")["total_size"], "5")


class Mapped:
    """What docs/OLIST.md says about one row of orders.csv, without the C code."""

    def __init__(self, row, items, payments):
        P, A, C, D = (row["order_purchase_timestamp"], row["order_approved_at"], row["order_delivered_carrier_date"], row["order_delivered_customer_date"])
        status = row["order_status"]
        times = [x for x in (P, A, C, D) if x]
        self.row, self.items, self.payments, self.reason = row, sorted(items, key=lambda i: int(i["order_item_id"])), sorted(payments, key=lambda p: int(p["payment_sequential"])), None
        ended = status in ("canceled", "unavailable")
        self.status = {"created": "PENDING_PAYMENT", "approved": "PAID", "invoiced": "PAID", "processing": "PAID", "shipped": "SHIPPED", "delivered": "DELIVERED"}.get(
            status, "REFUNDED" if A else "CANCELLED")
        if not items:
            self.reason = "no items"
        elif times != sorted(times):
            self.reason = "timestamps contradict the order of its statuses"
        steps = [("import", "PENDING_PAYMENT", P)]
        for event, to, time, reached in (("pay", "PAID", A, status not in ("created",) and (not ended or A)),
                                         ("ship", "SHIPPED", C, status in ("shipped", "delivered") or (ended and (C or D))),
                                         ("deliver", "DELIVERED", D, status == "delivered" or (ended and D))):
            if reached:
                steps.append((event, to, time or steps[-1][2]))
        if ended:
            steps += [("refund_request", "REFUNDING", steps[-1][2]), ("refund", "REFUNDED", steps[-1][2])] if A else [("cancel", "CANCELLED", steps[-1][2])]
        self.steps = steps


def cents(text):
    return int(decimal.Decimal(text) * 100)


def olist_tables():
    def read(name):
        with open(os.path.join(OLIST, name), newline="", encoding="utf-8-sig") as f:
            return list(csv.DictReader(f))
    grouped = {name: collections.defaultdict(list) for name in ("order_items", "order_payments")}
    for name, table in grouped.items():
        for row in read(name + ".csv"):
            table[row["order_id"]].append(row)
    orders = [Mapped(row, grouped["order_items"][row["order_id"]], grouped["order_payments"][row["order_id"]]) for row in read("orders.csv")]
    return (orders, {r["customer_id"]: r for r in read("customers.csv")}, {r["product_id"]: r["product_category_name"] for r in read("products.csv")},
            {r["product_category_name"]: r["product_category_name_english"] for r in read("category_translation.csv")})


def rfc(text):
    return text.replace(" ", "T") + "Z"


@test("Olist: counts by status are the CSV's less the rejections, 200 orders field by field, a second run changes nothing")
def _(server):
    if not os.path.exists(os.path.join(OLIST, "orders.csv")):
        t.skip("no data set in %s" % os.path.relpath(OLIST, t.ROOT))
    orders, customers, categories, english = olist_tables()
    taken = [o for o in orders if not o.reason]
    before = server.orderctl_json("status")["partitions"]
    rejects = os.path.join(server.directory, "olist-rejects")
    books = server.orderctl_json("order", "import", "--format", "olist", OLIST, "--rejects", rejects, timeout=300)
    counted = {s: c["imported"] for s, c in books["statuses"].items() if c["imported"]}
    equal(counted, dict(collections.Counter(o.status for o in taken)), "imported by status")
    equal(books["total"], {"imported": len(taken), "already_there": 0, "rejected": len(orders) - len(taken)})
    equal(books["reasons"], dict(collections.Counter(o.reason for o in orders if o.reason)))
    equal({r["client_order_no"]: r["reason"] for r in map(json.loads, open(rejects))}, {o.row["order_id"]: o.reason for o in orders if o.reason})
    after = server.orderctl_json("status")["partitions"]
    equal(sum(int(p.get("orders", 0)) for p in after) - sum(int(p.get("orders", 0)) for p in before), len(taken), "orders of all partitions")
    for o in random.Random(20170709).sample(taken, 200):
        compare(server, o, customers, categories, english)
    again = server.orderctl_json("order", "import", OLIST, timeout=300)
    equal((again["total"]["imported"], again["total"]["already_there"]), (0, len(taken)))
    equal([int(p.get("orders", 0)) for p in server.orderctl_json("status")["partitions"]], [int(p.get("orders", 0)) for p in after])


def compare(server, o, customers, categories, english):
    row, customer = o.row, customers[o.row["customer_id"]]
    listed = server.call("ListOrders", user_id=customer["customer_unique_id"], page_size=1000, read=t.pb.ReadOptions(view=t.pb.ORDER_VIEW_FULL)).orders
    found = [x for x in listed if x.client_order_no == row["order_id"]]
    equal(len(found), 1, "orders numbered %s" % row["order_id"])
    got = t.json_format.MessageToDict(found[0], preserving_proto_field_name=True)

    def brl(units):
        return {"currency_code": "BRL", "minor_units": str(units)} if units else {"currency_code": "BRL"}

    def title(product):
        return english.get(categories[product]) or categories[product] or product
    price, freight = sum(cents(i["price"]) for i in o.items), sum(cents(i["freight_value"]) for i in o.items)
    want = {
        "order_id": got["order_id"], "user_id": customer["customer_unique_id"], "client_order_no": row["order_id"], "merchant_id": o.items[0]["seller_id"], "machine": "retail@1",
        "status": o.status, "version": str(len(o.steps)), "items_total": brl(price), "freight": brl(freight), "discount_total": brl(0), "payable": brl(price + freight),
        "items": [{"sku_id": i["product_id"], "title": title(i["product_id"]), "quantity": 1, "unit_price": brl(cents(i["price"])), "merchant_id": i["seller_id"]} for i in o.items],
        "address": {"region_code": "BR-" + customer["customer_state"], "line": "%(customer_zip_code_prefix)s %(customer_city)s, %(customer_state)s" % customer},
        "payments": [dict({"payment_no": "%s-%s" % (row["order_id"], p["payment_sequential"]), "channel": p["payment_type"], "amount": brl(cents(p["payment_value"]))},
                          **({"pay_time": rfc(row["order_approved_at"])} if row["order_approved_at"] else {})) for p in o.payments],
        "attributes": {"olist_status": row["order_status"]}, "create_time": rfc(o.steps[0][2]), "update_time": rfc(o.steps[-1][2]),
    }
    got.pop("timers", None)
    equal(got, want, row["order_id"])
    entries = server.call("ListOrderHistory", order_id=found[0].order_id).entries
    equal([(h.event, h.to_status, t.json_format.MessageToDict(h)["time"]) for h in entries], [(e, s, rfc(time)) for e, s, time in o.steps], "history of " + row["order_id"])


# ---- the load generator
@test("bench/load: what its ledger says is there; a replay of unknown writes answers the same")
def _(server):
    load = os.path.join(t.BUILD, "bench", "load")
    if not os.path.exists(load):
        t.skip("bench/load is not built")
    ledger, unknown, again = (os.path.join(server.directory, n) for n in ("ledger", "unknown", "again"))

    def run(*arguments):
        return subprocess.run([load, "--server", server.address, "--connections", "2", "--inflight", "8", *arguments], check=True, capture_output=True, text=True, timeout=60 * t.SLOW).stdout
    out = run("--mode", "mixed", "--orders", "600", "--prefill", "100", "--users", "50", "--ledger", ledger)
    true("tenths:" in out and "p99.9" in out, out)
    lines = [x.split() for x in open(ledger)]
    newest = {}
    for what, kind, order_id, user, request_id, version in lines:
        equal(what, "A")
        newest[order_id] = max(newest.get(order_id, 0), int(version))
    for order_id, version in random.Random(1).sample(sorted(newest.items()), 50):
        equal(server.call("GetOrder", order_id=int(order_id)).version, version)
    with open(unknown, "w") as f:
        f.writelines(" ".join(["U"] + x[1:]) + "\n" for x in lines)
    run("--mode", "replay", "--from", unknown, "--ledger", again)
    equal(sorted(open(again)), sorted(open(ledger)))


if __name__ == "__main__":
    t.run()
