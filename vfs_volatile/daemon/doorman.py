"""An HTTP server that answers all with one text, and that no client can make busy.

Every user of the machine can reach it, and it shares the process, and so the interpreter's lock,
with the thread that answers for the mount. So there are few connections, each for a few seconds;
they are let in one by one with a pause between; what they send is read only so far; and a text is
used again until making it has taken a small part of the time. When memory is short, most of what is
left is for who answers for the mount (``start_job``).
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn

from vfs_volatile.errors import UserError
from vfs_volatile.fs.threads import start_job, start_needed

CONNECTIONS = 8
"""At a time; whoever comes then is turned away."""
CONNECTION_SECONDS = 5.0
"""A connection is closed after that, whatever it is doing."""
_PAUSE_SECONDS = 0.01
"""Between two connections: to let one in takes half a millisecond."""
_HEAD_BYTES = 16 << 10
"""Of a request, with all its headers: the rest is not read."""
_SHARE = 20
"""Of the time, one part of so many may go into making texts."""


class Doorman(ThreadingMixIn, TCPServer):
    """Serves from a thread of its own, until the process ends."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 2 * CONNECTIONS

    def __init__(self, address: tuple[str, int], content_type: str, text: Callable[[], bytes]):
        """Raises OSError if ``address`` is not to be had, UserError if there can be no thread."""
        self.address_family = _family(address)
        super().__init__(address, _Handler)
        # -- dependencies --
        self.content_type = content_type
        self._make_text = text
        # -- mutable --
        self._inside: dict[socket.socket, float] = {}
        """Connections, and when each has to be over."""
        self._text = b""
        self._good_until = 0.0
        self._making = threading.Lock()
        serves = threading.Thread(
            target=self.serve_forever, args=(CONNECTION_SECONDS / 10,), name="http", daemon=True
        )
        try:
            start_needed(serves.start)
        except UserError:
            self.server_close()
            raise

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def text(self) -> bytes:
        """What to answer, no older than it may be."""
        with self._making:
            began = time.monotonic()
            if began >= self._good_until:
                self._text = self._make_text()
                now = time.monotonic()
                self._good_until = now + _SHARE * (now - began)
            return self._text

    # ---- what socketserver calls, in its thread but for the last two ----

    def get_request(self) -> tuple[socket.socket, object]:
        time.sleep(_PAUSE_SECONDS)  # also if there is no descriptor for it: it would ask at once
        return self.socket.accept()

    def verify_request(self, request: object, client_address: object) -> bool:
        return len(self._inside) < CONNECTIONS

    def process_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        self._inside[request] = time.monotonic() + CONNECTION_SECONDS
        start_job(self.process_request_thread, request, client_address)

    def service_actions(self) -> None:
        now = time.monotonic()
        for request, end in self._inside.copy().items():
            if now > end:
                _hang_up(request)
            if now > end + CONNECTION_SECONDS:  # there was no memory to begin or end with it
                self.shutdown_request(request)

    def shutdown_request(self, request: object) -> None:
        assert isinstance(request, socket.socket)
        self._inside.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, or sent nothing: none of the log's business."""


class _Head(io.BufferedIOBase):
    """What may be read of what a client sends."""

    def __init__(self, whole: io.BufferedIOBase) -> None:
        self._whole = whole
        self._left = _HEAD_BYTES

    def readline(self, most: int | None = -1, /) -> bytes:
        assert most is not None
        line = self._whole.readline(min(most, self._left))
        self._left -= len(line)
        return line

    def close(self) -> None:
        self._whole.close()
        super().close()


class _Handler(BaseHTTPRequestHandler):
    """One request of one connection."""

    server: Doorman
    timeout = CONNECTION_SECONDS

    def setup(self) -> None:
        super().setup()
        self.rfile = _Head(self.rfile)

    def do_GET(self) -> None:
        text = self.server.text()
        self.send_response(200)
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: object) -> None:
        """Nor is what they send."""


def _family(address: tuple[str, int]) -> socket.AddressFamily:
    return socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has gone
        request.shutdown(socket.SHUT_RDWR)
