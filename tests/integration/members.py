"""Members of consumer groups through a stock gRPC client, for the tests. A Member is one Subscribe call."""
import collections
import queue
import threading
import time

import orderdb_test as t
from orderdb_test import grpc, stream_pb2 as st
from google.protobuf import duration_pb2

WAIT_S = 20 * t.SLOW


def duration(s):
    return duration_pb2.Duration(seconds=int(s), nanos=int(round(s % 1 * 1e9)))


def group(server, name, **fields):
    return server.call("CreateConsumerGroup", group=st.ConsumerGroup(group=name, **fields))


class Member:
    """A subscription: what came is in `events`, in order; `error` is how it ended, `ended` that it did."""

    def __init__(self, server, name, member_id="m-1", credit=1000, client=None, open_=None):
        self.out, self.events, self.stale, self.progress = queue.Queue(), [], [], []
        self.changed, self.ended, self.error = threading.Condition(), False, None
        self.client = client or server.new_client()
        self.send(open=open_ or st.SubscribeRequest.Open(group=name, member_id=member_id))
        if credit:
            self.send(credit=st.SubscribeRequest.Credit(events=credit))
        self.call = self.client.stub("Subscribe")(iter(self.out.get, None))
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        error = None
        try:
            for r in self.call:
                with self.changed:
                    self.events += r.batch.events
                    self.stale += r.stale.event_ids
                    if r.HasField("progress"):
                        self.progress.append(t.seconds_of(r.progress.complete_to))
                    self.changed.notify_all()
        except grpc.RpcError as e:
            error = t.Failure(e)
        with self.changed:
            self.ended, self.error = True, error
            self.changed.notify_all()

    def send(self, **message):
        self.out.put(st.SubscribeRequest(**message))

    def until(self, condition, what):
        with self.changed:
            t.true(self.changed.wait_for(condition, WAIT_S), "%s; %d events, ended %s %s" % (what, len(self.events), self.ended, self.error))
        return self

    def wait(self, n):
        return self.until(lambda: len(self.events) >= n, "%d events" % n)

    def ack(self, *events):
        self.send(ack=st.SubscribeRequest.Ack(event_ids=[e if isinstance(e, str) else e.event_id for e in events]))

    def nack(self, event, **fields):
        self.send(nack=st.SubscribeRequest.Nack(event_id=event.event_id, **fields))

    def half_close(self):
        self.out.put(None)
        self.until(lambda: self.ended, "the end")
        return self.error

    def cancel(self):
        self.call.cancel()
        self.out.put(None)
        self.client.close()

    def refused(self, code, reason):
        self.until(lambda: self.ended, "a refusal")
        t.true(self.error, "it ended well")
        t.equal((self.error.code_name, self.error.reason), (code, reason))
        self.out.put(None)
        return self.error


def consume(server, name, n, member_id="m-1", credit=1000):
    """Reads and acks until n events have come; half-closes. The credit is for the whole time."""
    m = Member(server, name, member_id, credit)
    done = 0
    while done < n:
        m.wait(done + 1)
        new = m.events[done:]
        done += len(new)
        m.ack(*new)
    t.equal(m.half_close(), None)
    return m.events


users_ = iter("user-%d" % i for i in range(10**9))


def orders(server, user, n):
    return [server.call("CreateOrder", t.create_request(user_id=user)).order.order_id for _ in range(n)]


def in_order(events):
    """Per slot seqs ascend, each once."""
    last = collections.defaultdict(int)
    for e in events:
        t.true(e.seq > last[e.slot], "%s after seq %d" % (e.event_id, last[e.slot]))
        last[e.slot] = e.seq


def lag_is(server, name, **fields):
    deadline = time.monotonic() + WAIT_S
    while True:
        lag = server.call("GetGroupLag", group=name)
        if all(getattr(lag, k) == v for k, v in fields.items()) or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    t.equal({k: getattr(lag, k) for k in fields}, fields, "lag")
    return lag
