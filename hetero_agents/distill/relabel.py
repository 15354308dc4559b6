"""Step S2 where recorded answers may not be learnt from: a model whose terms allow it answers the stored inputs again.

Its answers are labels: they go into the vault, sealed, beside the calls that they are of, and `curate` takes them in place of what
was answered then. It is asked through instructor: in words, as Markdown JSON, where its endpoint has no grammar, and again with what
was wrong where an answer does not meet the contract. No spans are made of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, field_validator
from pydantic_ai.direct import model_request
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, ModelRetry
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition

from ..contract import Contract, Sha256, compact_json
from ..engines import Endpoint
from ..errors import BudgetError, ConfigError, DistillError, EngineError, MissingExtraError
from ..routing import CheckBroke, Terms, hold, spending
from ..slots import App, Slot
from ..spans import Feedback, SlotCall, calls_of
from .curate import why_not
from .loop import alone_with_data, check_learnt
from .specialise import Progress

AT_ONCE = 8
"""Questions that are open at a time."""

MENDED = 2
"""How often an answer that does not meet the contract may be mended, and so one that breaks a check."""

Create = Callable[..., Awaitable[Any]]
"""instructor's: gives an instance of `response_model`."""


@dataclass(frozen=True)
class Relabelled:
    """What became of a batch."""

    model: str
    wanted: int
    """Inputs without an answer that may be learnt from."""
    labelled: int
    failed: dict[str, int]
    """Inputs that were asked and got no label, by reason."""
    stopped: str | None
    """Why the batch ended before its end, as a sentence."""


async def relabel(app: App, slot: Slot[..., Any], by: str, *, progress: Progress) -> Relabelled:
    """Have a model answer the slot's stored inputs that have no answer to learn from; each label is stored as it comes.

    What has a label is not asked again, so an interrupted batch goes on. An open `Ledger` bounds what it costs.

    Args:
        app: the workspace.
        slot: the slot.
        by: name in `[models]` of the model that answers.
        progress: called with each answer.

    Raises:
        ConfigError: there is no such model, its terms do not allow training, or it is an answer key.
        DistillError: the slot talks to a human, or takes what is not text; a check failed itself; another process works with its data.
        EngineError: the model cannot be run.
        MissingExtraError: `[relabel]` is not installed.
    """
    config, entry = app.workspace.model(by), app.workspace.slot_config(slot.id)
    if not config.train_on_outputs:
        raise ConfigError(
            f"The answers of {by!r} may not be trained on: name a model with train_on_outputs = true in hetero.toml, where its terms allow it."
        )
    check_learnt(app, slot)
    if not slot.contract.can_bake:
        raise DistillError(
            f"Slot {slot.id!r} takes a conversation or an image, which is not labelled; correct answers with `hetero feedback`."
        )
    endpoint = await app.engines.endpoint(config, slot.id)
    if endpoint.keyed:
        raise ConfigError(f"{by!r} is an answer key, which knows recorded answers alone; name a model.")
    asker = _Asker(slot, endpoint, Terms.of(by, config, entry.timeout), entry.timeout)
    with alone_with_data(app, slot):
        return await _label_all(app, slot, by, asker, entry.hci is False, progress)


async def _label_all(
    app: App, slot: Slot[..., Any], by: str, asker: _Asker, hci_allowed: bool, progress: Progress
) -> Relabelled:
    app.tracing.flush()
    calls = calls_of(app.vault, slot.id, unanswered=True)
    missing = unlabelled(calls, slot.contract, hci_allowed=hci_allowed)
    labelled, failed, stopped = 0, Counter[str](), None
    waiting = iter(missing)

    async def work() -> None:
        nonlocal labelled, stopped
        for call in waiting:
            if stopped:
                return
            try:
                answer = await asker.label(call)
            except (BudgetError, EngineError) as error:
                stopped = stopped or str(error)
                return
            except _NoLabel as error:
                failed[str(error)] += 1
            else:
                said = Feedback(call.trace_id, call.span_id, None, answer, True, time.time_ns(), call.person, model=by)
                app.vault.say(said)
                labelled += 1
            progress(f"ask {by}", labelled + failed.total(), len(missing))

    with _quiet():
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work())
        except ExceptionGroup as several:
            raise several.exceptions[0] from several
    return Relabelled(by, len(missing), labelled, dict(failed), stopped)


def unlabelled(calls: Iterable[SlotCall], contract: Contract, *, hci_allowed: bool) -> list[SlotCall]:
    """Return a call of each input that no usable answer is known of, oldest first.

    Args:
        calls: the slot's, those without an answer among them.
        contract: the slot's.
        hci_allowed: calls that talk to a human may be learnt from.
    """
    usable, missing = set[Sha256](), dict[Sha256, SlotCall]()
    for call in sorted(calls, key=lambda call: call.start):
        if call.contract != contract.sha256 or (call.hci and not hci_allowed):
            continue
        try:
            contract.load(call.input)
        except (ValueError, KeyError):  # as it is stored, it is no input of the slot
            continue
        key = contract.key_of(call.input)
        if call.answered and why_not(call, contract, hci_allowed=hci_allowed) is None:
            usable.add(key)
        else:
            missing[key] = call
    return [call for key, call in missing.items() if key not in usable]


class _NoLabel(Exception):
    """A model gave no label for an input; the message says why, without any content."""


