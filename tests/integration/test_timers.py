#!/usr/bin/python3
"""Order timers of a real server, with stock grpcio: they fire by themselves, also over a kill -9, in the right order against payments, and read as docs/API.md says."""
import threading
import time

import orderdb_test as t
from orderdb_test import equal, pb, refused, true

admin = t.admin_pb2


def create(server, user="timers", machine=""):
    return server.call("CreateOrder", t.create_request(t.order(user_id=user, machine=machine))).order


def set_timer(server, order, timer_id, in_s, event="", **options):
    timer = pb.Timer(timer_id=timer_id, fire_time=t.timestamp(time.time() + in_s), event=event)
    return server.call("SetOrderTimer", order_id=order.order_id, timer=timer, options=pb.WriteOptions(request_id=t.request_id(), **options)).timer


def status(server, order):
    return server.call("GetOrder", order_id=order.order_id).status


def history(server, order):
    return server.call("ListOrderHistory", order_id=order.order_id).entries


def quick(server):
    """A machine whose unpaid orders expire within a second, and whose paid ones ask for an address before they are sent."""
    machine = admin.StatusMachine(name="quick", states=[
        admin.StatusMachine.State(name="OPEN", initial=True), admin.StatusMachine.State(name="PAID"), admin.StatusMachine.State(name="SENT", terminal=True),
        admin.StatusMachine.State(name="EXPIRED", terminal=True)])
    machine.states[0].timers.add(timer_id="expire", event="expire").after.seconds = 1
    machine.states[1].timers.add(timer_id="send", event="send").after.seconds = 1
    for event, start, end, needs in (("pay", "OPEN", "PAID", []), ("expire", "OPEN", "EXPIRED", []), ("send", "PAID", "SENT", ["attributes.carrier"])):
        edge = machine.edges.add(event=event, to=end, required_fields=needs)
        getattr(edge, "from").append(start)
    server.call("ApplyResource", resource=admin.Resource(machine=machine))


@t.test("timer: an order shows those of its status, and they go with it")
def _(server):
    order = create(server)
    equal([timer.timer_id for timer in order.timers], ["pay_timeout"])
    equal(order.timers[0].event, "pay_timeout")
    equal(t.seconds_of(order.timers[0].fire_time), t.seconds_of(order.create_time) + 1800)
    equal(list(server.call("ListOrders", user_id="timers").orders[0].timers), list(order.timers))
    paid = server.call("TransitionOrder", t.transition_request(order.order_id, "pay")).order
    equal(list(paid.timers), [])
    equal(server.call("GetOrder", order_id=order.order_id, as_of=order.create_time).timers, order.timers)


@t.test("timer: set, replaced, cancelled; retries answer what the first one did; a dry run changes nothing")
def _(server):
    order, id_ = create(server), t.request_id()
    wanted = pb.Timer(timer_id="remind", fire_time=t.timestamp(time.time() + 3600))
    request = pb.SetOrderTimerRequest(order_id=order.order_id, timer=wanted, options=pb.WriteOptions(request_id=id_))
    equal(server.call("SetOrderTimer", request).timer, wanted)
    request.timer.fire_time.seconds += 60
    refused(lambda: server.call("SetOrderTimer", request), "FAILED_PRECONDITION", "IDEMPOTENCY_KEY_REUSED")
    set_timer(server, order, "remind", 7200, validate_only=True)
    set_timer(server, order, "other", 7200)
    equal(server.call("SetOrderTimer", order_id=order.order_id, timer=wanted, options=pb.WriteOptions(request_id=id_)).timer, wanted)
    outcome = server.call("GetRequestOutcome", user_id="timers", request_id=id_)
    equal((outcome.state, outcome.order_id, outcome.version), (pb.RequestOutcome.APPLIED, order.order_id, 2))
    equal([timer.timer_id for timer in server.call("GetOrder", order_id=order.order_id).timers], ["pay_timeout", "remind", "other"])
    server.call("CancelOrderTimer", order_id=order.order_id, timer_id="remind")
    equal(refused(lambda: server.call("CancelOrderTimer", order_id=order.order_id, timer_id="remind"), "NOT_FOUND", "TIMER_NOT_FOUND").metadata["timer_id"], "remind")
    equal([e.event for e in history(server, order)], ["create", "set_timer", "set_timer", "cancel_timer"])


