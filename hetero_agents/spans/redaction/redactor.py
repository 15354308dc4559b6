"""Redaction of whole spans (the paper's step S1): personal values and origin go, the form and the sense of a run stay.

A value that is found anywhere in a run is replaced everywhere in it, in texts, in JSON inside texts and in numbers,
always by the same surrogate: what an output copied from an input is still a copy. What detection cannot read is not kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, cast

from ..names import Names
from ..record import SpanRecord, is_structure, named_by_code, without_content
from .surrogates import Surrogates

REMEMBERED_RUNS: Final = 4096
"""Runs whose values are remembered for spans that come later."""

REMEMBERED_TEXTS: Final = 20_000
"""Texts whose values are remembered: messages come again in each span around them."""

_IDENTIFIERS: Final = {Names.SUBJECT, "gen_ai.conversation.id", "session.id", "user.id", "enduser.id"}
"""Attributes that name a person or a session: a pseudonym stands for them."""

_ORIGIN: Final = re.compile(
    r"(host|os|process|device|container|k8s|cloud|user|enduser|session|client|server|source|destination|peer|net|network|code|thread|geo)\."
)
"""Attributes that say where and for whom a span was made; they are left out."""

_SCHEMA_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z_.\-]{0,60}")
_DIGITS_TO_LOOK_AT: Final = 7
"""Numbers with fewer digits identify nobody by themselves."""
_SHORT: Final = 80
"""Characters up to which a field's value is read together with the field's name."""
_PART: Final = 4
"""Letters from which a part of a name counts as that name."""


class Found(NamedTuple):
    """A personal value in a text: where, and Presidio's name of its kind."""

    start: int
    end: int
    kind: str


class Detector(Protocol):
    """What finds personal values."""

    def find(self, texts: Sequence[str]) -> list[list[Found] | None]:
        """Return the values of each text; None for a text in a language that is not spoken."""
        ...


class Unreadable(Exception):
    """A text is in a language that the detector does not speak."""


class _Value(NamedTuple):
    kind: str
    alone: bool
    """It was found as a word of its own, not inside of one."""


class _Place(NamedTuple):
    """A part of a text that goes: places of one text do not overlap."""

    start: int
    end: int
    value: _Value


@dataclass
class _Run:
    """What is known of a run so far."""

    scope: str
    values: dict[str, _Value]


