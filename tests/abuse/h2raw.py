"""HTTP/2 by hand, for peers that no library would be: frames are bytes, header blocks are literals, and nothing is checked before it is sent.

    c = Wire(port)                      # connected, preface and SETTINGS sent; Wire(port, tls=context) over TLS; Wire(port, raw=True): nothing said yet
    c.send(request(1, GET_ORDER, message=b"..."))
    for frame in c.frames(wait_s=2): ...

Only reading needs help: header blocks from the server are inflated by libnghttp2, which the server needs anyway.
"""
import collections
import ctypes
import select
import socket
import ssl
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, \
    ENHANCE_YOUR_CALM = range(12)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
SERVICE = "/orderdb.v1.OrderService/"

Frame = collections.namedtuple("Frame", "type flags stream payload")


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    """length: what the head says, when that is to be a lie."""
    return struct.pack(">I", len(payload) if length is None else length)[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def varint(n):
    out = bytearray()
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out) + bytes((n,))


DEEP = b"\x0a" + varint(8000) + b"\xfb\x07" * 2000 + b"\xfc\x07" * 2000  # groups (of an unknown field) within groups, in the order
EMPTY_PARTS = b"\x0a" + varint(3900000) + b"\xa2\x01\x00" * 1300000  # items of the order, all of them empty


def settings(*pairs):
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", k, v) for k, v in pairs))


def ping(n=0, flags=0):
    return frame(PING, flags, 0, struct.pack(">Q", n))


def rst(stream, code=CANCEL):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def window_update(stream, n):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", n))


def _integer(first, bits, n):
    """RFC 7541 section 5.1"""
    top = (1 << bits) - 1
    if n < top:
        return bytes((first | n,))
    out, n = bytearray((first | top,)), n - top
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def literal(name, value, indexed=False):
    """A field with a new name; indexed: it goes into the table as well."""
    name, value = name.encode(), value if isinstance(value, bytes) else value.encode()
    return (b"\x40" if indexed else b"\x00") + _integer(0, 7, len(name)) + name + _integer(0, 7, len(value)) + value


def block(path, extra=(), method="POST", content_type="application/grpc", te="trailers"):
    fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "t")]
    fields += [("content-type", content_type)] if content_type else []
    fields += [("te", te)] if te else []
    return b"".join(literal(n, v) for n, v in [*fields, *extra])


def message(body, length=None, flag=0):
    """gRPC's framing; length: what the prefix says."""
    return bytes((flag,)) + struct.pack(">I", len(body) if length is None else length) + body


def data(stream, body, end=True):
    """In frames of 16 KiB."""
    pieces = [body[i:i + 16384] for i in range(0, len(body), 16384)] or [b""]
    return b"".join(frame(DATA, END_STREAM if end and i == len(pieces) - 1 else 0, stream, p) for i, p in enumerate(pieces))


def request(stream, path, body=b"", extra=(), end=True, **more):
    """A whole call: headers, one message, end."""
    return frame(HEADERS, END_HEADERS, stream, block(path, extra, **more)) + data(stream, message(body), end)


class _Field(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("value", ctypes.c_void_p), ("name_len", ctypes.c_size_t), ("value_len", ctypes.c_size_t), ("flags", ctypes.c_uint8)]


class Inflater:
    lib = None

    def __init__(self):
        if not Inflater.lib:
            Inflater.lib = ctypes.CDLL("libnghttp2.so.14")
            Inflater.lib.nghttp2_hd_inflate_hd2.restype = ctypes.c_ssize_t
        self.state = ctypes.c_void_p()
        assert self.lib.nghttp2_hd_inflate_new(ctypes.byref(self.state)) == 0

    def __del__(self):
        if self.lib and self.state:
            self.lib.nghttp2_hd_inflate_del(self.state)

    def fields(self, bytes_):
        out, at, buf = {}, 0, ctypes.create_string_buffer(bytes_, len(bytes_))
        while True:
            f, flags = _Field(), ctypes.c_int()
            n = self.lib.nghttp2_hd_inflate_hd2(self.state, ctypes.byref(f), ctypes.byref(flags), ctypes.byref(buf, at), ctypes.c_size_t(len(bytes_) - at), 1)
            assert n >= 0, "the server's header block does not inflate: %d" % n
            at += n
            if flags.value & 2:
                out[ctypes.string_at(f.name, f.name_len).decode()] = ctypes.string_at(f.value, f.value_len).decode("latin-1")
            if flags.value & 1:
                self.lib.nghttp2_hd_inflate_end_headers(self.state)
                return out


