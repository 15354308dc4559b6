"""A finished span as plain JSON values: the form that is redacted, stored and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NotRequired, TypedDict, cast

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from .names import Names

_STRUCTURE: Final = {
    Names.OPERATION,
    Names.WORKFLOW,
    Names.REQUEST_MODEL,
    Names.SLOT,
    Names.CONTRACT,
    Names.ONE_OF,
    Names.BINDING,
    Names.DECISION,
    Names.SPECIALIST,
    Names.CACHE,
    Names.OUTCOME,
    Names.AGENT,
    Names.TAKES,
    Names.GIVES,
    "gen_ai.response.model",
    "gen_ai.provider.name",
    "gen_ai.tool.name",
    "error.type",
}
"""Attributes whose text says what ran, not what was said; of the others only numbers are structure."""

_NAMED_BY_CODE: Final = ("hetero_agents", "pydantic-ai")
"""Scopes whose span names are made of names in code; another library's may hold what a user typed."""

FOREIGN: Final = "imported:"
"""Stands before the scope of spans that other programs made."""

_SOFTWARE: Final = (
    "service.name",
    "service.version",
    "telemetry.sdk.language",
    "telemetry.sdk.name",
    "telemetry.sdk.version",
)
"""Attributes of the resource that name software; the others say where and for whom it ran."""


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
    forgotten: NotRequired[bool]
    """True where the content is of a person who was forgotten: nobody can open it any more."""


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


def readable_of(record: SpanRecord) -> ReadableSpan:
    """Return a record as the SDK's exporters take it."""

    def context(span_id: str, trace_id: str = record["trace_id"]) -> SpanContext:
        return SpanContext(int(trace_id, 16), int(span_id, 16), False, TraceFlags(TraceFlags.SAMPLED))

    return ReadableSpan(
        name=record["name"],
        context=context(record["span_id"]),
        parent=context(record["parent_id"]) if record["parent_id"] else None,
        resource=Resource(record["resource"]),
        attributes=record["attributes"],
        events=[Event(event["name"], event["attributes"], event["time"]) for event in record["events"]],
        links=[Link(context(link["span_id"], link["trace_id"]), link["attributes"]) for link in record["links"]],
        kind=SpanKind[record["kind"]],
        status=Status(StatusCode[record["status"]], record["message"]),
        start_time=record["start"],
        end_time=record["end"],
        instrumentation_scope=InstrumentationScope(record["scope"]),
    )


def foreign_record(record: SpanRecord) -> SpanRecord:
    """Return a span of another program: not ours, whatever it says."""
    return {
        **record,
        "scope": f"{FOREIGN}{record['scope'].removeprefix(FOREIGN)}",
        "attributes": {key: value for key, value in record["attributes"].items() if not key.startswith("hetero.")},
    }


def named_by_code(record: SpanRecord) -> bool:
    """Whether a span's name and attributes have the meaning that our own have."""
    return record["scope"] in _NAMED_BY_CODE


def is_structure(record: SpanRecord, key: str) -> bool:
    """Whether an attribute of a span is structure: what ran, how long, on what; never what was said."""
    value = record["attributes"][key]
    return named_by_code(record) and (
        key in _STRUCTURE
        or (isinstance(value, int | float) and key.startswith(("gen_ai.", "hetero.", "operation.cost")))
    )


def without_content(record: SpanRecord) -> SpanRecord:
    """Return what of a span is structure: what an operator may see, and what leaves over OTLP unless more is asked for."""
    return {
        **record,
        "name": record["name"] if named_by_code(record) else "span",
        "message": None,
        "attributes": {key: value for key, value in record["attributes"].items() if is_structure(record, key)},
        "events": [],
        "links": [{**link, "attributes": {}} for link in record["links"]] if named_by_code(record) else [],
        "resource": {key: value for key, value in record["resource"].items() if key in _SOFTWARE},
    }


def _plain(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        key: list(cast(Sequence[Any], value)) if isinstance(value, tuple) else value
        for key, value in (attributes or {}).items()
    }
