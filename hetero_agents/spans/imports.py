"""Spans of other programs, from files and from Jaeger: OTLP's JSON (an object, or one a line as collectors write it) and Jaeger's.

Jaeger's JSON is what its query API and its page give (`{"data": [...]}`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

from opentelemetry.trace import SpanKind

from ..errors import HeteroError, UserError
from .otlp import has_times, records_of, request_of_json
from .record import SpanRecord

_ID: Final = re.compile(r"[0-9a-fA-F]{1,32} [0-9a-fA-F]{1,16}")
"""A trace's and a span's id."""

LONGEST: Final = 512 * 2**20
"""Bytes of the longest JSON value that is read; a file of more needs a value a line."""


class CutShort(HeteroError):
    """A file ends within a value; what stands before was given."""


def read_spans(path: Path) -> Iterator[tuple[list[SpanRecord], int, int]]:
    """Give a file's spans value by value: (spans, spans without usable ids or times, bytes read so far).

    Raises:
        UserError: it cannot be read, or is neither OTLP's nor Jaeger's JSON.
        CutShort: it ends within a value.
    """
    try:
        with path.open("rb") as file:
            first = file.readline(LONGEST + 1)
            while first and not first.strip():
                first = file.readline(LONGEST + 1)
            if not first:
                raise UserError(f"{path} is empty.")
            try:
                value = json.loads(first)
            except ValueError:  # one value on several lines
                rest = file.read(LONGEST + 1 - len(first))
                if len(first) + len(rest) > LONGEST:
                    raise UserError(
                        f"{path} is one JSON value of more than {LONGEST >> 20} MiB; export one request a line instead."
                    ) from None
                yield *_spans_of(_json(first + rest, path, 1), path, 1), len(first) + len(rest)
                return
            yield *_spans_of(value, path, 1), file.tell()
            for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), 2):
                if line.strip():
                    yield *_spans_of(_json(line, path, number), path, number), file.tell()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error


def spans_of_jaeger(value: dict[str, Any]) -> tuple[list[SpanRecord], int]:
    """Return the spans of what Jaeger's query API gives, and how many have no usable ids or times and were left out.

    Raises:
        ValueError: it is something else.
    """
    try:
        found = [
            (span, trace["processes"].get(span["processID"], {})) for trace in value["data"] for span in trace["spans"]
        ]
        usable = [
            record
            for span, process in found
            if _ID.fullmatch(f"{span['traceID']} {span['spanID']}")
            if has_times(record := _of_jaeger(span, process))
        ]
    except KeyError as error:
        raise ValueError(f"it has no {error}") from error
    except (TypeError, AttributeError, ValueError) as error:  # what these say holds what was read
        raise ValueError("its fields are not those of Jaeger") from error
    return usable, len(found) - len(usable)


def fetch_jaeger(address: str, service: str, *, hours: float, limit: int) -> tuple[list[SpanRecord], int]:
    """Return the spans that Jaeger's query API gives, and how many have no usable ids or times and were left out.

    Args:
        address: of Jaeger's page.
        service: whose traces.
        hours: how far back.
        limit: traces, newest first.

    Raises:
        HeteroError: it does not answer, or is not Jaeger.
    """
    import httpx2

    url, now = f"{address.rstrip('/')}/api/traces", time.time()
    query = {"service": service, "limit": limit, "start": int((now - hours * 3600) * 1e6), "end": int(now * 1e6)}
    try:
        answer = httpx2.get(url, params=query, timeout=60.0)
        answer.raise_for_status()
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise HeteroError(f"Jaeger at {address} did not answer: {error}.") from error
    try:
        return spans_of_jaeger(answer.json())
    except ValueError as error:
        raise HeteroError(f"What answers at {url} is not Jaeger: {error}.") from error


def _json(text: bytes, path: Path, number: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if not text[error.pos :].strip() or "Unterminated" in error.msg or not text.endswith(b"\n"):
            raise CutShort(
                f"{path} ends within line {number}: the spans before it are stored; import it again when it is whole."
            ) from error
        raise UserError(f"{path}, line {number}, is not JSON: {error.msg}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {number}, is not JSON: {error.reason}.") from error


def _spans_of(value: Any, path: Path, number: int) -> tuple[list[SpanRecord], int]:
    try:
        if isinstance(value, dict) and "data" in value:
            return spans_of_jaeger(cast("dict[str, Any]", value))
        return records_of(request_of_json(value))
    except ValueError as error:
        raise UserError(f"{path}, line {number}, is neither OTLP's JSON nor Jaeger's: {error}.") from error


def _of_jaeger(span: dict[str, Any], process: dict[str, Any]) -> SpanRecord:
    tags = _tags(span.get("tags"))
    identity = str(span["spanID"]).lower().rjust(16, "0")
    parents = [str(r["spanID"]) for r in span.get("references") or () if r["refType"] == "CHILD_OF"]
    parent = parents[0].lower().rjust(16, "0") if parents and _ID.fullmatch(f"0 {parents[0]}") else None
    failed = tags.get("error") in (True, "true") or tags.get("otel.status_code") == "ERROR"
    message, kind = tags.get("otel.status_description"), str(tags.get("span.kind", "internal")).upper()
    scope = str(tags.get("otel.scope.name") or tags.get("otel.library.name") or "")
    said = {"otel.status_code", "otel.status_description", "span.kind", "otel.scope.name", "otel.library.name"}
    start = int(span["startTime"]) * 1000
    return {
        "trace_id": str(span["traceID"]).lower().rjust(32, "0"),
        "span_id": identity,
        "parent_id": parent if parent != identity else None,
        "name": str(span["operationName"]),
        "kind": kind if kind in SpanKind.__members__ else SpanKind.INTERNAL.name,
        "start": start,
        "end": start + int(span["duration"]) * 1000,
        "status": "ERROR" if failed else "UNSET",
        "message": None if message is None else str(message),
        "attributes": {k: v for k, v in tags.items() if k not in said and not (k == "error" and isinstance(v, bool))},
        "events": [
            {"name": str(fields.pop("event", "log")), "time": int(log["timestamp"]) * 1000, "attributes": fields}
            for log in span.get("logs") or ()
            for fields in [_tags(log.get("fields"))]
        ],
        "links": [],
        "resource": {"service.name": str(process.get("serviceName", "")), **_tags(process.get("tags"))},
        "scope": scope,
    }


def _tags(tags: Any) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in cast("list[dict[str, Any]]", tags or [])}
