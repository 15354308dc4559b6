"""One call of a slot: each model of its chain in order, until one gives an answer that holds.

The next model sees no trace of a failed attempt, unless it is to mend an answer that was refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from opentelemetry.trace import Status, StatusCode, get_current_span
from pydantic_ai.exceptions import ModelAPIError, ModelRetry, UnexpectedModelBehavior
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.usage import RequestUsage

from ..bindings import Certificate
from ..contract import Contract
from ..engines import Endpoint
from ..errors import AnswerError, BudgetError, EngineError, HeteroError, IntegrityError, ReplayMissError
from .attempts import Attempt, BadAnswer, Check, CheckBroke, attempt, hold, vote
from .cache import Kept
from .confidence import calibrated
from .ledger import Terms
from .router import Embed, Past, past
from .state import State


class Unsure(Exception):
    """A specialist's answer that its error budget does not let it give alone."""


@dataclass(frozen=True)
class Link:
    """One model of a chain."""

    label: str
    """Name in `[models]`, or the specialist's id."""
    open: Callable[[], Awaitable[Endpoint]]
    """Gives the endpoint; starts its engine if need be."""
    specialist: str | None = None
    trainable: bool = False
    timeout: float | None = None
    certificate: Certificate | None = None
    """Which of a specialist's answers it may give alone; all of them where None."""
    terms: Terms | None = None
    """What it costs, for a run's budget."""
    embed: Embed | None = None
    """What the certificate's router looks with, where it has one."""

    async def past(self, contract: Contract, arguments: Mapping[str, Any]) -> Past | None:
        """Return why the specialist is not asked at all for a call; None where it is."""
        router = self.certificate.router if self.certificate else None
        if router is None:
            return None
        if self.embed is None:
            return Past("its router has nothing to look with", looked=False)
        try:
            async with asyncio.timeout(self.timeout):
                return await past(router, self.embed, contract, arguments)
        except (HeteroError, OSError) as error:
            return Past(f"its router cannot look at the input: {_reason(error, self)}", looked=False)


@dataclass(frozen=True)
class Route:
    """How a call went through its chain."""

    decision: Literal["kept", "escalated", "cached"]
    """`kept`: the first model answered; `cached`: nobody was asked."""
    reason: str | None
    """Why earlier models did not."""
    binding: str
    """Name in `[models]`, or the specialist's id, of the model that answered."""
    specialist: str | None
    """The specialist's id, where one answered."""
    cache: str | None = None
    """What the cache by meaning stands behind, where it answered: a specialist's id, or the slot's."""


@dataclass(frozen=True)
class Answer:
    """An attempt and its route."""

    attempt: Attempt
    route: Route
    trainable: bool
    """The answering model's terms allow training on its outputs."""


