"""What is asked beside a call, when nobody waits: a specialist on its way, or the model below one that answered alone.

Specialists are compared with the model whose answers they were certified against, never with each other: who
learnt from the same data errs alike. What is asked beside is a span below the call's own, and is never returned.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import Span, SpanKind

from ..bindings import Binding, SlotConfig, Specialist, SpecialistId
from ..bindings.lock import slice_of
from ..contract import compact_json, sha256_of
from ..routing import (
    Answer,
    Attempt,
    BadAnswer,
    Check,
    Link,
    Promise,
    Seen,
    Watched,
    agrees,
    alone,
    attempt,
    price_of,
)
from ..spans import Names
from .recalled import evidence_of

if TYPE_CHECKING:
    from .app import App
    from .slot import Slot

_log = logging.getLogger("hetero_agents")

SHADOWED = 0.1
"""Share of the calls that a shadow sees where another specialist fills the slot: each costs a call of the model below."""

LONGEST = 60.0
"""Seconds for one model beside a call."""

chance = random.SystemRandom().random
"""Not the program's own stream of random numbers, which a call must not move, nor its seed repeat."""


def compare_later(app: App, slot: Slot[..., Any], binding: Binding, question: str, answer: Answer) -> None:
    """Ask beside a call what its stage and its share of audits ask for; what goes wrong here is logged, and no concern of the call.

    Args:
        app: the workspace.
        slot: the slot.
        binding: what fills it.
        question: the arguments as JSON text, without what is `NotSent`.
        answer: what was answered.
    """
    try:
        beside = _Beside(app, slot, binding, question, answer)
        for work in beside.asked_for():
            app.aside.add(work)
    except Exception as error:
        _log.warning("Slot %s is not compared: %s", slot.id, error)


