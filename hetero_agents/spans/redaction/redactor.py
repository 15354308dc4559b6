"""Redaction of whole spans (the paper's step S1): personal values and origin go, the form and the sense of a run stay.

A value that is found anywhere in a run is replaced everywhere in it, in texts, in JSON inside texts, in keys and in numbers,
always by the same surrogate: what an output copied from an input is still a copy. What cannot be read is not kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, cast

from ..names import Names
from ..record import SpanRecord, is_structure, named_by_code, without_content
from .surrogates import PSEUDONYM, Surrogates

REMEMBERED_RUNS: Final = 4096
"""Runs whose values are remembered for spans that come later."""

REMEMBERED_TEXTS: Final = 20_000
"""Texts whose values are remembered: messages come again in each span around them."""

LONGEST_TEXT: Final = 200_000
"""Characters of the longest text that is read; a span that holds a longer one loses its content."""

_IDENTIFIERS: Final = {Names.SUBJECT, "gen_ai.conversation.id", "session.id", "user.id", "enduser.id"}
"""Attributes that name a person or a session: a pseudonym stands for them, here and wherever they are told."""

_ORIGIN: Final = re.compile(
    r"(host|os|process|device|container|k8s|cloud|user|enduser|session|client|server|source|destination|peer|net|network|code|thread|geo)\."
)
"""Attributes that say where and for whom a span was made; they are left out."""

_CODE_NAMES: Final = {
    "gen_ai.agent.name",
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.response.model",
    "gen_ai.system",
    "gen_ai.tool.name",
    "graph.node.id",
    "llm.model_name",
    "llm.provider",
    "llm.request.type",
    "llm.system",
    "openinference.span.kind",
    "traceloop.entity.name",
    "traceloop.entity.path",
    "traceloop.span.kind",
    "traceloop.workflow.name",
}
"""Attributes of other programs' spans that name agents, tasks, tools and models: what has the form of `_CODE_NAME` stays."""
_CODE_NAME: Final = re.compile(r"[A-Za-z_][\w .:/-]{0,80}")

_FORM_FIELDS: Final = {"role", "type", "finish_reason"}
_FORM: Final = re.compile(r"[a-z_]{1,24}")
"""What the fields above hold in messages: words of the GenAI conventions, not of people."""

_SCHEMA_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z_.\-]{0,60}")
"""A key that may be a name in code; it is not looked at where it is no option of a call, but known values are replaced in it."""
_DIGITS_TO_LOOK_AT: Final = 7
"""Numbers with fewer digits are not looked at: they identify nobody by themselves."""
_SHORT: Final = 80
"""Characters up to which a field's value is read together with the field's name."""
_SHORTEST_KNOWN: Final = 3
"""Characters from which a value is replaced in other texts than its own too."""
_NAMES: Final = re.compile(r"[A-Z][\w'’-]+(?: [A-Z][\w'’-]+)*")
_BY_MODEL: Final = {"PERSON", "LOCATION"}
"""Kinds that a language model finds, which is less sure where a value begins and ends than a rule is."""


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
    """A text is too long, or in a language that the detector does not speak."""