class Redactor:
    """Redacts the spans of one vault; keeps what it found, so that later spans of a run are redacted alike."""

    def __init__(
        self,
        detector: Detector,
        surrogates: Surrogates,
        *,
        unredacted: Mapping[str, Sequence[str]] | None = None,
        link_subjects: bool = False,
    ) -> None:
        """Take what it needs.

        Args:
            detector: finds values.
            surrogates: gives what stands for them.
            unredacted: parameters that stay as they are, by slot id. A value that is found elsewhere is replaced there all the same.
            link_subjects: replace a value alike for all subjects; else each subject, and each run without one, has its own surrogates.
        """
        self._detector = detector
        self._surrogates = surrogates
        self._unredacted = unredacted or {}
        self._link_subjects = link_subjects
        self._runs = OrderedDict[str, _Run]()
        self._found = OrderedDict[bytes, "list[_Place] | None"]()

    def redact(self, records: Sequence[SpanRecord]) -> tuple[list[SpanRecord], int]:
        """Return the spans as they may be stored, and how many of them lost their content because it cannot be read.

        Raises:
            Exception: what the detector raises; nothing may be stored then.
        """
        texts = dict[str, None]()
        collect = _Walk(lambda text, field: texts.setdefault(_in_context(text, field)[0]), self._unredacted)
        for record in records:
            collect.span(record)
        self._look_at([text for text in texts if _digest(text) not in self._found])
        for record in records:
            self._learn(record)
        replacers = {trace: self._replacer(self._run(trace)) for trace in {record["trace_id"] for record in records}}
        redacted: list[SpanRecord] = []
        dropped = 0
        for record in records:
            try:
                redacted.append(self._redacted(record, replacers[record["trace_id"]]))
            except Unreadable:
                dropped += 1
                redacted.append(without_content(record))
        while len(self._found) > REMEMBERED_TEXTS:
            self._found.popitem(last=False)
        while len(self._runs) > REMEMBERED_RUNS:
            self._runs.popitem(last=False)
        return redacted, dropped

    def _look_at(self, texts: Sequence[str]) -> None:
        for text, found in zip(texts, self._detector.find(texts), strict=True):
            self._found[_digest(text)] = None if found is None else _places(text, found)

    def _places(self, text: str, field: str | None) -> list[_Place]:
        """Return where a text's values are.

        Raises:
            Unreadable: the text cannot be read.
        """
        context, prefix = _in_context(text, field)
        places = self._found[_digest(context)]
        if places is None:
            raise Unreadable
        begin = len(prefix)
        return [_Place(max(p.start - begin, 0), p.end - begin, p.value) for p in places if p.end > begin]

    def _learn(self, record: SpanRecord) -> None:
        """Take up a span's values and its subject into what is known of its run."""
        run = self._run(record["trace_id"])
        if not self._link_subjects and isinstance(subject := record["attributes"].get(Names.SUBJECT), str):
            run.scope = f"subject {subject}"

        def learn(text: str, field: str | None) -> None:
            for place in self._places(text, field):
                value = text[place.start : place.end]
                before = run.values.get(value, place.value)
                run.values[value] = _Value(before.kind, before.alone and place.value.alone)

        with suppress(Unreadable):
            _Walk(learn, self._unredacted).span(record)

    def _run(self, trace: str) -> _Run:
        run = self._runs.setdefault(trace, _Run("" if self._link_subjects else f"run {trace}", {}))
        self._runs.move_to_end(trace)
        return run

    def _replacer(self, run: _Run) -> Callable[[str, Sequence[_Place]], str]:
        """Return what replaces a text's own values and every other known value of its run."""
        kinds = {value.casefold(): (value, about.kind) for value, about in run.values.items()}
        parts = {
            part
            for value, about in run.values.items()
            if about.kind == "PERSON"
            for part in re.findall(r"[^\W\d_]+", value)
            if len(part) >= _PART and part[0].isupper() and part.casefold() not in kinds
        }
        longest_first = sorted(run.values, key=len, reverse=True)
        known = re.compile(
            "|".join(
                [f"(?i:{_guarded(value, run.values[value].alone)})" for value in longest_first]
                + [_guarded(part, True) for part in sorted(parts, key=len, reverse=True)]
            )
            or r"(?!)"
        )

        def surrogate(found: str) -> str:
            value, kind = kinds.get(found.casefold(), (found, "PERSON"))
            new = self._surrogates.of(run.scope, kind, value)
            if found != value:  # written in another case
                new = new.upper() if found.isupper() else new.lower() if found.islower() else new
            return new

        def replace(text: str, places: Sequence[_Place]) -> str:
            out, done = "", 0
            for place in places:
                out += known.sub(lambda match: surrogate(match[0]), text[done : place.start])
                out += surrogate(text[place.start : place.end])
                done = place.end
            return out + known.sub(lambda match: surrogate(match[0]), text[done:])

        return replace

    def _redacted(self, record: SpanRecord, replace: Callable[[str, Sequence[_Place]], str]) -> SpanRecord:
        def change(text: str, field: str | None) -> str:
            return replace(text, self._places(text, field))

        redacted = _Walk(change, self._unredacted).span(record)
        scope = "" if self._link_subjects else self._run(record["trace_id"]).scope
        for key in _IDENTIFIERS & redacted["attributes"].keys():
            stated = str(record["attributes"][key])
            # A subject's pseudonym is the same in all runs: by it a person's spans are found again.
            redacted["attributes"][key] = self._surrogates.pseudonym("" if key == Names.SUBJECT else scope, stated)
        return redacted


