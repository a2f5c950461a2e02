#!/usr/bin/python3
"""The Olist load, replayed in time order as creates and transitions, while a consumer rebuilds status counts from the stream. usage: test_changes_olist.py BUILD [--orders=N]

The expected events are computed from the CSV, by this file alone; what an order goes through is docs/OLIST.md's mapping, with creates in place of imports."""
import collections
import csv
import os
import threading

import orderdb_test as t
from orderdb_test import equal, pb, stream_pb2 as stream, true

OLIST = os.environ.get("ORDERDB_OLIST") or os.path.join(t.ROOT, "..", "shared", "data", "olist")
WINDOW = 400  # steps sent at a time: each order's in their order, the creates first
EVENT_OF = {"create": "CREATED"}


def option(name, default):
    import sys
    return next((int(a.split("=")[1]) for a in sys.argv if a.startswith(name + "=")), default)


def table(name):
    with open(os.path.join(OLIST, name), newline="", encoding="utf-8-sig") as f:
        return list(csv.DictReader(f))


def steps_of(row):
    """[(time, event, status)]: how far it came, by its status and the times that are there."""
    times = [row["order_purchase_timestamp"], row["order_approved_at"], row["order_delivered_carrier_date"], row["order_delivered_customer_date"]]
    ended = row["order_status"] in ("canceled", "unavailable")
    reached = {"created": 0, "approved": 1, "invoiced": 1, "processing": 1, "shipped": 2, "delivered": 3}.get(row["order_status"], 0)
    if ended:
        reached = max(i for i in range(4) if times[i])
        reached = reached if times[1] else 0
    steps = [(times[0], "create", "PENDING_PAYMENT")]
    for i, (event, status) in enumerate((("pay", "PAID"), ("ship", "SHIPPED"), ("deliver", "DELIVERED")), 1):
        if i <= reached:
            steps.append((max(times[i] or "", steps[-1][0]), event, status))
    if ended and times[1]:
        steps += [(steps[-1][0], "refund_request", "REFUNDING"), (steps[-1][0], "refund", "REFUNDED")]
    elif ended:
        steps.append((steps[-1][0], "cancel", "CANCELLED"))
    return steps


class Load:
    def __init__(self, count):
        users = {r["customer_id"]: r["customer_unique_id"] for r in table("customers.csv")}
        items = {r["order_id"]: r for r in table("order_items.csv")}
        rows = sorted((r for r in table("orders.csv") if r["order_id"] in items), key=lambda r: r["order_purchase_timestamp"])[:count]
        self.user = {r["order_id"]: users[r["customer_id"]] for r in rows}
        self.item = items
        self.steps = {r["order_id"]: steps_of(r) for r in rows}
        self.timeline = sorted((step[0], n, number, step[1]) for number, steps in self.steps.items() for n, step in enumerate(steps))
        self.ids = {}

    def create(self, number):
        item = self.item[number]
        cents = int(round(float(item["price"]) * 100))
        o = t.order(user_id=self.user[number], price=cents, quantity=1, freight=0, currency="BRL", client_order_no=number)
        o.merchant_id = item["seller_id"]
        return pb.CreateOrderRequest(order=o, options=pb.WriteOptions(request_id="olist-create-" + number))

    def transition(self, number, event):
        return t.transition_request(self.ids[number], event, id_="olist-%s-%s" % (event, number))

    def send(self, server):
        def all_ok(method, requests):
            answers = server.call(method, requests=requests, timeout=60).results
            true(all(r.HasField("ok") for r in answers), next((str(r.error) for r in answers if not r.HasField("ok")), ""))
            return [r.ok.order for r in answers]

        for at in range(0, len(self.timeline), WINDOW):
            rounds = collections.defaultdict(list)  # the n-th step of each order in this window
            seen = collections.Counter()
            for _, n, number, event in self.timeline[at:at + WINDOW]:
                rounds[seen[number]].append((number, event))
                seen[number] += 1
            for n in sorted(rounds):
                new = [number for number, event in rounds[n] if event == "create"]
                if new:
                    for number, o in zip(new, all_ok("BatchCreateOrders", [self.create(number) for number in new])):
                        self.ids[number] = o.order_id
                moved = [(number, event) for number, event in rounds[n] if event != "create"]
                if moved:
                    all_ok("BatchTransitionOrders", [self.transition(*m) for m in moved])