@dataclass
class _Run:
    """What is known of a run so far."""

    scope: str
    values: dict[str, str] = field(default_factory=dict[str, str])
    """Kind by value."""
    known: re.Pattern[str] | None = None
    """Matches every known value; None where values have come since."""


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
        self._found = OrderedDict[bytes, "list[Found] | None"]()

    def redact(self, records: Sequence[SpanRecord]) -> tuple[list[SpanRecord], int]:
        """Return the spans as they may be stored, and how many of them lost their content because it cannot be read."""
        texts = [self._texts(record) for record in records]
        read = dict.fromkeys(_in_context(*text)[0] for of_span in texts for text in of_span or ())
        self._look_at([text for text in read if _digest(text) not in self._found])
        for record, of_span in zip(records, texts, strict=True):
            self._learn(record, of_span or ())
        redacted: list[SpanRecord] = []
        dropped = 0
        for record, of_span in zip(records, texts, strict=True):
            try:
                if of_span is None:
                    raise Unreadable
                redacted.append(self._redacted(record))
            except Exception:  # whatever it holds: it costs this span its content, and no other
                dropped += 1
                redacted.append(without_content(record))
        while len(self._found) > REMEMBERED_TEXTS:
            self._found.popitem(last=False)
        while len(self._runs) > REMEMBERED_RUNS:
            self._runs.popitem(last=False)
        return redacted, dropped

    def _texts(self, record: SpanRecord) -> list[tuple[str, str | None]] | None:
        """Return every text of a span that detection reads, with its field's name; None for a span that cannot be gone through."""
        texts: list[tuple[str, str | None]] = []

        def note(text: str, field: str | None, look: bool) -> str:
            if look:
                texts.append((text, field))
            return text

        try:
            _Walk(note, self._unredacted).span(record)
        except Exception:
            return None
        return texts

    def _look_at(self, texts: Sequence[str]) -> None:
        fitting = [text for text in texts if len(text) <= LONGEST_TEXT]
        try:
            found = self._detector.find([_readable(text) for text in fitting])
        except Exception:  # one of them cannot be read: which one?
            found = [self._found_in(text) for text in fitting]
        self._found |= {_digest(text): None for text in texts} | {
            _digest(text): values for text, values in zip(fitting, found, strict=True)
        }

    def _found_in(self, text: str) -> list[Found] | None:
        try:
            return self._detector.find([_readable(text)])[0]
        except Exception:
            return None

    def _own(self, text: str, field: str | None) -> list[Found]:
        """Return what was found in a text itself.

        Raises:
            Unreadable: it could not be read.
        """
        context, prefix = _in_context(text, field)
        found = self._found[_digest(context)]
        if found is None:
            raise Unreadable
        begin = len(prefix)  # a value that was found together with the field's name may begin in it
        return [Found(max(f.start - begin, 0), f.end - begin, f.kind) for f in found if f.end > begin]

    def _learn(self, record: SpanRecord, texts: Iterable[tuple[str, str | None]]) -> None:
        """Take up a span's values and its subject into what is known of its run."""
        run = self._run(record["trace_id"])
        attributes = record["attributes"]
        if not self._link_subjects and isinstance(subject := attributes.get(Names.SUBJECT), str):
            run.scope = f"subject {subject}"
        values = {str(attributes[key]): PSEUDONYM for key in _IDENTIFIERS & attributes.keys()}
        for text, field_name in texts:
            with suppress(Unreadable):
                for tile in _tiled(self._own(text, field_name)):
                    value = text[tile.start : tile.end].strip()
                    if tile.whole or (tile.kind == "PERSON" and _NAMES.fullmatch(value)):
                        values[value] = tile.kind
        for value, kind in values.items():
            if len(value) >= _SHORTEST_KNOWN and value not in run.values:
                run.values[value], run.known = kind, None

    def _run(self, trace: str) -> _Run:
        run = self._runs.setdefault(trace, _Run("" if self._link_subjects else f"run {trace}"))
        self._runs.move_to_end(trace)
        return run

    def _redacted(self, record: SpanRecord) -> SpanRecord:
        run = self._run(record["trace_id"])
        run.known = run.known or _pattern(run.values)
        known, values, scope = run.known, run.values, run.scope
        folded = {value.casefold(): value for value in reversed(values)}  # of like ones, the first

        def change(text: str, field: str | None, look: bool) -> str:
            own = self._own(text, field) if look else []
            told = [Found(m.start(), m.end(), "") for m in known.finditer(text)]
            out, done = "", 0
            for place in _tiled([*own, *told]):
                found = text[place.start : place.end]
                value = found if found in values else folded.get(" ".join(found.split()).casefold(), found)
                new = self._surrogates.of(scope, values.get(value, place.kind or "PERSON"), value)
                if found != value:  # written in another case
                    new = new.upper() if found.isupper() else new.lower() if found.islower() else new
                out += text[done : place.start] + new
                done = place.end
            return out + text[done:]

        redacted = _Walk(change, self._unredacted).span(record)
        for key in _IDENTIFIERS & redacted["attributes"].keys():
            redacted["attributes"][key] = self._surrogates.of(scope, PSEUDONYM, str(record["attributes"][key]))
        return redacted


