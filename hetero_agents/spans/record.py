"""A finished span as plain JSON values: the form that is redacted, stored and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict, cast

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode


class SpanRecord(TypedDict):
    """One finished span. Ids are lower-case hexadecimal, times nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    start: int
    end: int
    status: str
    """`UNSET`, `OK` or `ERROR`."""
    message: str | None
    """The status's description."""
    attributes: dict[str, Any]
    events: list[dict[str, Any]]
    links: list[dict[str, Any]]
    resource: dict[str, Any]
    scope: str
    withheld: NotRequired[bool]
    """True where a vault's reader may not see content: it is left out here."""


def record_of(span: ReadableSpan) -> SpanRecord:
    """Return a finished span as a record; nothing of it is left out."""
    context = span.context
    assert context is not None
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": span.name,
        "kind": span.kind.name,
        "start": span.start_time or 0,
        "end": span.end_time or 0,
        "status": span.status.status_code.name if span.status else StatusCode.UNSET.name,
        "message": span.status.description if span.status else None,
        "attributes": _plain(span.attributes),
        "events": [{"name": e.name, "time": e.timestamp, "attributes": _plain(e.attributes)} for e in span.events],
        "links": [
            {
                "trace_id": f"{link.context.trace_id:032x}",
                "span_id": f"{link.context.span_id:016x}",
                "attributes": _plain(link.attributes),
            }
            for link in span.links
        ],
        "resource": _plain(span.resource.attributes),
        "scope": span.instrumentation_scope.name if span.instrumentation_scope else "",
    }


def _plain(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        key: list(cast(Sequence[Any], value)) if isinstance(value, tuple) else value
        for key, value in (attributes or {}).items()
    }
