"""The way in for running programs: an OTLP receiver, over HTTP and, where grpcio is installed, gRPC.

A request is answered when its spans are stored: what a sender was told to be taken is redacted, sealed and on the disk.
https://opentelemetry.io/docs/specs/otlp/#otlphttp and #otlpgrpc.
"""

from __future__ import annotations

import gzip
import hmac
import io
import ipaddress
import json
import logging
import threading
import zlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from socket import socket
from typing import Any, Final

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from ..errors import HeteroError, UserError
from .otlp import records_of, request_of_json
from .record import SpanRecord

LARGEST: Final = 16 * 2**20
"""Bytes of the largest request, unpacked."""

LINE: Final = 1024
"""Bytes of the longest line before a chunk."""

AT_ONCE: Final = 16
"""Requests and connections that are worked on at a time; more are told to come again."""

SILENT_SECONDS: Final = 30.0
"""After which a connection that says nothing is closed."""

Store = Callable[[Sequence[SpanRecord]], None]
"""Stores spans, durably when it returns; raises where it cannot."""

_log = logging.getLogger("hetero_agents")


class _Busy(Exception):
    """As many requests as can be worked on are under way."""


class _NotOtlp(Exception):
    """What a sender sent cannot be read."""


class Receiver:
    """Listens, from its making to `close`.

    Attributes:
        url: where it listens for OTLP over HTTP.
        grpc_address: where it listens for OTLP over gRPC; None where grpcio is not installed.
        stored: spans stored so far.
        refused: spans that could not be stored, or had no usable ids or times, so far.
    """

    def __init__(self, store: Store, *, host: str, port: int, grpc_port: int, token: str | None) -> None:
        """Begin to listen.

        Args:
            store: what spans are given to.
            host: address of this machine.
            port: for HTTP; 0 takes a free one.
            grpc_port: for gRPC; 0 takes a free one.
            token: what senders say as `Authorization: Bearer TOKEN`; None only on a loopback address.

        Raises:
            UserError: the address cannot be used, or is open to others and has no token.
        """
        if not token and not _is_loopback(host):
            raise UserError(
                f"{host} is open to other machines, so senders need a token: set HETERO_COLLECT_TOKEN, or listen on 127.0.0.1."
            )
        self._store, self._token = store, token or None
        self._gate = threading.BoundedSemaphore(AT_ONCE)
        self._counting = threading.Lock()
        self.stored = self.refused = 0
        try:
            self._http = _HttpServer((host, port), self)
        except OSError as error:
            raise UserError(
                f"{host}:{port} cannot be listened on ({error.strerror}); choose another --port."
            ) from error
        self.url = f"http://{host}:{self._http.server_port}"
        self._grpc: Any = None
        self.grpc_address: str | None = None
        try:
            if find_spec("grpc"):
                self._listen_grpc(host, grpc_port)
        except BaseException:
            self._http.server_close()
            raise
        self._thread = threading.Thread(target=self._http.serve_forever, name="otlp http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more requests, finish those that are under way, and stop."""
        self._http.shutdown()
        if self._grpc is not None:
            self._grpc.stop(grace=SILENT_SECONDS).wait()
        for _ in range(AT_ONCE):
            self._gate.acquire(timeout=SILENT_SECONDS)
        self._http.server_close()

    def knows(self, authorization: str | None) -> bool:
        """Whether a sender may send."""
        expected = f"Bearer {self._token}".encode()
        return self._token is None or hmac.compare_digest((authorization or "").encode(), expected)

    @contextmanager
    def place(self) -> Generator[None]:
        """Hold one of the places for requests.

        Raises:
            _Busy: there is none.
        """
        if not self._gate.acquire(blocking=False):
            raise _Busy
        try:
            yield
        finally:
            self._gate.release()

    def take(self, request: ExportTraceServiceRequest) -> ExportTraceServiceResponse:
        """Store a request.

        Raises:
            HeteroError: it could not be stored; the sender keeps it.
        """
        records, rejected = records_of(request)
        try:
            if records:
                self._store(records)
        except Exception:
            with self._counting:
                self.refused += len(records)
            raise
        with self._counting:
            self.stored += len(records)
            self.refused += rejected
        response = ExportTraceServiceResponse()
        if rejected:
            response.partial_success.rejected_spans = rejected
            response.partial_success.error_message = "spans without a trace id, a span id and times"
        return response

    def _listen_grpc(self, host: str, port: int) -> None:
        import grpc  # pyright: ignore[reportMissingTypeStubs]
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

        service: Any = trace_service_pb2_grpc  # grpc ships no types

        receiver = self

        class Servicer(service.TraceServiceServicer):
            """OTLP's trace service."""

            def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
                """Store a request."""
                said = dict(context.invocation_metadata())
                if not receiver.knows(said.get("authorization")):
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")
                try:
                    with receiver.place():
                        return receiver.take(request)
                except _Busy:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "too many requests at a time")
                except Exception as error:
                    context.abort(grpc.StatusCode.UNAVAILABLE, _reason(error))
                raise AssertionError("abort raises")

        options = [("grpc.max_receive_message_length", LARGEST), ("grpc.so_reuseport", 0)]
        self._grpc = grpc.server(ThreadPoolExecutor(AT_ONCE, "otlp grpc"), options=options)
        service.add_TraceServiceServicer_to_server(Servicer(), self._grpc)
        shown = f"[{host}]" if ":" in host else host
        try:
            bound = self._grpc.add_insecure_port(f"{shown}:{port}")
        except RuntimeError as error:
            raise UserError(f"{host}:{port} cannot be listened on; choose another --grpc-port.") from error
        self.grpc_address = f"{shown}:{bound}"
        self._grpc.start()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    # Those that come at once are told that they are too many; five places, as by default, let some wait for seconds.
    request_queue_size = 4 * AT_ONCE

    def __init__(self, address: tuple[str, int], receiver: Receiver) -> None:
        self.receiver = receiver
        self._connections = threading.BoundedSemaphore(4 * AT_ONCE)
        super().__init__(address, _Handler)

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """A sender that goes away in mid-request keeps its spans; there is nothing to say."""


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = SILENT_SECONDS

    def do_POST(self) -> None:
        """Take a request."""
        receiver = self.server.receiver
        is_json = self.headers.get_content_type() == "application/json"
        self.close_connection = True  # until the body has been read
        if not receiver.knows(self.headers.get("Authorization")):
            return self._say(HTTPStatus.UNAUTHORIZED, b"the token is missing or wrong")
        if self.path.rstrip("/") != "/v1/traces":
            return self._say(HTTPStatus.NOT_FOUND, b"traces go to /v1/traces; nothing else is taken")
        if not is_json and self.headers.get_content_type() != "application/x-protobuf":
            return self._say(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, b"OTLP is application/x-protobuf or application/json")
        chunked = (self.headers["Transfer-Encoding"] or "").strip().lower() == "chunked"
        try:
            length = 0 if chunked else int(self.headers["Content-Length"])
        except (TypeError, ValueError):
            return self._say(HTTPStatus.LENGTH_REQUIRED, b"Content-Length is missing")
        if not 0 <= length <= LARGEST:
            return self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"the request is too large")
        try:
            with receiver.place():
                body = self._chunks() if chunked else self.rfile.read(length)
                if len(body) < length:
                    return None
                self.close_connection = False
                response = receiver.take(_read(body, self.headers.get("Content-Encoding"), is_json))
        except _Busy:
            return self._say(HTTPStatus.SERVICE_UNAVAILABLE, b"too many requests at a time", retry=True)
        except _NotOtlp as error:
            return self._say(HTTPStatus.BAD_REQUEST, str(error).encode())
        except Exception as error:
            return self._say(HTTPStatus.SERVICE_UNAVAILABLE, _reason(error).encode(), retry=True)
        if is_json:
            return self._say(HTTPStatus.OK, MessageToJson(response, indent=None).encode(), "application/json")
        return self._say(HTTPStatus.OK, response.SerializeToString(), "application/x-protobuf")

    def _chunks(self) -> bytes:
        """A body whose length nobody says before, as Node's exporters send it (RFC 9112, 7.1).

        Raises:
            _NotOtlp: it is none, is cut short or too large.
        """
        body = bytearray()
        try:
            while size := int(self.rfile.readline(LINE).partition(b";")[0], 16):
                if not 0 < size <= LARGEST - len(body):
                    raise _NotOtlp("the request is too large")
                body += self.rfile.read(size)
                self.rfile.readline(LINE)
            while self.rfile.readline(LINE).strip():  # trailers
                pass
        except ValueError as error:
            raise _NotOtlp("the request is cut short, or its chunks are none") from error
        return bytes(body)

    def _say(self, status: HTTPStatus, body: bytes, kind: str = "text/plain", *, retry: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if retry:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: paths may hold what a sender typed."""


def _read(body: bytes, encoding: str | None, is_json: bool) -> ExportTraceServiceRequest:
    try:
        if encoding == "gzip":
            with gzip.open(io.BytesIO(body)) as unpacked:
                body = unpacked.read(LARGEST + 1)
            if len(body) > LARGEST:
                raise _NotOtlp("the request is too large")
        elif encoding not in (None, "", "identity"):
            raise _NotOtlp("Content-Encoding is gzip or identity")
        return request_of_json(json.loads(body)) if is_json else ExportTraceServiceRequest.FromString(body)
    except (ValueError, DecodeError, EOFError, OSError, zlib.error) as error:
        raise _NotOtlp("this is not OTLP") from error


def _reason(error: Exception) -> str:
    """What a sender is told: our own sentences, of other errors the kind alone."""
    reason = str(error) if isinstance(error, HeteroError) else type(error).__name__
    _log.warning("Spans were refused: %s", reason)
    return reason


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
