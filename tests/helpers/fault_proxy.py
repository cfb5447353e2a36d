"""A proxy before an object store: it counts requests and, by dice, does what networks and services do."""

import contextlib
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = (
    "lost reply",
    "dropped",
    "half a request",
    "truncated",
    "slow",
    "409",
    "400",
    "500",
    "503",
    "429",
)
"""What may become of a request: it is done and nobody hears of it; it never arrives; half of its body does;
half of the reply comes; it takes its time; or the service says no without doing it."""
_SAYS = {
    "409": "ConditionalRequestConflict",
    "400": "RequestTimeout",
    "500": "InternalError",
    "503": "SlowDown",
    "429": "TooManyRequests",
}
_MESSAGE = "injected"
_SLOW_S = 0.3


class FaultProxy:
    """Forwards to a server. Set `rate` and `kinds` at any time."""

    def __init__(
        self, upstream: str, *, rate: float = 0.0, kinds: Sequence[str] = FAULTS, seed: int = 0
    ) -> None:
        """Listen on a port of its own.

        Args:
            upstream: Address of the server.
            rate: Share of requests that something happens to.
            kinds: What may happen.
            seed: Of the dice.
        """
        self.rate, self.kinds = rate, kinds
        self.drops_conditions = False
        """Whether conditional puts arrive as plain ones, which always win."""
        self.requests: Counter[str] = Counter()
        """By method, and what is listed apart."""
        self.faults: Counter[str] = Counter()
        self._upstream = urlsplit(upstream).netloc
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()

            def log_message(self, *_: object) -> None:
                pass

            def any_method(self) -> None:
                proxy.handle(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = any_method  # noqa: N815 - http.server's names

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def serve(self) -> None:
        """Serve until the process ends."""
        self._server.serve_forever(poll_interval=0.05)

    @contextlib.contextmanager
    def running(self) -> Iterator["FaultProxy"]:
        """Serve in a thread while the block runs."""
        thread = threading.Thread(target=self.serve, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request, or do not."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self._lock:
            fault = self._dice.choice(self.kinds) if self._dice.random() < self.rate else None
            self.requests["LIST" if "list-type=2" in request.path else request.command] += 1
            if fault:
                self.faults[fault] += 1
        if fault == "slow":
            time.sleep(_SLOW_S)
        if fault in _SAYS:
            self._refuse(request, int(fault), _SAYS[fault])
            return
        if fault == "dropped":
            self._hang_up(request)
            return
        if fault == "half a request" and body:
            self._forward_half(request, body)
            self._hang_up(request)
            return
        status, headers, reply = self._forward(request, body)
        if fault == "lost reply":
            self._hang_up(request)
            return
        request.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                request.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length")
        is_head = request.command == "HEAD"
        request.send_header("Content-Length", length if is_head and length else str(len(reply)))
        request.end_headers()
        if fault == "truncated" and len(reply) > 1:
            request.wfile.write(reply[: len(reply) // 2])
            self._hang_up(request)
        else:
            request.wfile.write(reply)

    def _forward(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Ask the server; return status, headers and body of its reply."""
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if not (self.drops_conditions and name.lower() == "if-none-match"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            reply = connection.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            connection.close()

    def _forward_half(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        """Send the server a request that ends in the middle of its body."""
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        with contextlib.suppress(OSError):
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body[: len(body) // 2])
        connection.close()

    def _refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        """Say no in the words of S3."""
        text = f"<Error><Code>{code}</Code><Message>{_MESSAGE}</Message></Error>".encode()
        request.send_response_only(status)
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(text)

    def _hang_up(self, request: BaseHTTPRequestHandler) -> None:
        """Close the connection."""
        request.close_connection = True
        with contextlib.suppress(OSError):
            request.connection.shutdown(2)
