# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Whether a slot's inputs have become others since its specialist was trained: a two-sample test that may be looked at at any time.

Compared are calls of the vault before the training and since, whoever answered them: all calls are logged, so neither side has
more of those that a specialist passes on, as data sets have once one is active. One call of a run counts, since those of one run are not independent.

A gambler is shown pairs of embeddings, one of a call before and one of a call since, and bets on which is which by what kernel means of
earlier calls say (sequential two-sample testing by betting, Shekhar and Ramdas 2023; the kernel witness of Gretton et al. 2012). While nothing has changed
both orders of a pair are equally likely, so that wealth ever reaches 1 / alpha with probability at most alpha. Every `BLOCK` runs another gambler
begins, since one who has lost on a long good time would notice late; gambler k must reach (k + 1)(k + 2) / alpha, which adds up to alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ..bindings import Specialist
from ..distill.rehearse import look_at
from ..distill.specialise import Progress
from ..routing import ALPHA
from ..slots import App, Slot
from ..spans import Names, SlotCall, calls_of, read_traces

FEWEST: Final = 50
"""Runs before, and since, from which inputs are compared."""

MOST: Final = 800
"""Runs before that are compared with, and latest runs that are looked at: embeddings take time."""

BLOCK: Final = 200
"""Runs after which another gambler begins."""

LIFE: Final = 400
"""Pairs that one gambler is shown at most; at most half of the calls before are in pairs, the others tell what it was like."""

_WIDTH: Final = 0.3
"""Of the kernel exp((cos - 1) / width)."""

_BETS: Final = (1.0, 4.0, 16.0, 64.0)
"""How much of a difference is bet on, in a mixture."""


@dataclass(frozen=True)
class Inputs:
    """What the evidence says of a slot's inputs."""

    before: int
    """Runs before the training that are compared with."""
    since: int
    """Runs since."""
    evidence: float
    """E-value against "they are as they were"; 1 / 0.05 or more says that they are not."""

    @property
    def changed(self) -> bool:
        """Whether they have become others."""
        return self.evidence >= 1 / ALPHA

    @property
    def told(self) -> str:
        """What the evidence says, in words."""
        said = "they have become others since the training" if self.changed else "no sign that they have changed"
        return f"{said} ({self.since} runs since, {self.before} before; e-value {self.evidence:.3g} of {1 / ALPHA:g})"


async def inputs_of(
    app: App, slot: Slot[..., Any], entry: Specialist, progress: Progress | None = None
) -> Inputs | str:
    """Return whether a slot's inputs are those that there were when a specialist of it was trained, or why that is not known.

    Args:
        app: the workspace.
        slot: the slot.
        entry: the specialist.
        progress: called as inputs are embedded, which takes minutes where they are long.

    Raises:
        KeyAccessError: the reader's key opens no content.
        EngineError, MissingExtraError: no embeddings can be had.
    """
    trained = datetime.fromisoformat(entry.created).timestamp() * 1e9
    persons = "subject" in app.workspace.slot_config(slot.id).keep_together
    before: dict[str, SlotCall] = {}
    since: dict[str, SlotCall] = {}
    for call in sorted(calls_of(app.vault, slot.id), key=lambda call: call.start):
        if call.contract == slot.contract.sha256:
            side = before if call.start < trained else since
            side.setdefault(call.person if persons and call.person else call.trace_id, call)
    if min(len(before), len(since)) < FEWEST:
        return f"{len(before)} runs before the training and {len(since)} since are in the vault, and it takes {FEWEST} of each"
    first = first_of(len(since))
    old, new = list(before.values())[-MOST:], list(since.values())[first * BLOCK :]
    seen = await look_at(app, slot, [call.input for call in (*old, *new)], progress)
    return Inputs(len(before), len(since), evidence(seen[: len(old)], seen[len(old) :], first))


def new_before(app: App, slot: Slot[..., Any], since: str) -> list[str]:
    """Return the specialists that have answered other slots before this one in its runs since a moment, and in none until then.

    What this slot reads may be their answers, so what was shown of it on answers of others must be shown anew.

    Args:
        app: the workspace.
        slot: the slot.
        since: the moment, in ISO 8601.
    """
    moment = datetime.fromisoformat(since).timestamp() * 1e9
    until: set[str] = set()
    after: set[str] = set()
    for trace in read_traces(app.vault, slot=slot.id):
        calls = [span for span in trace.spans if Names.CONTRACT in span["attributes"]]
        last = max((call["start"] for call in calls if call["attributes"][Names.SLOT] == slot.id), default=0)
        for call in calls:
            by = call["attributes"]
            if by[Names.SLOT] != slot.id and Names.SPECIALIST in by and call["start"] < last:
                (after if last >= moment else until).add(by[Names.SPECIALIST])
    return sorted(after - until)


def first_of(since: int) -> int:
    """Return the first gambler all of whose runs are among the latest `MOST`."""
    return max(0, -(-(since - MOST) // BLOCK))


def evidence(before: Sequence[Sequence[float]], since: Sequence[Sequence[float]], first: int = 0) -> float:
    """Return the e-value against "both are draws of one distribution", however often it is asked for as `since` grows.

    Args:
        before: unit vectors.
        since: unit vectors in the order of their calls, from the first of gambler `first` on.
        first: the number of the first gambler; earlier ones are not looked at any more, which costs power alone.
    """
    import numpy as np

    old, new = np.array(before), np.array(since)
    life, most = min(LIFE, len(old) // 2), 0.0
    for number in range(first, first + -(-len(new) // BLOCK)):
        mine = old[np.random.default_rng(number).permutation(len(old))]
        start = (number - first) * BLOCK
        wealth = _wealth(mine[:life], mine[life:], new[start : start + life])
        most = max(most, wealth / ((number + 1) * (number + 2)))
    return most


def _wealth(old: Any, apart: Any, new: Any) -> float:
    """The most that a gambler ever has who is shown the pairs (old, new) in turn, and knows those apart from the beginning."""
    import numpy as np

    n = len(new)
    turn = np.arange(n)

    def alike(a: Any, b: Any) -> Any:
        return np.exp((a @ b.T - 1) / _WIDTH)

    def earlier(each: Any, others: Any) -> Any:
        """How much each is like those of the pairs before its own, in all."""
        return np.where(turn > 0, np.cumsum(alike(each, others), axis=1)[turn, turn - 1], 0.0)

    def witness(each: Any) -> Any:
        """How much more each is like the new ones before it than like the old ones: fixed before its pair is seen."""
        to_old = (earlier(each, old[:n]) + alike(each, apart).sum(axis=1)) / (turn + len(apart))
        return np.where(turn > 0, earlier(each, new) / np.maximum(turn, 1) - to_old, 0.0)

    lead = witness(new) - witness(old[:n])
    paths = [np.cumsum(np.log(2) - np.logaddexp(0, -bet * lead)) for bet in _BETS]
    wealth = np.logaddexp.reduce(paths, axis=0) - np.log(len(_BETS))
    return float(np.exp(min(float(wealth.max()), 700.0)))
