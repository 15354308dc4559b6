"""What a vault is: where spans and feedback go, and come from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .record import SpanRecord


@dataclass(frozen=True)
class Feedback:
    """What somebody said of a run, or of one span of it, afterwards."""

    trace_id: str
    span_id: str | None
    score: float | None
    """0 to 1; below 0.5 the run counts as failed."""
    answer: Any
    """The right answer, as JSON; only with `has_answer`."""
    has_answer: bool
    time: int
    """Nanoseconds since the epoch."""
    person: str | None = None
    """Whose data the answer is, as the run's spans say it."""
    model: str | None = None
    """Name in `[models]` of the model that gave the answer, whose terms allow training on it; None where a person did."""


class Vault(Protocol):
    """Where spans go and come from."""

    def write(self, records: Sequence[SpanRecord]) -> None:
        """Store spans, durably when this returns."""
        ...

    def read(self, *, slot: str | None = None, traces: Collection[str] | None = None) -> Iterator[SpanRecord]:
        """Give spans trace by trace, each in the order of their start: all, those of traces that called a slot, or of some traces."""
        ...

    def traces(self, limit: int) -> list[str]:
        """Return the ids of the latest traces, newest first."""
        ...

    def say(self, feedback: Feedback) -> None:
        """Store feedback."""
        ...

    def feedback(self, traces: Collection[str] | None = None) -> list[Feedback]:
        """Return all feedback, or that on some traces, oldest first."""
        ...

    def close(self) -> None:
        """Let go of what this thread holds open."""
        ...
