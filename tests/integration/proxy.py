"""A TCP proxy that stands between two nodes and breaks what passes: late, thin, swallowed in one direction, reset. Threads; a few connections."""
import select
import socket
import struct
import threading
import time

PIECE = 16384


class Proxy:
    """Listens on self.port; what connects is brought to `to`. delay_s, bytes_per_s, swallow ("up": what the one who dialed says; "down": what it is told) hold from now on, for
    connections that are there too. Swallowed bytes are gone, and TCP at both ends is content: neither knows."""

    def __init__(self, to):
        self.to, self.delay_s, self.bytes_per_s, self.swallow = to, 0, None, None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.pairs, self.lock, self.closed = set(), threading.Lock(), False
        threading.Thread(target=self._accept, daemon=True).start()

    def mend(self):
        """As it was. A connection that lost bytes is cut, as one with holes can't go on."""
        holes, self.delay_s, self.bytes_per_s, self.swallow = self.swallow, 0, None, None
        if holes:
            self.reset()

    def reset(self):
        """RST to both ends of all connections."""
        with self.lock:
            pairs, self.pairs = self.pairs, set()
        for pair in pairs:
            for s in pair:
                try:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    s.shutdown(socket.SHUT_RD)  # wakes its thread
                    s.close()
                except OSError:
                    pass

    def close(self):
        self.closed = True
        self.listener.close()
        self.reset()

    def _accept(self):
        while not self.closed:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            try:
                other = socket.create_connection(self.to, timeout=2)
            except OSError:
                one.close()
                continue
            with self.lock:
                self.pairs.add((one, other))
            threading.Thread(target=self._pass, args=(one, other, "up"), daemon=True).start()
            threading.Thread(target=self._pass, args=(other, one, "down"), daemon=True).start()

    def _pass(self, source, sink, way):
        waiting = []  # [(when it may leave, bytes)]: a delay holds up nothing behind it for longer
        try:
            while True:
                due = max(0, waiting[0][0] - time.monotonic()) if waiting else None
                if select.select([source], [], [], due)[0]:
                    data = source.recv(PIECE)
                    if not data:
                        break
                    if self.swallow != way:
                        waiting.append((time.monotonic() + self.delay_s, data))
                while waiting and waiting[0][0] <= time.monotonic():
                    data = waiting.pop(0)[1]
                    sink.sendall(data)
                    if self.bytes_per_s:
                        time.sleep(len(data) / self.bytes_per_s)
        except (OSError, ValueError):
            pass
        with self.lock:
            self.pairs = {p for p in self.pairs if source not in p}
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
