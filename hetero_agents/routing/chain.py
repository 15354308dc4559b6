"""One call of a slot: each model of its chain in order, until one gives an answer that holds.

The next model sees no trace of a failed attempt.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from opentelemetry.trace import Status, StatusCode, get_current_span
from pydantic_ai.direct import model_request
from pydantic_ai.exceptions import ModelAPIError, ModelRetry, UnexpectedModelBehavior
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, RetryPromptPart, UserPromptPart
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from ..contract import Contract, sha256_of
from ..engines import INPUT_KEY, Endpoint
from ..errors import AnswerError, EngineError, HeteroError, IntegrityError, ReplayMissError
from .cache import Kept
from .state import State

RETRIES = 1
"""How often one model may mend an answer that a check or the contract refused."""

Check = Callable[[Any, Mapping[str, Any]], Awaitable[None]]
"""Gets the output and the arguments; raises ModelRetry with what is wrong."""


class BadAnswer(Exception):
    """A model's answer does not meet the contract or a check, after its retry."""


class _CheckBroke(Exception):
    """A check raised something else than ModelRetry: its own trouble, not the model's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


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


@dataclass(frozen=True)
class Attempt:
    """A model's answer that met contract and checks."""

    output: Any
    model: str
    usage: RequestUsage
    confidence: float | None
    seconds: float


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

    Raises:
        AnswerError: no model gave an answer that holds.
        ReplayMissError: the last model is an answer key that does not know this call.
    """
    failures = [refused] if refused else []
    last: Exception | None = None
    for link in chain:
        if link.specialist and state.rests(link.specialist):
            failures.append(f"{link.label} rests after repeated engine failures")
            continue
        try:
            # An engine's start counts too: a slot that promises an answer in a second does not wait for weights.
            async with asyncio.timeout(link.timeout):
                endpoint = await link.open()
                made = await attempt(endpoint, contract, arguments, checks=checks, instrument=instrument)
        except _CheckBroke as broke:
            raise broke.error from None
        except BadAnswer as error:
            failures.append(f"{link.label}: {error}")
            last = error
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


async def recall(
    kept: Kept, contract: Contract, arguments: Mapping[str, Any], *, checks: Sequence[Check]
) -> Answer | None:
    """Return an answer that was kept, or None where contract or checks refuse it now."""
    started = time.perf_counter()
    try:
        output = contract.validate(kept.output, arguments)
        await _hold(checks, output, arguments)
    except (ValueError, ModelRetry):
        return None
    except _CheckBroke as broke:
        raise broke.error from None
    made = Attempt(output, kept.model, RequestUsage(), kept.confidence, time.perf_counter() - started)
    return Answer(made, Route("cached", None, kept.binding, kept.specialist), kept.trainable)


async def attempt(
    endpoint: Endpoint,
    contract: Contract,
    arguments: Mapping[str, Any],
    *,
    checks: Sequence[Check] = (),
    instrument: InstrumentationSettings | None = None,
    examples: Sequence[ModelMessage] = (),
    retries: int = RETRIES,
) -> Attempt:
    """Ask one model, and let it mend an answer that does not hold.

    Args:
        endpoint: the model.
        contract: the slot's contract.
        arguments: bound arguments of the call.
        checks: the slot's verifiers.
        instrument: pydantic-ai's instrumentation; None makes no spans.
        examples: turns before the call, for few-shot baselines; a baked specialist sees none.
        retries: how often an answer may be mended; a baked specialist's never.

    Raises:
        BadAnswer: no answer holds.
        ModelAPIError: the engine failed.
    """
    messages: list[ModelMessage]
    if endpoint.baked:
        # One text is all it was trained on: it can be shown no examples and told of no mistake.
        messages, retries = [ModelRequest(parts=[UserPromptPart(content=contract.baked_text(arguments))])], 0
    else:
        messages = [*examples, *contract.messages(arguments)]
    mode = endpoint.model.profile.get("default_structured_output_mode", "tool")
    parameters = contract.request_parameters(arguments, mode=mode, bare_json=endpoint.bare_json)
    settings = endpoint.settings
    if endpoint.keyed:
        settings = ModelSettings(extra_body={INPUT_KEY: sha256_of(contract.dump(arguments))})
    usage = RequestUsage()
    started = time.perf_counter()
    for left in range(retries, -1, -1):
        response = await model_request(
            endpoint.model,
            messages,
            model_settings=settings,
            model_request_parameters=parameters,
            instrument=instrument if instrument is not None else False,
        )
        usage = usage + response.usage
        try:
            output = contract.parse(response, arguments, bare_json=endpoint.bare_json)
            await _hold(checks, output, arguments)
        except (ValueError, ModelRetry) as error:
            message = str(error)
            if not left:
                raise BadAnswer(message) from error
            # Where the answer was a tool call, providers want its result: the refusal.
            retries_of = [
                RetryPromptPart(content=message, tool_name=call.tool_name, tool_call_id=call.tool_call_id)
                for call in response.tool_calls
            ]
            repair = ModelRequest(
                parts=retries_of or [RetryPromptPart(content=message)], instructions=contract.instructions or None
            )
            messages = [*messages, response, repair]
        else:
            seconds = time.perf_counter() - started
            return Attempt(
                output, response.model_name or endpoint.model.model_name, usage, confidence_of(response), seconds
            )
    raise AssertionError("unreachable")


async def _hold(checks: Sequence[Check], output: Any, arguments: Mapping[str, Any]) -> None:
    for check in checks:
        try:
            await check(output, arguments)
        except ModelRetry:
            raise
        except Exception as error:
            raise _CheckBroke(error) from error


def confidence_of(response: ModelResponse) -> float | None:
    """Return the product of the answer's token probabilities, 0 to 1; None where the engine gives none.

    The probabilities are those from before the grammar, and nothing is calibrated: compare answers
    of one model with each other, no more.
    """
    tokens = (response.provider_details or {}).get("logprobs")
    if not tokens:
        return None
    return math.exp(sum(min(0.0, token["logprob"]) for token in tokens))


def _reason(error: Exception, link: Link) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {link.timeout:g} s" if link.timeout else "no answer in time"
    return str(error)