class Consumer(threading.Thread):
    """Follows from the earliest on, and every some messages leaves and comes again with its cursor."""

    def __init__(self, server, want):
        super().__init__(daemon=True)
        self.server, self.want = server, want
        self.told = collections.defaultdict(list)  # order_id -> [(type, event, from, to)]
        self.counts = collections.defaultdict(collections.Counter)  # user -> status -> orders
        self.last, self.events, self.times, self.error = {}, 0, 0, None

    def take(self, e):
        assert e.seq == self.last.get(e.slot, 0) + 1, "slot %d: %d after %d" % (e.slot, e.seq, self.last.get(e.slot, 0))
        self.last[e.slot] = e.seq
        self.events += 1
        self.told[e.order_id].append((stream.ChangeEvent.Type.Name(e.type), e.entry.event, e.entry.to_status))
        counts = self.counts[e.user_id]
        if e.entry.from_status:
            counts[e.entry.from_status] -= 1
        counts[e.entry.to_status] += 1

    def run(self):
        client, cursor = self.server.new_client(), b""
        try:
            while self.events < self.want:
                self.times += 1
                call = client.stub("ReadChanges")(stream.ReadChangesRequest(cursor=cursor), timeout=120 * t.SLOW)
                for n, answer in enumerate(call):
                    for e in answer.events:
                        self.take(e)
                    cursor = answer.cursor
                    if self.events >= self.want or n > 40:
                        break
                call.cancel()
        except BaseException as e:  # noqa: told to the test
            self.error = e
        client.close()


@t.test("Olist in time order: exactly the expected events, live; counts by status made of them are those of ListOrders")
def _(server):
    if not os.path.exists(os.path.join(OLIST, "orders.csv")):
        t.skip("no data set in %s" % os.path.relpath(OLIST, t.ROOT))
    load = Load(option("--orders", 2500 // t.SLOW))
    consumer = Consumer(server, len(load.timeline))
    consumer.start()
    load.send(server)
    consumer.join(60 * t.SLOW)
    if consumer.error:
        raise consumer.error
    true(not consumer.is_alive(), "%d of %d events were told" % (consumer.events, consumer.want))
    equal(consumer.events, len(load.timeline))
    expected = {load.ids[number]: [(EVENT_OF.get(event, "TRANSITIONED"), event, status) for _, event, status in steps] for number, steps in load.steps.items()}
    equal(set(consumer.told), set(expected), "the orders of the stream")
    for order_id, steps in expected.items():
        equal(consumer.told[order_id], steps, "order %d" % order_id)
    by_user = collections.defaultdict(collections.Counter)
    for number, steps in load.steps.items():
        by_user[load.user[number]][steps[-1][2]] += 1
    for user, counts in by_user.items():
        equal({k: v for k, v in consumer.counts[user].items() if v}, dict(counts), user)
    users = [u for u in by_user if sum(by_user[u].values()) > 1] + list(by_user)[:300]
    for user in users:
        page = server.call("ListOrders", user_id=user, page_size=1)
        equal({k: v for k, v in page.status_counts.items() if v}, {k: v for k, v in consumer.counts[user].items() if v}, user)
    last = server.call("ReadChanges", stop_at_end=True, payload=pb.ORDER_VIEW_SUMMARY, timeout=60)
    equal(sum(len(a.events) for a in last), len(load.timeline), "nothing else is in the stream")
    print("# %d orders, %d events, %d users compared with ListOrders; the consumer came %d times" % (len(expected), consumer.events, len(users), consumer.times))


if __name__ == "__main__":
    t.run(cores=2, partitions=4)