@t.test("timer: fires by itself and not early; without an event it only tells")
def _(server):
    order = create(server)
    due = t.seconds_of(set_timer(server, order, "pay_timeout", 1, "pay_timeout").fire_time)
    told = t.seconds_of(set_timer(server, order, "remind", 0.3).fire_time)
    t.until(lambda: status(server, order) == "CANCELLED")
    entries = history(server, order)
    equal([(e.event, e.operator, e.reason) for e in entries[3:]], [("timer_fired", "timer", "remind"), ("pay_timeout", "timer", "pay_timeout")])
    true(told <= t.seconds_of(entries[3].time) and due <= t.seconds_of(entries[4].time))
    true(sum(value for name, value in server.metrics().items() if name.startswith("orderdb_timers_fired_total")) >= 2)


@t.test("timer: of a machine of one's own; an edge that requires a field is not taken without it, and says so")
def _(server):
    quick(server)
    unpaid, bare, whole = (create(server, user, "quick") for user in ("q1", "q2", "q3"))
    server.call("TransitionOrder", t.transition_request(bare.order_id, "pay"))
    request = t.transition_request(whole.order_id, "pay")
    request.patch.attributes["carrier"] = "sf"
    request.update_mask.paths.append("attributes")
    server.call("TransitionOrder", request)
    f = refused(lambda: server.call("TransitionOrder", t.transition_request(bare.order_id, "send")), "FAILED_PRECONDITION", "FIELD_REQUIRED")
    equal(f.metadata["field"], "attributes.carrier")
    t.until(lambda: status(server, unpaid) == "EXPIRED" and status(server, whole) == "SENT")
    t.until(lambda: len(history(server, bare)) == 3)
    last = history(server, bare)[-1]
    equal((last.event, last.to_status, last.reason), ("timer_fired", "PAID", "send: send requires attributes.carrier, which the order has not"))
    equal(list(server.call("GetOrder", order_id=bare.order_id).timers), [])


@t.test("timer: kill -9 before it is due, and after; each fires once")
def _():
    with t.Server(cores=2, partitions=4) as server:
        early, late = [create(server, "k%d" % i) for i in range(20)], [create(server, "l%d" % i) for i in range(20)]
        for order in early:
            set_timer(server, order, "pay_timeout", 1, "pay_timeout")
        for order in late:
            set_timer(server, order, "pay_timeout", 3, "pay_timeout")
        t.until(lambda: status(server, early[0]) == "CANCELLED")
        server.kill()
        server.start()
        t.until(lambda: all(status(server, o) == "CANCELLED" for o in early + late))
        for order in early + late:
            entries = history(server, order)
            equal([e.event for e in entries], ["create", "set_timer", "pay_timeout"])


@t.test("timer: payments at the moment of the timeout; one of the two happens, and the caller knows which")
def _():
    with t.Server(cores=2, partitions=4) as server:
        orders = [create(server, "race%d" % i) for i in range(120)]
        due = time.time() + 1.2
        for i, order in enumerate(orders):
            set_timer(server, order, "pay_timeout", due - time.time() + i * 0.002, "pay_timeout")
        paid = {}

        def pay(part):
            client = server.new_client()
            for i in part:
                time.sleep(max(0, due + i * 0.002 + 0.012 - time.time()))  # about when the server looks
                try:
                    client.call("TransitionOrder", t.transition_request(orders[i].order_id, "pay"))
                    paid[i] = True
                except t.Failure as failure:
                    equal(failure.reason, "STATUS_MISMATCH")
                    paid[i] = False

        threads = [threading.Thread(target=pay, args=(range(k, len(orders), 4),)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        equal(len(paid), len(orders))
        t.until(lambda: all(status(server, o) in ("PAID", "CANCELLED") for o in orders))
        for i, order in enumerate(orders):
            equal(status(server, order), "PAID" if paid[i] else "CANCELLED")
            equal(len(history(server, order)), 3)
        print("# %d paid, %d timed out" % (sum(paid.values()), len(paid) - sum(paid.values())))


if __name__ == "__main__":
    t.run(cores=2, partitions=4)