class _Walk:
    """Goes through a span's content, and gives it back with every text as a function changes it."""

    def __init__(self, change: Callable[[str, str | None], Any], unredacted: Mapping[str, Sequence[str]]) -> None:
        """Take the function: it is given a text and the name of the field that it is the value of, if any."""
        self._change = change
        self._unredacted = unredacted

    def span(self, record: SpanRecord) -> SpanRecord:
        """Go through a span; origin is left out of what comes back."""
        structure = without_content(record)
        kept = self._unredacted.get(record["attributes"].get(Names.SLOT, ""), ())
        attributes = dict(structure["attributes"])
        for key, value in record["attributes"].items():
            if key in _IDENTIFIERS:
                attributes[key] = value
            elif key == Names.INPUT and kept:
                fields = json.loads(value)
                changed = {k: v if k in kept else self._value(v, k) for k, v in fields.items()}
                attributes[key] = _compact(changed)
            elif not is_structure(record, key) and not _ORIGIN.match(key):
                attributes[key] = self._value(value, None)
        return {
            **structure,
            "name": record["name"] if named_by_code(record) else self._value(record["name"], None),
            "message": self._value(record["message"], None),
            "attributes": attributes,
            "events": [
                {**event, "name": self._value(event["name"], None), "attributes": self._fields(event["attributes"])}
                for event in record["events"]
            ],
            "links": [{**link, "attributes": self._fields(link["attributes"])} for link in record["links"]],
        }

    def _fields(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self._value(value, None) for key, value in attributes.items() if not _ORIGIN.match(key)}

    def _value(self, value: Any, field: str | None) -> Any:
        match value:
            case str() if value[:1] in ("{", "[", '"') and (inner := _json_in(value)) is not None:
                changed = self._value(inner, field)
                return value if changed == inner else _compact(changed)
            case str():
                return self._change(value, field) if value.strip() else value
            case bool() | None:
                return value
            case int() | float():
                return self._number(value, field)
            case dict():
                entries = cast(dict[str, Any], value)
                return {self._key(key): self._value(inner, key) for key, inner in entries.items()}
            case list():
                return [self._value(inner, field) for inner in cast(list[Any], value)]
            case _:
                return value

    def _number(self, value: int | float, field: str | None) -> Any:
        text = str(value)
        if sum(map(str.isdigit, text)) < _DIGITS_TO_LOOK_AT:
            return value
        changed = self._change(text, field)
        return value if changed == text or changed is None else type(value)(changed) if _is_number(changed) else changed

    def _key(self, key: str) -> str:
        return key if _SCHEMA_KEY.fullmatch(key) else self._change(key, None) or key


def _in_context(text: str, field: str | None) -> tuple[str, str]:
    """A short value together with its field's name, as detection reads it; and what stands before the value."""
    prefix = f"{field.replace('_', ' ')}: " if field and len(text) <= _SHORT else ""
    return prefix + text, prefix


def _places(text: str, found: Sequence[Found]) -> list[_Place]:
    """Tile what was found: of two values that overlap, the earlier and longer one is whole, and the other one's rest is its own."""
    places: list[_Place] = []
    done = 0
    for start, end, kind in sorted(found, key=lambda f: (f.start, -f.end)):
        start = max(start, done)
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if start >= end:
            continue
        around = text[start - 1 : start] + text[end : end + 1]
        places.append(_Place(start, end, _Value(kind, not re.search(r"\w", around))))
        done = end
    return places


def _digest(text: str) -> bytes:
    """What a text is remembered by."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _guarded(value: str, alone: bool) -> str:
    """A pattern for a value: a word does not match in another word, nor a number in another number."""
    escaped = re.escape(value)
    if not alone:
        return escaped
    letters = r"\w" if value.replace(" ", "").isalpha() else r"\d"
    before = rf"(?<!{letters})" if re.match(letters, value) else ""
    after = rf"(?!{letters})" if re.match(letters, value[-1]) else ""
    return f"{before}{escaped}{after}"


def _json_in(text: str) -> Any:
    """What a text holds as JSON: a list, an object or a text; else None."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, list | dict | str) else None  # pyright: ignore[reportUnknownVariableType]


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