class _Walk:
    """Goes through a span's content, and gives it back with every text as a function changes it."""

    def __init__(self, change: Callable[[str, str | None, bool], str], unredacted: Mapping[str, Sequence[str]]) -> None:
        """Take the function.

        Args:
            change: given a text, the name of the field that it is the value of, and whether values are to be looked for in it;
                else only what is known elsewhere is replaced.
            unredacted: parameters that stay, by slot id.
        """
        self._change = change
        self._unredacted = unredacted

    def span(self, record: SpanRecord) -> SpanRecord:
        """Go through a span; origin is left out of what comes back."""
        ours = named_by_code(record)
        kept = self._unredacted.get(str(record["attributes"].get(Names.SLOT)), ())
        one_of = record["attributes"].get(Names.ONE_OF)
        structure = without_content(record)
        attributes = dict(structure["attributes"])
        for key, value in record["attributes"].items():
            if key in _IDENTIFIERS:
                attributes[key] = value
            elif ours and key in (Names.INPUT, Names.OUTPUT):  # JSON, also where it is a number or a word
                fields = json.loads(value)
                if key == Names.INPUT and (kept or one_of):
                    attributes[key] = _compact(
                        {
                            k: v if k in kept else self._options(v, k) if k == one_of else self._value(v, k)
                            for k, v in fields.items()
                        }
                    )
                else:
                    attributes[key] = _compact(self._value(fields, None))
            elif key in _CODE_NAMES and not ours and isinstance(value, str) and _CODE_NAME.fullmatch(value):
                attributes[key] = value
            elif not is_structure(record, key) and not _ORIGIN.match(key):
                attributes[key if ours else self._key(key, attributes)] = self._value(value, key)
        return {
            **structure,
            "name": record["name"]
            if ours or _named_by_its_code(attributes, record)
            else self._value(record["name"], None),
            "message": self._value(record["message"], None),
            "attributes": attributes,
            "events": [
                {**event, "name": self._value(event["name"], None), "attributes": self._fields(event["attributes"])}
                for event in record["events"]
            ],
            "links": [{**link, "attributes": self._fields(link["attributes"])} for link in record["links"]],
        }

    def _fields(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for key, value in entries.items():
            if not _ORIGIN.match(key):
                changed[self._key(key, changed)] = self._value(value, key)
        return changed

    def _value(self, value: Any, field: str | None) -> Any:
        match value:
            case str() if (inner := _json_in(value)) is not None:
                changed = self._value(inner, field)
                return value if changed == inner else _compact(changed)
            case str():
                if field in _FORM_FIELDS and _FORM.fullmatch(value):
                    return value
                return self._change(value, field, True) if value.strip() else value
            case bool() | None:
                return value
            case int() | float():
                return self._number(value, field)
            case dict():
                changed: dict[str, Any] = {}
                for key, inner in cast(dict[str, Any], value).items():
                    changed[self._key(key, changed)] = self._value(inner, key)
                return changed
            case list():
                return [self._value(inner, field) for inner in cast(list[Any], value)]
            case _:
                raise Unreadable  # bytes, say: nothing here can look into them

    def _options(self, value: Any, field: str) -> Any:
        """What `OneOf` names: where options have descriptions they are keys, and read like the items of a list all the same."""
        if not isinstance(value, dict):
            return self._value(value, field)
        changed: dict[str, Any] = {}
        for option, said in cast(dict[str, Any], value).items():
            changed[_apart(self._value(option, field), changed)] = self._value(said, option)
        return changed

    def _number(self, value: float, field: str | None) -> Any:
        text = str(value)
        changed = self._change(text, field, sum(map(str.isdigit, text)) >= _DIGITS_TO_LOOK_AT)
        if changed == text:
            return value
        try:
            return type(value)(changed)
        except ValueError:
            return changed

    def _key(self, key: str, taken: Mapping[str, Any]) -> str:
        return _apart(self._change(key, None, not _SCHEMA_KEY.fullmatch(key)), taken)


def _apart(key: str, taken: Mapping[str, Any]) -> str:
    """A changed key as one by which no other entry is lost."""
    new, number = key, 1
    while new in taken:
        number += 1
        new = f"{key} {number}"
    return new


def _named_by_its_code(attributes: Mapping[str, Any], record: SpanRecord) -> bool:
    """Whether a span's name is made of the operation and the names in code that stay beside it, `chat gpt-5.2` say."""
    names = {
        str(attributes[key]) for key in _CODE_NAMES & attributes.keys() if attributes[key] == record["attributes"][key]
    }
    operation, _, rest = record["name"].partition(" ")
    return record["name"] in names or (operation in names and rest in names)


class _Tile(NamedTuple):
    start: int
    end: int
    kind: str
    whole: bool
    """It is all that was found, not what another value left of it."""


def _tiled(found: Iterable[Found]) -> list[_Tile]:
    """Cover what was found by places that do not overlap.

    What a rule found is whole before what a model found, and the longer before the shorter: it is surer where it begins
    and ends. What is left of others is a place of its own: every character that was found is in one.
    """
    tiles: list[_Tile] = []
    for start, end, kind in sorted(found, key=lambda f: (f.kind in _BY_MODEL, f.start - f.end)):
        free, place = list[tuple[int, int]](), start
        for tile in sorted(tiles):
            if tile.end > place and tile.start < end:
                if tile.start > place:
                    free.append((place, tile.start))
                place = tile.end
        if place < end:
            free.append((place, end))
        tiles += [_Tile(a, b, kind, (a, b) == (start, end)) for a, b in free]
    return sorted(tiles)


def _pattern(values: Mapping[str, str]) -> re.Pattern[str]:
    """Match every known value, the longer ones first."""
    alternatives: dict[str, str] = {}
    for value, kind in values.items():
        if not re.fullmatch(r"[^\W\d_]+", value):  # several words, or digits and signs in it: in any case of letters
            spaced = r"\s+".join(re.escape(word) for word in value.split())
            alternatives[value] = f"(?i:{_guarded(value, spaced)})"
        else:  # one word may be an ordinary word in small letters
            alternatives[value] = _guarded(value, "|".join(re.escape(form) for form in {value, value.upper()}))
        if kind == "PERSON":
            for part in re.findall(r"[^\W\d_]{3,}", value):
                if part[0].isupper():
                    forms = "|".join({part, part.upper(), part.capitalize()})
                    alternatives.setdefault(part, _guarded(part, forms))
    longest_first = sorted(alternatives, key=len, reverse=True)
    return re.compile("|".join(alternatives[value] for value in longest_first) or r"(?!)")


def _guarded(value: str, form: str) -> str:
    """A word does not match inside of another word, nor a number inside of another number; JSON may have escaped a line's end before it."""
    guards = {True: (r"(?:(?<![^\W\d_])|(?<=\\[nrt]))", r"(?![^\W\d_])"), False: (r"(?<!\d)", r"(?!\d)")}
    before, after = (guards[c.isalpha()] if c.isalnum() else ("", "") for c in (value[0], value[-1]))
    return f"{before[0]}(?:{form}){after[1]}"


def _in_context(text: str, field: str | None) -> tuple[str, str]:
    """A short value together with its field's name, as detection reads it; and what stands before the value."""
    prefix = f"{field.replace('_', ' ')}: " if field and len(text) <= _SHORT else ""
    return prefix + text, prefix


def _readable(text: str) -> str:
    """A text of as many characters, without half of a surrogate pair, which libraries refuse."""
    return text.encode("utf-8", "replace").decode()


def _digest(text: str) -> bytes:
    """What a text is remembered by."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _json_in(text: str) -> Any:
    """What a text holds as JSON: a list, an object or a text; else None."""
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return None
    try:
        value: Any = json.loads(text, object_pairs_hook=_entries)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list | dict | str) else None  # pyright: ignore[reportUnknownVariableType]


def _entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError  # one of two like keys would be lost: such JSON is read as text
    return entries


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
