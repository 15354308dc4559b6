"""One call and the cache by meaning: an earlier answer to what means the same, where that was certified."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..bindings import Binding, Certificate, SpecialistId
from ..bindings.workspace import cache_refused
from ..engines import EMBEDDER
from ..errors import HeteroError
from ..routing import Answer, Kept, Question, Route, calibrated, question_of, recall

if TYPE_CHECKING:
    from .app import App
    from .slot import Slot


def by_meaning(
    app: App, slot: Slot[..., Any], binding: Binding, arguments: Mapping[str, Any], person: str | None
) -> ByMeaning | None:
    """Return a call as the cache by meaning sees it; None where the slot has none, or nothing of the call can be compared.

    Args:
        app: the workspace.
        slot: the slot.
        binding: what fills it.
        arguments: of the call.
        person: whose call it is, where the slot is personal.
    """
    entry = binding.entry
    if entry.cache != "semantic" or (entry.personal and person is None):
        return None
    question = question_of(slot.contract, slot.contract.dump(arguments))
    return question and ByMeaning(app, slot, binding, arguments, question, person)


def evidence_of(behind: str) -> str:
    """Return under which name audits of a cache by meaning are kept, beside those of specialists.

    Args:
        behind: what the cache stands behind.
    """
    return f"{behind} cache"


@dataclass(frozen=True)
class CacheShown:
    """What was shown of a cache by meaning that a call of a slot may come to now."""

    after: SpecialistId | None
    """The specialist that it stands behind; None where nobody is asked before."""
    likeness: float | None
    """From which on an answer is given again; None where none is."""
    certificate: Certificate | None
    refused: str | None
    """Why it answers nothing now; None where it does."""


def caches_of(app: App, slot: Slot[..., Any]) -> list[CacheShown]:
    """Return what was shown of a slot's cache by meaning, behind each specialist that fills it and behind nobody; none where it has none.

    Raises:
        ConfigError: nothing fills the slot.
    """
    contract, checks = slot.contract.sha256, slot.checks_sha256
    binding = app.binding(slot.id, slot.tier, contract, checks)
    if binding.entry.cache != "semantic":
        return []
    found: list[CacheShown] = []
    for after in dict.fromkeys((binding.coming, binding.specialist_id, None)):
        shown = app.workspace.lock.caches.get(after or slot.id)
        refused = cache_refused(shown, binding, after, EMBEDDER, contract, checks)
        refused = refused or app.state.stopped(evidence_of(after or slot.id))
        found.append(CacheShown(after, shown and shown.likeness, shown and shown.certificate, refused))
    return found


@dataclass
class ByMeaning:
    """One call."""

    app: App
    slot: Slot[..., Any]
    binding: Binding
    arguments: Mapping[str, Any]
    question: Question
    person: str | None
    vectors: list[list[float]] = field(default_factory=list[list[float]])
    """Of the question's texts; none where the call was never looked up."""

    async def recall(self, passed: Sequence[str]) -> Answer | None:
        """Return an earlier answer that is certified for calls that these specialists pass on; None where there is none.

        What was shown holds for the calls of one specialist, or of none: two in a row pass on others.
        """
        slot, app = self.slot, self.app
        behind = passed[0] if passed else slot.id
        if len(passed) > 1 or app.state.stopped(evidence_of(behind)):
            return None
        shown = app.workspace.cache_certificate(
            self.binding,
            SpecialistId(passed[0]) if passed else None,
            EMBEDDER,
            slot.contract.sha256,
            slot.checks_sha256,
        )
        if shown is None or not await self._embedded():
            return None
        found = app.cache.find_near(self.vectors, *self._scope)
        if found is None:
            return None
        likeness, kept = found
        sure = calibrated(shown.calibrator, {"likeness": likeness})
        threshold = shown.threshold_of(slot.contract.dump(self.arguments) if shown.by else {})
        if sure is None or threshold is None or sure < threshold:
            return None
        answer = await recall(kept, slot.contract, self.arguments, checks=slot.checks)
        if answer is None:
            return None
        route = Route("cached", f"by meaning, likeness {likeness:.3f}", kept.binding, None, behind)
        return replace(answer, attempt=replace(answer.attempt, confidence=sure), route=route)

    def keep(self, answer: Answer) -> None:
        """Keep what the model for all other calls answered, and nobody else."""
        route, made = answer.route, answer.attempt
        of_model = route.specialist is None and route.binding == self.binding.models[0][0]
        if not self.vectors or not of_model or route.decision == "cached":
            return
        if self.slot.contract.comes_back(made.output, self.arguments):
            output = self.slot.contract.dump_output(made.output)
            kept = Kept(output, made.model, route.binding, None, answer.trainable, made.confidence)
            seconds = self.binding.entry.cache_seconds
            self.app.cache.keep_near(kept, seconds, self.vectors, self.question.texts, *self._scope)

    @property
    def _scope(self) -> tuple[Any, ...]:
        """What must be equal: all that an answer of the model depends on, but the texts."""
        model = self.binding.models[0][1].model_dump()
        slot = self.slot
        return slot.id, slot.contract.sha256, self.question.exact, model, slot.checks_sha256, self.person, EMBEDDER

    async def _embedded(self) -> bool:
        # A cache never stops a call: TimeoutError is an OSError, and the first embedding may have to be fetched.
        with contextlib.suppress(HeteroError, OSError):
            async with asyncio.timeout(self.binding.entry.timeout):
                self.vectors = await self.app.embed(self.question.texts)
        return bool(self.vectors)
