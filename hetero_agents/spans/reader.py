"""Spans read back: as trees for people, as slot calls for distill."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

from ..errors import KeyAccessError
from .names import Names
from .record import SpanRecord
from .subjects import person_of
from .vault import Feedback, Vault

Outcome = Literal["ok", "failed", "unknown"]


@dataclass(frozen=True)
class Trace:
    """One run: its spans in the order of their start, and what was said of it."""

    trace_id: str
    spans: list[SpanRecord]
    feedback: list[Feedback]

    @cached_property
    def roots(self) -> list[SpanRecord]:
        """The spans whose parent is not in the vault."""
        ids = {span["span_id"] for span in self.spans}
        return [span for span in self.spans if span["parent_id"] not in ids] or self.spans[
            :1
        ]  # others may write circles

    def children(self, span: SpanRecord) -> list[SpanRecord]:
        """The spans directly below one."""
        return [s for s in self.spans if s["parent_id"] == span["span_id"] and s not in self.roots]

    @property
    def outcome(self) -> Outcome:
        """How the run ended: the latest feedback, else what the run said itself, else an error, else unknown."""
        return self._outcome_of(self.roots)

    def outcome_of(self, span: SpanRecord) -> Outcome:
        """What was said of a span, else how its run ended: a trace holds several where the user's own span is around them."""
        scores = [f.score for f in self.feedback if f.span_id == span["span_id"] and f.score is not None]
        if scores:
            return "ok" if scores[-1] >= 0.5 else "failed"
        by_id = {other["span_id"]: other for other in self.spans}
        while (parent := by_id.pop(span["parent_id"] or "", None)) is not None:
            span = parent
        return self._outcome_of([span])

    def _outcome_of(self, roots: Sequence[SpanRecord]) -> Outcome:
        scores = [f.score for f in self.feedback if f.span_id is None and f.score is not None]
        if scores:
            return "ok" if scores[-1] >= 0.5 else "failed"
        stated = [span["attributes"].get(Names.OUTCOME) for span in roots]
        if "failed" in stated or any(span["status"] == "ERROR" for span in roots):
            return "failed"
        return "ok" if "ok" in stated else "unknown"


@dataclass(frozen=True)
class SlotCall:
    """One answered call of a slot, as distill sees it."""

    slot: str
    trace_id: str
    span_id: str
    contract: str
    input: dict[str, Any]
    """The arguments as JSON values."""
    output: Any
    """The answer as a JSON value: the correction where somebody gave one, else another model's label (`hetero relabel`), else the model's."""
    corrected: bool
    """A person gave the answer."""
    binding: str
    specialist: str | None
    trainable: bool
    """The answering model's terms allowed training on its outputs."""
    hci: bool
    outcome: Outcome
    """Feedback on the call itself, else how its run ended."""
    start: int
    person: str | None = None
    """Whose data it is, as the span says it."""
    cached: bool = False
    """Nobody was asked: an earlier answer was given again."""
    by_meaning: bool = False
    """It was the answer to another question, which means the same."""
    answered: bool = True
    """There is an answer; a call without one is given where it is asked for."""


def read_traces(vault: Vault, *, slot: str | None = None, traces: Collection[str] | None = None) -> Iterator[Trace]:
    """Give whole traces: all, those that called a slot, or some."""
    said: dict[str, list[Feedback]] = {}
    for feedback in vault.feedback(traces):
        said.setdefault(feedback.trace_id, []).append(feedback)
    for trace_id, spans in groupby(vault.read(slot=slot, traces=traces), key=lambda span: span["trace_id"]):
        yield Trace(trace_id, list(spans), said.get(trace_id, []))


def _is_audit(attributes: Mapping[str, Any]) -> bool:
    """Whether a span holds what the next model answered beside a specialist or the cache by meaning."""
    beside = attributes.get(Names.DECISION) == "shadow" and Names.SPECIALIST not in attributes
    return beside and Names.OUTPUT in attributes


def calls_of(vault: Vault, slot: str, *, unanswered: bool = False) -> Iterator[SlotCall]:
    """Give a slot's calls that have an answer, trace by trace; children of a killed run have outcome unknown.

    Args:
        vault: where the spans are.
        slot: its id.
        unanswered: calls without an answer are given too.
    """
    for trace in read_traces(vault, slot=slot):
        said = sorted(trace.feedback, key=lambda f: f.model is None)  # what a person said comes after what a model did
        answers = {f.span_id: f for f in said if f.has_answer and f.span_id}
        audits = {span["parent_id"]: span["attributes"] for span in trace.spans if _is_audit(span["attributes"])}
        for span in trace.spans:
            attributes = span["attributes"]
            if span.get("withheld"):
                raise KeyAccessError(
                    f"The calls of {slot!r} are content, which your key does not open; a curator's does."
                )
            if attributes.get(Names.SLOT) != slot or Names.INPUT not in attributes:
                continue
            answer = answers.get(span["span_id"])
            answered = answer is not None or Names.OUTPUT in attributes
            if not (answered or unanswered):
                continue
            label = answer.model if answer else None
            by = attributes
            if answer is None and attributes.keys() & {Names.SPECIALIST, Names.CACHE}:
                by = audits.get(span["span_id"], attributes)  # what the next model said of the same call
            yield SlotCall(
                slot=slot,
                trace_id=trace.trace_id,
                span_id=span["span_id"],
                contract=attributes[Names.CONTRACT],
                input=json.loads(attributes[Names.INPUT]),
                output=answer.answer if answer else json.loads(by[Names.OUTPUT]) if answered else None,
                corrected=answer is not None and label is None,
                binding=label or by.get(Names.BINDING, ""),
                specialist=None if label else by.get(Names.SPECIALIST),
                trainable=label is not None or by.get(Names.TRAINABLE, False),
                hci=attributes.get(Names.HCI, False),
                # How the run went says nothing of an answer that it never got.
                outcome=trace.outcome_of(span) if by is attributes and label is None else "unknown",
                start=span["start"],
                person=person_of(span),
                cached=label is None and by.get(Names.DECISION) == "cached",
                by_meaning=label is None and Names.CACHE in by,
                answered=answered,
            )
