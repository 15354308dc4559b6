"""One model asked: until an answer meets contract and checks, or several times for a vote."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pydantic_ai.direct import model_request
from pydantic_ai.exceptions import ModelRetry
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, RetryPromptPart, TextPart, UserPromptPart
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.settings import ModelSettings, merge_model_settings
from pydantic_ai.usage import RequestUsage

from ..contract import Contract, compact_json, sha256_of, written
from ..engines import INPUT_KEY, Endpoint
from ..errors import EngineError
from .confidence import Signals, product_of, signals_of
from .ledger import Terms, spending
from .router import choice_text

DRAWN = ModelSettings(temperature=0.7)
"""How further samples are drawn."""

RETRIES = 1
"""How often one model may mend an answer that a check or the contract refused."""

Check = Callable[[Any, Mapping[str, Any]], Awaitable[None]]
"""Gets the output and the arguments; raises ModelRetry with what is wrong."""


class BadAnswer(Exception):
    """A model's answer does not meet the contract or a check, after its retry."""

    def __init__(self, why: str, answer: str) -> None:
        super().__init__(why)
        self.answer = answer
        """What the model wrote last; empty where it wrote nothing."""


class CheckBroke(Exception):
    """A check raised something else than ModelRetry: its own trouble, not the model's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Attempt:
    """A model's answer that met contract and checks."""

    output: Any
    model: str
    usage: RequestUsage
    confidence: float | None
    """Calibrated where the model has a certificate, else the product of the token probabilities."""
    seconds: float
    signals: Signals | None = None
    drawn: Sequence[Attempt | None] = ()
    """What it was voted from, the likeliest answer first; None for one that did not hold."""


async def attempt(
    endpoint: Endpoint,
    contract: Contract,
    arguments: Mapping[str, Any],
    *,
    checks: Sequence[Check] = (),
    instrument: InstrumentationSettings | None = None,
    examples: Sequence[ModelMessage] = (),
    retries: int = RETRIES,
    terms: Terms | None = None,
    mend: BadAnswer | None = None,
) -> Attempt:
    """Ask one model, and let it mend an answer that does not hold.

    Args:
        endpoint: the model.
        contract: the slot's contract.
        arguments: bound arguments of the call.
        checks: the slot's verifiers.
        instrument: pydantic-ai's instrumentation; None makes no spans.
        examples: turns before the call, for few-shot baselines; a baked specialist and a matcher see none.
        retries: how often an answer may be mended; a baked specialist's and a matcher's never.
        terms: what the model costs, for the run's budget.
        mend: an answer of another model that was refused, which this one is shown to mend.

    Raises:
        BadAnswer: no answer holds.
        BudgetError: the run may not spend that.
        ModelAPIError, EngineError: the engine failed.
    """
    messages: list[ModelMessage]
    if endpoint.baked:
        # One text is all it was trained on: it can be shown no examples and told of no mistake.
        messages, retries = [ModelRequest(parts=[UserPromptPart(content=contract.baked_text(arguments))])], 0
    elif endpoint.matches:
        if (choice := choice_text(contract, arguments)) is None:
            raise BadAnswer(
                "A matcher reads texts and chooses among answers that are few and known, which this slot has not.", ""
            )
        messages, retries = [ModelRequest(parts=[UserPromptPart(content=choice)])], 0
    else:
        messages = [*examples, *contract.messages(arguments)]
        if mend and mend.answer:
            # As text: a tool call of one provider is none of another's.
            messages += _to_mend(contract, ModelResponse(parts=[TextPart(mend.answer)]), str(mend))
    mode = endpoint.model.profile.get("default_structured_output_mode", "tool")
    parameters = contract.request_parameters(arguments, mode=mode, bare_json=endpoint.bare_json)
    settings = endpoint.settings
    if endpoint.keyed:
        by_key = ModelSettings(extra_body={INPUT_KEY: sha256_of(contract.dump(arguments))})
        settings = merge_model_settings(settings, by_key)
    usage = RequestUsage()
    started = time.perf_counter()
    for left in range(retries, -1, -1):
        with (
            responding(endpoint.model.model_name),
            spending(
                terms or Terms(endpoint.model.model_name), endpoint.model, messages, settings, parameters
            ) as settle,
        ):
            response = await model_request(
                endpoint.model,
                messages,
                model_settings=settings,
                model_request_parameters=parameters,
                instrument=instrument if instrument is not None else False,
            )
            settle(response.usage)
        usage = usage + response.usage
        try:
            output = contract.parse(response, arguments, bare_json=endpoint.bare_json)
            await hold(checks, output, arguments)
        except (ValueError, ModelRetry) as error:
            message = str(error)
            if not left:
                raise BadAnswer(message, written(response)) from error
            messages = [*messages, *_to_mend(contract, response, message)]
        else:
            seconds, signals = time.perf_counter() - started, signals_of(response, contract.option_texts(arguments))
            model = response.model_name or endpoint.model.model_name
            return Attempt(output, model, usage, product_of(signals), seconds, signals)
    raise AssertionError("unreachable")