class Wire:
    """One connection. closed: the server ended it."""

    def __init__(self, port, source=None, tls=None, raw=False, wait_s=10, first=()):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=wait_s, source_address=(source, 0) if source else None)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.wait_s, self.closed, self._in, self.inflater, self.goaway = wait_s, False, b"", Inflater(), None
        self.uploaded, self.window, self.windows, self._early = 0, 65535, collections.defaultdict(int), []  # sent; ours to use: of a new stream; opened since, by stream; frames that came meanwhile
        if not raw:
            self.send(PREFACE + settings(*first))

    def send(self, bytes_):
        """False: the server has closed it, or takes nothing any more."""
        if self.closed:
            return False
        try:
            if isinstance(self.socket, ssl.SSLSocket):
                self.socket.sendall(bytes_)
                return True
            return self._send_plain(memoryview(bytes_), time.monotonic() + self.wait_s)
        except socket.timeout:
            return False
        except OSError:
            self.closed = True
            return False

    def _send_plain(self, bytes_, end):
        """As sendall(), but the server's FIN ends it: what was under way when its kernel got the FIN out is resent into a window that opens no more, and no reset comes for it."""
        poll = select.poll()
        poll.register(self.socket, select.POLLOUT | select.POLLRDHUP)
        while bytes_:
            ready = poll.poll(max(0, end - time.monotonic()) * 1000)
            if not ready or ready[0][1] & select.POLLRDHUP:
                return False  # its last words are there to be read
            bytes_ = bytes_[self.socket.send(bytes_):]
        return True

    def _frame(self):
        if len(self._in) < 9:
            return None
        n = int.from_bytes(self._in[:3], "big")
        if len(self._in) < 9 + n:
            return None
        f = Frame(self._in[3], self._in[4], int.from_bytes(self._in[5:9], "big") & 0x7fffffff, self._in[9:9 + n])
        self._in = self._in[9 + n:]
        if f.type == WINDOW_UPDATE:
            self.windows[f.stream] += int.from_bytes(f.payload, "big")
        if f.type == SETTINGS:
            for i in range(0, len(f.payload), 6):
                if int.from_bytes(f.payload[i:i + 2], "big") == INITIAL_WINDOW_SIZE:
                    self.window = int.from_bytes(f.payload[i + 2:i + 6], "big")
        if f.type == GOAWAY:
            self.goaway = (int.from_bytes(f.payload[4:8], "big"), f.payload[8:].decode("latin-1"))
        return f

    def frames(self, wait_s=5, acknowledge=True):
        """What comes within wait_s, frame by frame; ends with the connection."""
        end = time.monotonic() + wait_s
        while True:
            if self._early:
                yield self._early.pop(0)
                continue
            f = self._frame()
            if f:
                if acknowledge and f.type == SETTINGS and not f.flags & ACK:
                    self.send(frame(SETTINGS, ACK))
                if acknowledge and f.type == PING and not f.flags & ACK:
                    self.send(frame(PING, ACK, 0, f.payload))
                yield f
                continue
            left = max(0, end - time.monotonic())
            if self.closed:
                return
            self.socket.settimeout(left)  # 0: what is there already
            try:
                got = self.socket.recv(65536)
            except (socket.timeout, BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                got = b""
            finally:
                self.socket.settimeout(self.wait_s)
            if not got:
                self.closed = True
            self._in += got

    def answer(self, stream, wait_s=5):
        """(fields of head and trailers, body, code of a reset or None) of one call; the fields are empty when nothing came."""
        fields, body = {}, b""
        for f in self.frames(wait_s):
            if f.stream != stream:
                if f.type == HEADERS:
                    self.inflater.fields(f.payload)
                continue
            if f.type == HEADERS:
                fields.update(self.inflater.fields(f.payload))
            elif f.type == DATA:
                body += f.payload
            elif f.type == RST_STREAM:
                return fields, body, int.from_bytes(f.payload, "big")
            if f.flags & END_STREAM and f.type in (HEADERS, DATA):
                return fields, body, None
        return fields, body, None

    def upload(self, stream, path, body, wait_s=10):
        """A whole call whose message may be larger than the windows: the only thing here that keeps to them. False: the server did not take it all."""
        self.send(frame(HEADERS, END_HEADERS, stream, block(path)))
        bytes_, end, sent, early = message(body), time.monotonic() + wait_s, 0, []
        for f in self.frames(0.2):  # its SETTINGS
            early.append(f)
        while sent < len(bytes_) and time.monotonic() < end and not self.closed:
            room = min(16384, len(bytes_) - sent, self.window + self.windows[stream] - sent, 65535 + self.windows[0] - self.uploaded)
            if room > 0:
                self.send(frame(DATA, END_STREAM if sent + room == len(bytes_) else 0, stream, bytes_[sent:sent + room]))
                sent, self.uploaded = sent + room, self.uploaded + room
                continue
            for f in self.frames(0.5):
                early.append(f)
                if f.type == WINDOW_UPDATE or f.stream == stream:
                    break
            if any(f.stream == stream and f.type != WINDOW_UPDATE for f in early):
                break
        self._early = early + self._early
        return sent == len(bytes_)

    def until_closed(self, wait_s=10):
        """Seconds until the server closed it; None: it did not. goaway: (code, text) when it said so."""
        begin = time.monotonic()
        for _ in self.frames(wait_s):
            pass
        return time.monotonic() - begin if self.closed else None

    def close(self):
        self.socket.close()