@dataclass(frozen=True)
class _Beside:
    app: App
    slot: Slot[..., Any]
    binding: Binding
    question: str
    answer: Answer

    def asked_for(self) -> Sequence[Callable[[], Any]]:
        """What is to be asked; drawn before anything is made, since most calls have nothing."""
        binding, route = self.binding, self.answer.route
        name = evidence_of(route.cache) if route.cache else route.specialist
        # The very same question was compared when it was asked first.
        if (route.decision == "cached" and not route.cache) or not comparable(self.slot, binding.entry):
            return []
        shadowed = binding.stage == "shadow" and (binding.specialist_id is None or chance() < SHADOWED)
        stage: Watched = "canary" if name == binding.coming else "active"
        share = 1.0 if stage == "canary" else binding.entry.audit if binding.entry.error_budget is not None else 0.0
        audited = name is not None and share > 0 and chance() < share
        if not shadowed and not audited:
            return []
        found: list[Callable[[], Any]] = []
        output = self.slot.contract.dump_output(self.answer.attempt.output)  # as it was: callers change what they get
        if shadowed and binding.coming and self._new(binding.coming, "shadow"):
            found.append(lambda: self._shadow(output))
        if audited and name is not None and self._new(name, stage):
            found.append(lambda: self._audit(name, stage, output))
        return found

    def _new(self, specialist: str, stage: Watched) -> bool:
        """One question asked again and again is one observation."""
        entry = self.binding.coming_entry if specialist == self.binding.coming else self.binding.specialist
        shown = entry.certificate.created if entry and entry.certificate else None
        return self.app.first_time(sha256_of([specialist, stage, shown, self.question]))

    async def _shadow(self, output: Any) -> None:
        """A specialist on its way answers a call that has its answer."""
        binding = self.binding
        assert binding.coming and binding.coming_entry
        if self.app.state.stopped(binding.coming):
            return
        mine, teacher = (
            self.app.link(binding.coming, binding.coming_entry, binding),
            self._teacher(binding.coming_entry),
        )
        made, unsure = await self._ask(mine)
        below = None
        if not self.answer.route.cache and self.answer.route.binding == teacher.label:
            below = self.answer.attempt
        if made is None or unsure is not None:
            cost = await self._cost(mine, made, teacher, below, kept=False)
            self._saw(binding.coming, "shadow", Seen(False, False, made.seconds if made else 0.0, cost, self._slice))
            return
        if below is None:
            below, _ = await self._ask(teacher)
            if below is None:
                return
            output = self._json(below)
        wrong = not await self._same(self._json(made), output)
        cost = await self._cost(mine, made, teacher, below)
        self._saw(binding.coming, "shadow", Seen(True, wrong, made.seconds, cost, self._slice))

    async def _audit(self, specialist: str, stage: Watched, output: Any) -> None:
        """The model below answers a call that a specialist has answered alone, or the cache by meaning."""
        made, cost = self.answer.attempt, None
        if self.answer.route.cache:
            below, _ = await self._ask(self._models[0])
        else:
            coming = specialist == self.binding.coming
            entry = self.binding.coming_entry if coming else self.binding.specialist
            assert entry is not None
            teacher = self._teacher(entry)
            below, _ = await self._ask(teacher)
            mine = self.app.link(SpecialistId(specialist), entry, self.binding)
            cost = await self._cost(mine, made, teacher, below)
        if below is not None:
            wrong = not await self._same(output, self._json(below))
            self._saw(specialist, stage, Seen(True, wrong, made.seconds, cost, self._slice))

    @property
    def _models(self) -> list[Link]:
        return [link for link in self.app.chain(self.binding) if link.specialist is None]

    def _teacher(self, entry: Specialist) -> Link:
        """The model that a specialist was taught by, or the chain's last where that is not in it."""
        models = self._models
        return next((link for link in models if link.label == entry.teacher.split(", ")[0]), models[-1])

    async def _cost(
        self, mine: Link, made: Attempt | None, teacher: Link, below: Attempt | None, *, kept: bool = True
    ) -> float | None:
        """What the call costs with the specialist, as a share of its teacher's answer; None where that is not known."""
        if self.binding.entry.cost is None or below is None or mine.terms is None or mine.terms.price is None:
            return None
        # Of what was refused, or never asked for, nobody knows more than that the teacher is paid in full.
        own = await _dollars(mine, made) if made else 0.0
        other = await _dollars(teacher, below)
        return None if own is None or not other else own / other + (0.0 if kept else 1.0)

    async def _ask(self, link: Link) -> tuple[Attempt | None, str | None]:
        """Ask one link as a call would; None where its answer does not hold, and why it may not be given alone."""
        contract, settings = self.slot.contract, self.app.tracing.settings
        arguments = contract.load(json.loads(self.question))
        checks: Sequence[Check] = self.slot.checks_apart
        with self._span(link) as span:
            try:
                async with asyncio.timeout(min(link.timeout or LONGEST, LONGEST)):
                    if past := await link.past(contract, arguments):
                        return None, past.why
                    endpoint = await link.open()
                    if link.certificate:
                        made, unsure = await alone(endpoint, contract, arguments, checks, settings, link.certificate)
                    else:
                        made, unsure = (
                            await attempt(endpoint, contract, arguments, checks=checks, instrument=settings),
                            None,
                        )
            except BadAnswer as error:
                return None, str(error)
            told = {Names.OUTPUT: compact_json(self._json(made)), Names.CONFIDENCE: made.confidence}
            span.set_attributes({key: value for key, value in told.items() if value is not None})
            return made, unsure

    @property
    def _slice(self) -> str:
        return slice_of(json.loads(self.question), self.binding.entry.error_budget_by)

    def _json(self, made: Attempt) -> Any:
        return self.slot.contract.dump_output(made.output)

    def _saw(self, specialist: str, stage: Watched, seen: Seen) -> None:
        self.app.state.saw(specialist, stage, seen, Promise.of(self.binding.entry))

    def _span(self, link: Link) -> AbstractContextManager[Span]:
        told: dict[str, Any] = {Names.DECISION: "shadow", Names.BINDING: link.label, Names.TRAINABLE: link.trainable}
        if link.specialist:
            told[Names.SPECIALIST] = link.specialist
        name = f"beside {self.slot.id}"
        return self.app.tracing.tracer.start_as_current_span(name, attributes=told, kind=SpanKind.INTERNAL)

    async def _same(self, first: Any, second: Any) -> bool:
        """Whether two answers are the same: as the slot's own comparison says, else by value."""
        contract, entry = self.slot.contract, self.binding.entry
        arguments = contract.load(json.loads(self.question))
        if self.slot.comparison is not None:
            said = self.slot.comparison(contract.validate(first, arguments), contract.validate(second, arguments))
            return float(await said if inspect.isawaitable(said) else said) >= 1.0
        one, other = contract.canonical(first, arguments), contract.canonical(second, arguments)
        return agrees(one, other, tolerance=entry.tolerance, unordered=entry.compare == "unordered")


async def _dollars(link: Link, made: Attempt) -> float | None:
    return link.terms and price_of(link.terms, (await link.open()).model, made.usage, made.seconds)


def comparable(slot: Slot[..., Any], entry: SlotConfig) -> bool:
    """Return whether answers can be compared beside calls: a judge and F1 of fields are for `hetero distill`."""
    return slot.comparison is not None or entry.compare in ("exact", "unordered")