@contextmanager
def responding(model: str) -> Generator[None]:
    """Say of a response that is none (no JSON, no choices), and of a text that no request can hold, that the engine failed.

    Args:
        model: its name, for the sentence.

    Raises:
        EngineError: in place of `ValueError` and `LookupError`.
    """
    try:
        yield
    except (ValueError, LookupError) as error:
        raise EngineError(f"{model} gave no response ({type(error).__name__}: {error}).") from error


def _to_mend(contract: Contract, response: ModelResponse, why: str) -> list[ModelMessage]:
    """A refused answer and what is wrong with it, as turns after the call's."""
    # Where the answer was a tool call, providers want its result: the refusal.
    retries_of = [
        RetryPromptPart(content=why, tool_name=call.tool_name, tool_call_id=call.tool_call_id)
        for call in response.tool_calls
    ]
    refusal = retries_of or [RetryPromptPart(content=why)]
    return [response, ModelRequest(parts=refusal, instructions=contract.instructions or None)]


async def vote(
    endpoint: Endpoint,
    contract: Contract,
    arguments: Mapping[str, Any],
    *,
    samples: int,
    by_field: bool = False,
    **given: Any,
) -> Attempt:
    """Ask one model several times, and return what it answers most often (self-consistency, Wang et al. 2022).

    The first is the likeliest answer, the others are drawn.

    Args:
        endpoint: the model.
        contract: the slot's contract.
        arguments: bound arguments of the call.
        samples: answers; 1 asks once, without `agreement`.
        by_field: as `elected` takes it.
        given: what else `attempt` takes. An answer that its `checks` refuse has no vote, so that what is returned is the commonest of those
            that they let through (best of n by a verifier, Cobbe et al. 2021).

    Raises:
        BadAnswer: no answer holds.
        ModelAPIError: the engine failed.
    """
    if samples == 1:
        return await attempt(endpoint, contract, arguments, **given)
    started = time.perf_counter()
    drawn = [replace(endpoint, settings={**endpoint.settings, **DRAWN, "seed": n}) for n in range(1, samples)]
    asked = (attempt(each, contract, arguments, **given) for each in (endpoint, *drawn))
    done = await asyncio.gather(*asked, return_exceptions=True)
    for error in done:
        if isinstance(error, BaseException) and not isinstance(error, BadAnswer):
            raise error
    held = [made if isinstance(made, Attempt) else None for made in done]
    if not any(held):
        raise next(error for error in done if isinstance(error, BadAnswer))
    usage = sum((made.usage for made in held if made), RequestUsage())
    made = elected(contract, arguments, held, by_field=by_field)
    return replace(made, usage=usage, seconds=time.perf_counter() - started, drawn=held)


def elected(
    contract: Contract, arguments: Mapping[str, Any], drawn: Sequence[Attempt | None], *, by_field: bool
) -> Attempt:
    """Return the commonest answer of several, among equals the earlier; the signal `agreement` is its share.

    Args:
        contract: the slot's contract.
        arguments: bound arguments of the call.
        drawn: the answers; None for one that did not hold, which is a vote against. At least one held.
        by_field: of answers that are objects each top-level field is voted on apart, with its absence as a value like any other, and
            `agreement` is the least share of a field; the other signals are those of the answer that shares most fields.
            Where what comes of it does not meet the contract, the vote is on whole answers.
    """
    held = [made for made in drawn if made is not None]
    values = [contract.canonical(contract.dump_output(made.output), arguments) for made in held]
    if by_field and all(isinstance(value, dict) for value in values):
        votes = {
            field: [compact_json(value[field]) if field in value else None for value in values]
            for field in dict.fromkeys(field for value in values for field in value)
        }
        most = {field: Counter(texts).most_common(1)[0] for field, texts in votes.items()}
        try:
            composed = {field: json.loads(text) for field, (text, _) in most.items() if text is not None}
            output = contract.validate(composed, arguments)
        except ValueError:
            pass
        else:
            shared = [sum(votes[field][n] == most[field][0] for field in most) for n in range(len(held))]
            near = held[shared.index(max(shared))]
            share = min((count for _, count in most.values()), default=len(held)) / len(drawn)
            return replace(near, output=output, signals={**(near.signals or {}), "agreement": share})
    texts = [compact_json(value) for value in values]
    text, count = Counter(texts).most_common(1)[0]
    first = held[texts.index(text)]
    return replace(first, signals={**(first.signals or {}), "agreement": count / len(drawn)})


async def hold(checks: Sequence[Check], output: Any, arguments: Mapping[str, Any]) -> None:
    """Let checks look at an output.

    Raises:
        ModelRetry: one refuses it.
        CheckBroke: one failed itself.
    """
    for check in checks:
        try:
            await check(output, arguments)
        except ModelRetry:
            raise
        except Exception as error:
            raise CheckBroke(error) from error
