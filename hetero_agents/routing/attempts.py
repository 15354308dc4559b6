"""One model asked: until an answer meets contract and checks, or several times for a vote."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic_ai.direct import model_request
from pydantic_ai.exceptions import ModelRetry
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, RetryPromptPart, TextPart, UserPromptPart
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.settings import ModelSettings, merge_model_settings
from pydantic_ai.usage import RequestUsage

from ..contract import Contract, sha256_of, written
from ..engines import INPUT_KEY, Endpoint
from .confidence import Signals, product_of, signals_of
from .ledger import Terms, spending

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
        examples: turns before the call, for few-shot baselines; a baked specialist sees none.
        retries: how often an answer may be mended; a baked specialist's never.
        terms: what the model costs, for the run's budget.
        mend: an answer of another model that was refused, which this one is shown to mend.

    Raises:
        BadAnswer: no answer holds.
        BudgetError: the run may not spend that.
        ModelAPIError: the engine failed.
    """
    messages: list[ModelMessage]
    if endpoint.baked:
        # One text is all it was trained on: it can be shown no examples and told of no mistake.
        messages, retries = [ModelRequest(parts=[UserPromptPart(content=contract.baked_text(arguments))])], 0
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
        with spending(
            terms or Terms(endpoint.model.model_name), endpoint.model, messages, settings, parameters
        ) as settle:
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
    endpoint: Endpoint, contract: Contract, arguments: Mapping[str, Any], *, samples: int, **given: Any
) -> Attempt:
    """Ask one model several times, and return the answer that it gives most often (self-consistency, Wang et al. 2022).

    The first is the likeliest answer, the others are drawn; answers that do not hold count as votes against. The signal
    `agreement` is the share of answers that are like the one returned.

    Args:
        endpoint: the model.
        contract: the slot's contract.
        arguments: bound arguments of the call.
        samples: answers; 1 asks once, without `agreement`.
        given: what else `attempt` takes.

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
    votes: dict[str, list[Attempt]] = {}
    for made in done:
        if isinstance(made, Attempt):
            votes.setdefault(contract.answer_text(contract.dump_output(made.output), arguments), []).append(made)
    if not votes:
        raise next(error for error in done if isinstance(error, BadAnswer))
    most = max(votes.values(), key=len)  # among equals that of the likeliest answer, which comes first
    usage = sum((made.usage for made in done if isinstance(made, Attempt)), RequestUsage())
    signals = {**(most[0].signals or {}), "agreement": len(most) / samples}
    return replace(most[0], usage=usage, signals=signals, seconds=time.perf_counter() - started)


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
