"""The form of a sealed vault's records: what stands in the clear, what is structure, what is content."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from .names import Names
from .record import SpanRecord, is_structure, named_by_code

LONGEST_SLOT: Final = 512
"""Characters of the longest slot id by which runs are found."""

FORGOTTEN: Final[dict[str, Any]] = {}
"""In the place of content that nobody can open any more."""

LENGTHS: Final = struct.Struct(">HI")
"""Bytes of the head and of the sealed structure, at a record's beginning."""

Kind = Literal["span", "foreign", "feedback"]
"""Of a record: a span of ours, one of another program, or what was said of one."""


@dataclass(frozen=True)
class Row:
    """What one record is made of."""

    kind: Kind
    trace: str
    span: str
    start: int
    slot: str | None
    person: str | None
    structure: dict[str, Any]
    content: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A record as it stands in the clear."""

    path: Path
    offset: int
    length: int
    head: bytes
    kind: Kind
    trace: str
    span: str
    start: int
    slot: str | None
    epoch: int


def entry_of(path: Path, offset: int, length: int, beginning: bytes) -> Entry:
    """Read what stands in the clear of a record.

    Raises:
        ValueError, struct.error: it is no record.
    """
    first, _ = LENGTHS.unpack_from(beginning)
    head = beginning[LENGTHS.size : LENGTHS.size + first]
    kind, trace, span, start, slot, epoch = json.loads(head)
    return Entry(path, offset, length, head, kind, trace, span, start, slot, epoch)


def slot_of(record: SpanRecord) -> str | None:
    """Return the slot's id, which stands in the clear: ours alone, and no text of any length."""
    slot = record["attributes"].get(Names.SLOT)
    return slot if isinstance(slot, str) and named_by_code(record) and len(slot) <= LONGEST_SLOT else None


def split(record: SpanRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what an operator may see of a span, and the rest."""
    by_code = named_by_code(record)
    plain = {key: value for key, value in record["attributes"].items() if is_structure(record, key)}
    structure: dict[str, Any] = {
        "parent_id": record["parent_id"],
        "name": record["name"] if by_code else "span",
        "kind": record["kind"],
        "end": record["end"],
        "status": record["status"],
        "scope": record["scope"],
        "attributes": plain,
    }
    content: dict[str, Any] = {
        "message": record["message"],
        "events": record["events"],
        "links": record["links"],
        "resource": record["resource"],
        "attributes": {key: value for key, value in record["attributes"].items() if key not in plain},
    }
    return structure, content if by_code else {**content, "name": record["name"]}


def joined(entry: Entry, structure: dict[str, Any], content: dict[str, Any] | None) -> SpanRecord:
    """Put a span together again; without content where it is None or `FORGOTTEN`."""
    nothing: dict[str, Any] = {"message": None, "events": [], "links": [], "resource": {}, "attributes": {}}
    record = {"trace_id": entry.trace, "span_id": entry.span, "start": entry.start, **structure, **(content or nothing)}
    record["attributes"] = {**structure["attributes"], **(content or nothing)["attributes"]}
    if content is None:
        record["withheld"] = True
    if content is FORGOTTEN:
        record["forgotten"] = True
    return cast(SpanRecord, record)