async def ask(
    chain: Sequence[Link],
    contract: Contract,
    arguments: Mapping[str, Any],
    *,
    checks: Sequence[Check],
    state: State,
    instrument: InstrumentationSettings | None,
    refused: str | None = None,
    repair: bool = False,
    recalled: Callable[[Sequence[str]], Awaitable[Answer | None]] | None = None,
) -> Answer:
    """Return the first answer of the chain that holds.

    Args:
        chain: the models, best first.
        contract: the slot's contract.
        arguments: bound arguments of the call.
        checks: the slot's verifiers.
        state: the circuit breaker.
        instrument: pydantic-ai's instrumentation; None makes no spans.
        refused: why a specialist that should have been first is not in the chain.
        repair: a model is shown the latest answer that contract or checks refused, to mend it; a specialist, which has learnt to answer
            and not to mend, never. An answer that was only unsure is not shown: nothing says what is wrong with it, and who sees it
            tends to repeat it.
        recalled: is asked for an answer that is there already before any model that is no specialist is; it gets the specialists that
            have passed the call on, not those that rest or whose engine failed.

    Raises:
        AnswerError: no model gave an answer that holds.
        BudgetError: the run may not spend what the next model might cost.
        ReplayMissError: the last model is an answer key that does not know this call.
    """
    failures = [refused] if refused else []
    last: Exception | None = None
    mend: BadAnswer | None = None
    passed: list[str] = []
    for link in chain:
        if recalled and not link.specialist:
            if (known := await recalled(passed)) is not None:
                reasons = [*failures, *([known.route.reason] if known.route.reason else [])]
                return replace(known, route=replace(known.route, reason="; ".join(reasons) or None))
            recalled = None
        if link.specialist and (why := state.rests(link.specialist)):
            failures.append(f"{link.label}: {why}")
            continue
        if link.specialist and (past := await link.past(contract, arguments)):
            failures.append(f"{link.label}: {past.why}")
            if past.looked:
                passed.append(link.specialist)
            continue
        try:
            # An engine's start counts too: a slot that promises an answer in a second does not wait for weights.
            async with asyncio.timeout(link.timeout):
                endpoint = await link.open()
                if link.certificate:
                    made, unsure = await alone(
                        endpoint, contract, arguments, checks, instrument, link.certificate, link.terms
                    )
                    if unsure:
                        raise Unsure(unsure)
                else:
                    made = await attempt(
                        endpoint,
                        contract,
                        arguments,
                        checks=checks,
                        instrument=instrument,
                        terms=link.terms,
                        mend=None if link.specialist else mend,
                    )
        except CheckBroke as broke:
            raise broke.error from None
        except BudgetError:  # the next model is no cheaper, and the run has said what it may cost
            raise
        except (BadAnswer, Unsure) as error:
            failures.append(f"{link.label}: {error}")
            last = error
            if repair and isinstance(error, BadAnswer):
                mend = error
            if link.specialist:
                state.worked(link.specialist)  # the engine did
                passed.append(link.specialist)
        except (ModelAPIError, UnexpectedModelBehavior, HeteroError, OSError) as error:
            # What is wrong with a specialist, a full disk among it, never stops a call; what the user wrote wrong is said.
            if (
                isinstance(error, HeteroError)
                and not link.specialist
                and not isinstance(error, EngineError | IntegrityError)
            ):
                raise
            failures.append(f"{link.label}: {_reason(error, link)}")
            last = error
            if link.specialist:
                state.failed(link.specialist)
        else:
            if link.specialist:
                state.worked(link.specialist)
            decision = "escalated" if failures else "kept"
            route = Route(decision, "; ".join(failures) or None, link.label, link.specialist)
            return Answer(made, route, link.trainable)
    get_current_span().set_status(Status(StatusCode.ERROR, "no model gave a usable answer"))
    if isinstance(last, ReplayMissError):
        raise last
    raise AnswerError(f"No model answered slot {contract.slot!r} ({'; '.join(failures)}).") from last


async def alone(
    endpoint: Endpoint,
    contract: Contract,
    arguments: Mapping[str, Any],
    checks: Sequence[Check],
    instrument: InstrumentationSettings | None,
    certificate: Certificate,
    terms: Terms | None = None,
) -> tuple[Attempt, str | None]:
    """Return a specialist's answer, got just as those that were certified, and why it may not be given alone; None where it may.

    Raises:
        BadAnswer: it does not meet the contract or a check; it is not mended.
    """
    made = await vote(
        endpoint,
        contract,
        arguments,
        samples=certificate.samples,
        by_field=certificate.by_field,
        checks=checks if certificate.verified else (),
        instrument=instrument,
        retries=0,
        terms=terms,
    )
    sure = calibrated(certificate.calibrator, made.signals)
    made = replace(made, confidence=sure)
    if sure is None:
        return made, "its engine does not say how sure it is"
    threshold = certificate.threshold_of(contract.dump(arguments) if certificate.by else {})
    if threshold is None or not sure >= threshold:
        return made, f"sure by {sure:.3f}, which is not the {threshold or 1:.3f} that its error budget asks"
    try:
        await hold(checks, made.output, arguments)
    except ModelRetry as error:
        raise BadAnswer(str(error), contract.answer_text(contract.dump_output(made.output), arguments)) from error
    return made, None


async def recall(
    kept: Kept, contract: Contract, arguments: Mapping[str, Any], *, checks: Sequence[Check]
) -> Answer | None:
    """Return an answer that was kept, or None where contract or checks refuse it now."""
    started = time.perf_counter()
    try:
        output = contract.validate(kept.output, arguments)
        await hold(checks, output, arguments)
    except (ValueError, ModelRetry):
        return None
    except CheckBroke as broke:
        raise broke.error from None
    made = Attempt(output, kept.model, RequestUsage(), kept.confidence, time.perf_counter() - started)
    return Answer(made, Route("cached", None, kept.binding, kept.specialist), kept.trainable)


def _reason(error: Exception, link: Link) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {link.timeout:g} s" if link.timeout else "no answer in time"
    return str(error)
