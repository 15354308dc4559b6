"""OTLP (version 1), in and out: what OpenTelemetry's exporters send, and its JSON form, which Jaeger's page opens.

https://opentelemetry.io/docs/specs/otlp/: the JSON form is Protobuf's, with ids in hexadecimal and enums as numbers.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.trace import SpanKind, StatusCode

from .record import SpanRecord, readable_of

_IDS = {"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"}

_KINDS = {
    Span.SPAN_KIND_SERVER: SpanKind.SERVER,
    Span.SPAN_KIND_CLIENT: SpanKind.CLIENT,
    Span.SPAN_KIND_PRODUCER: SpanKind.PRODUCER,
    Span.SPAN_KIND_CONSUMER: SpanKind.CONSUMER,
}
_STATUS = {Status.STATUS_CODE_OK: StatusCode.OK, Status.STATUS_CODE_ERROR: StatusCode.ERROR}


LATEST: Final = 2**63 - 1
"""Nanoseconds of the latest time, in the year 2262."""


def records_of(request: ExportTraceServiceRequest) -> tuple[list[SpanRecord], int]:
    """Return the spans of a request, and how many have no usable ids or times and were left out."""
    records: list[SpanRecord] = []
    rejected = 0
    for of_resource in request.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                record = _record(span, resource, of_scope.scope.name)
                ids = len(span.trace_id) == 16 and len(span.span_id) == 8 and any(span.trace_id) and any(span.span_id)
                if ids and has_times(record):
                    records.append(record)
                else:
                    rejected += 1
    return records, rejected


def has_times(record: SpanRecord) -> bool:
    """Return whether a span's times are some, and not other units."""
    return 0 <= record["start"] <= LATEST and 0 <= record["end"] <= LATEST


def request_of(records: Sequence[SpanRecord]) -> ExportTraceServiceRequest:
    """Return spans as a request."""
    return encode_spans([readable_of(record) for record in records])


def json_of(records: Sequence[SpanRecord]) -> dict[str, Any]:
    """Return spans as OTLP's JSON: an object with `resourceSpans`."""
    return _with_ids(MessageToDict(request_of(records), use_integers_for_enums=True), _hexadecimal)


def request_of_json(value: Any) -> ExportTraceServiceRequest:
    """Read OTLP's JSON.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, dict) or not value.keys() & {"resourceSpans", "resource_spans"}:
        raise ValueError("it has no resourceSpans")
    request = ExportTraceServiceRequest()
    try:
        ParseDict(_with_ids(cast(Any, value), _base64), request, ignore_unknown_fields=True)
    except (ParseError, binascii.Error) as error:
        raise ValueError("its fields are not those of OTLP") from error  # what the library says holds what it read
    return request


def _record(span: Span, resource: dict[str, Any], scope: str) -> SpanRecord:
    parent = span.parent_span_id
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_id": parent.hex() if len(parent) == 8 and any(parent) and parent != span.span_id else None,
        "name": span.name,
        "kind": _KINDS.get(span.kind, SpanKind.INTERNAL).name,
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "status": _STATUS.get(span.status.code, StatusCode.UNSET).name,
        "message": span.status.message or None,
        "attributes": _attributes(span.attributes),
        "events": [
            {"name": event.name, "time": event.time_unix_nano, "attributes": _attributes(event.attributes)}
            for event in span.events
        ],
        "links": [
            {"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex(), "attributes": _attributes(link.attributes)}
            for link in span.links
            if len(link.trace_id) == 16 and len(link.span_id) == 8
        ],
        "resource": resource,
        "scope": scope,
    }


def _attributes(entries: Iterable[KeyValue]) -> dict[str, Any]:
    return {entry.key: _value(entry.value) for entry in entries}


def _value(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_value(inner) for inner in value.array_value.values]
        case "kvlist_value":
            return _attributes(value.kvlist_value.values)
        case "bytes_value":  # nothing here can look into them, so they are not kept
            return f"({len(value.bytes_value)} bytes)"
        case kind:
            return getattr(value, kind)


def _with_ids(node: Any, change: Any) -> Any:
    if isinstance(node, list):
        return [_with_ids(inner, change) for inner in cast("list[Any]", node)]
    if isinstance(node, dict):
        return {
            key: change(value) if key in _IDS and isinstance(value, str) else _with_ids(value, change)
            for key, value in cast("dict[str, Any]", node).items()
        }
    return node


def _hexadecimal(text: str) -> str:
    return base64.b64decode(text).hex()


def _base64(text: str) -> str:
    """Protobuf's form of an id in hexadecimal; some writers keep Protobuf's form, and it is left as it is."""
    return base64.b64encode(bytes.fromhex(text)).decode() if len(text) in (16, 32) else text