@dataclass
class _Asker:
    """Asks one model for labels of one slot."""

    slot: Slot[..., Any]
    endpoint: Endpoint
    terms: Terms
    timeout: float | None

    def __post_init__(self) -> None:
        try:
            import instructor
        except ImportError as error:
            raise MissingExtraError("Having another model label calls", "relabel") from error
        # Engines of our own hold an answer to its schema while it is written; others are told of it in words.
        self._grammar = self.endpoint.model.profile.get("default_structured_output_mode") == "native"
        mode = instructor.Mode.JSON_SCHEMA if self._grammar else instructor.Mode.MD_JSON
        self._create = cast(Create, instructor.patch(create=self._complete, mode=mode))

    async def label(self, call: SlotCall) -> Any:
        """Return an answer to a call's input that meets contract and checks, as a JSON value.

        Raises:
            _NoLabel: the model gave none.
            BudgetError: the batch may not spend that.
            EngineError: the model cannot be asked.
        """
        contract = self.slot.contract
        arguments = contract.load(call.input)
        messages = _plain(contract, arguments)
        form = _form(contract, arguments)
        for left in range(MENDED, -1, -1):
            output = (await self._asked(form, messages)).answer
            try:
                await hold(self.slot.checks_apart, output, arguments)
            except ModelRetry as refused:
                if not left:
                    raise _NoLabel("broke a check of the slot") from refused
                given = compact_json({"answer": contract.dump_output(output)})
                messages = [
                    *messages,
                    {"role": "assistant", "content": given},
                    {"role": "user", "content": str(refused)},
                ]
            except CheckBroke as broke:
                raise DistillError(f"A check of slot {self.slot.id!r} failed itself: {broke.error}") from broke.error
            else:
                return contract.dump_output(output)
        raise AssertionError("unreachable")

    async def _asked(self, form: type[BaseModel], messages: list[dict[str, str]]) -> Any:
        from instructor.core import IncompleteOutputException, InstructorRetryException

        try:
            return await self._create(response_model=form, messages=messages, max_retries=MENDED)
        except IncompleteOutputException as error:
            raise _NoLabel("cut short, at max_tokens") from error
        except InstructorRetryException as error:
            cause = error.__cause__
            if isinstance(cause, TimeoutError):
                raise _NoLabel("no answer in time") from cause
            if isinstance(cause, ModelHTTPError) and cause.status_code in (400, 413, 422):
                raise _NoLabel(f"refused by the endpoint (HTTP {cause.status_code})") from cause
            if isinstance(cause, ModelAPIError):
                raise EngineError(f"{self.terms.label} cannot be asked: {cause}") from cause
            if isinstance(cause, BudgetError | ConfigError):
                raise cause from None
            raise _NoLabel("no answer that meets the contract") from cause

    async def _complete(self, *, messages: Sequence[dict[str, Any]], **request: Any) -> Any:
        """Ask once: what instructor takes for an OpenAI client, over any model of pydantic-ai, on the batch's budget."""
        from openai.types.chat import ChatCompletion

        model, settings, given = self.endpoint.model, self.endpoint.settings, _messages(messages)
        parameters = ModelRequestParameters()
        if self._grammar:
            schema = request["response_format"]["json_schema"]["schema"]
            answer = OutputObjectDefinition(json_schema=schema)
            parameters = ModelRequestParameters(output_mode="native", output_object=answer, allow_text_output=False)
        with spending(self.terms, model, given, settings, parameters) as settle:
            async with asyncio.timeout(self.timeout):
                response = await model_request(
                    model, given, model_settings=settings, model_request_parameters=parameters, instrument=False
                )
            settle(response.usage)
        choice = {
            "index": 0,
            "finish_reason": "length" if response.finish_reason == "length" else "stop",
            "message": {"role": "assistant", "content": response.text or ""},
        }
        made = {"id": "", "object": "chat.completion", "created": 0, "model": model.model_name, "choices": [choice]}
        return ChatCompletion.model_validate(made)


def _form(contract: Contract, arguments: dict[str, Any]) -> type[BaseModel]:
    """What a label looks like: an object around the answer, which the contract validates."""
    inner = contract.answer_schema(arguments)
    definitions = {"$defs": inner["$defs"]} if "$defs" in inner else {}
    inner = {key: value for key, value in inner.items() if key != "$defs"}

    class Label(BaseModel):
        answer: Any

        @field_validator("answer", mode="plain")
        @classmethod
        def meets(cls, value: Any) -> Any:
            return contract.validate(value, arguments)

        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
            # pydantic knows no references of a schema that it did not make itself.
            return {"type": "object", "properties": {"answer": inner}, "required": ["answer"], **definitions}

    return Label


def _plain(contract: Contract, arguments: dict[str, Any]) -> list[dict[str, str]]:
    """A call as instructor takes it: the instruction, and the values."""
    (asked,) = contract.messages(arguments)
    assert isinstance(asked, ModelRequest)
    system = [{"role": "system", "content": asked.instructions}] if asked.instructions else []
    texts = [str(part.content) for part in asked.parts if isinstance(part, UserPromptPart)]
    return [*system, *({"role": "user", "content": text} for text in texts)]


def _messages(messages: Sequence[dict[str, Any]]) -> list[ModelMessage]:
    """What instructor sends, as pydantic-ai takes it."""
    instructions = "\n\n".join(m["content"] for m in messages if m["role"] == "system") or None
    made: list[ModelMessage] = []
    for message in messages:
        if message["role"] == "assistant":
            made.append(ModelResponse(parts=[TextPart(content=message["content"])]))
        elif message["role"] == "user":
            made.append(ModelRequest(parts=[UserPromptPart(content=message["content"])], instructions=instructions))
    return made


@contextmanager
def _quiet() -> Generator[None]:
    """Keep instructor from logging: its errors quote answers, which are content."""
    logger = logging.getLogger("instructor")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
