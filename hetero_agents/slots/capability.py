"""`Slots`: what joins a `pydantic_ai.Agent` to us. Slots arrive as typed tools, `slot:` model ids are filled late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from opentelemetry.trace import get_current_span
from pydantic import TypeAdapter
from pydantic_ai import FunctionToolset, RunContext
from pydantic_ai.capabilities import (
    AbstractCapability,
    CapabilityOrdering,
    CombinedCapability,
    Instrumentation,
    WrapModelRequestHandler,
    WrapRunHandler,
)
from pydantic_ai.exceptions import FallbackExceptionGroup, ModelAPIError, UnexpectedModelBehavior
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
from pydantic_ai.models import (
    Model,
    ModelRequestContext,
    ModelRequestParameters,
    ModelResolutionContext,
    StreamedResponse,
)
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.run import AgentRunResult
from pydantic_ai.settings import ModelSettings
from pydantic_ai.toolsets import AgentToolset

from ..contract import SlotId
from ..errors import EngineError, IntegrityError, ReplayMissError, SlotDefinitionError
from ..routing import Link, Terms, paid_step, responding, spending, steps_now
from ..spans import Names
from .agency import root_span
from .registry import registry
from .slot import Slot

PREFIX = "slot:"

_ANY: TypeAdapter[Any] = TypeAdapter(Any)

_NEW_EACH_TIME = ("timestamp", "run_id", "conversation_id")


class Slots(CombinedCapability[Any]):
    """Joins an agent: resolves `Agent("slot:name")`, offers slots as tools, logs the run in our vault.

    `Agent("slot:desk", capabilities=[Slots(classify, extract)])`. Without slots it only resolves and logs.
    """

    def __init__(self, *slots: Slot[..., Any]) -> None:
        """Take the slots that the agent may call as tools.

        Raises:
            SlotDefinitionError: a slot has a required `NotSent` parameter, which no model can fill.
        """
        tools = FunctionToolset[Any]()
        for slot in slots:
            tools.add_function(_tool(slot), name=slot.function.__name__, description=slot.contract.instructions or None)
        super().__init__([_LateInstrumentation(), _Binder(tools)])


def _tool(slot: Slot[..., Any]) -> Callable[..., Any]:
    for name, parameter in slot.contract.parameters.items():
        if parameter.kind == "not_sent" and parameter.required:
            raise SlotDefinitionError(
                f"Slot {slot.id!r} cannot be a tool: its parameter {name!r} is NotSent and has no default, and no model can fill it."
            )

    async def call(*args: Any, **kwargs: Any) -> Any:
        return await slot(*args, **kwargs)

    # What is NotSent has a default here, and no model sees it.
    shown = [
        p for p in slot.contract.signature.parameters.values() if slot.contract.parameters[p.name].kind != "not_sent"
    ]
    call.__name__, call.__doc__ = slot.function.__name__, slot.function.__doc__
    call.__annotations__ = {name: slot.contract.hints[name] for name in (*(p.name for p in shown), "return")}
    call.__signature__ = slot.contract.signature.replace(  # pyright: ignore[reportFunctionMemberAccess]
        parameters=[p.replace(annotation=slot.contract.hints[p.name]) for p in shown],
        return_annotation=slot.contract.hints["return"],
    )
    return call


@dataclass
class _LateInstrumentation(AbstractCapability[Any]):
    """pydantic-ai's instrumentation on our private provider, opened with the app at the first run, not at import."""

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="outermost")

    async def for_run(self, ctx: RunContext[Any]) -> AbstractCapability[Any]:
        return await Instrumentation(registry.app.tracing.settings, id="hetero").for_run(ctx)


@dataclass
class _Binder(AbstractCapability[Any]):
    tools: FunctionToolset[Any]

    def get_toolset(self) -> AgentToolset[Any] | None:
        return self.tools if self.tools.tools else None

    async def resolve_model_id(self, ctx: ModelResolutionContext[Any], *, model_id: str) -> Model | None:
        if not model_id.startswith(PREFIX):
            return None
        name = model_id.removeprefix(PREFIX)
        app = registry.app
        binding = app.binding(name, "llm", None)
        models: list[Model] = []
        failed: EngineError | IntegrityError | None = None
        for link in app.chain(binding):
            try:
                models.append(_Bound((await link.open()).model, link, name, binding.entry.hci or False))
            except (EngineError, IntegrityError) as error:  # the next model of the chain is there for that
                failed = error
        if not models:
            raise failed or EngineError(f"No model of {name!r} can be opened.")
        return FallbackModel(*models, fallback_on=[_engine_failed]) if len(models) > 1 else models[0]

    async def wrap_model_request(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, handler: WrapModelRequestHandler
    ) -> ModelResponse:
        if (steps := steps_now.get()) is None:
            return await self._ask(request_context, handler)
        asked, made = request_context, list[ModelResponse]()

        async def ask() -> Any:
            made.append(await self._ask(asked, handler))
            return ModelMessagesTypeAdapter.dump_python([made[0]], mode="json")

        key = [
            asked.model.model_name,
            _stable(ModelMessagesTypeAdapter.dump_python(list(asked.messages), mode="json")),
            _ANY.dump_python([asked.model_settings, asked.model_request_parameters], mode="json", fallback=str),
        ]
        kept = await paid_step(steps, (ctx.agent and ctx.agent.name) or "agent", key, ask)
        return made[0] if made else cast(ModelResponse, ModelMessagesTypeAdapter.validate_python(kept)[0])

    async def _ask(self, asked: ModelRequestContext, handler: WrapModelRequestHandler) -> ModelResponse:
        models = asked.model.models if isinstance(asked.model, FallbackModel) else [asked.model]
        if all(isinstance(model, _Bound) for model in models):
            return await handler(asked)  # each of them says what it spends
        terms = Terms(asked.model.model_name)
        with spending(
            terms, asked.model, asked.messages, asked.model_settings, asked.model_request_parameters
        ) as settle:
            response = await handler(asked)
            settle(response.usage)
        return response

    async def wrap_run(self, ctx: RunContext[Any], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        # The instrumentation is outermost, so the current span is the agent's.
        span = get_current_span()
        with root_span(span):
            try:
                return await handler()
            except FallbackExceptionGroup as group:
                raise EngineError(f"No model answered ({'; '.join(map(str, group.exceptions))}).") from group


def _stable(messages: list[Any]) -> list[Any]:
    """Messages as JSON without what is new each time that they are made."""
    return [
        {
            key: [{k: v for k, v in part.items() if k != "timestamp"} for part in value] if key == "parts" else value
            for key, value in message.items()
            if key not in _NEW_EACH_TIME
        }
        for message in messages
    ]


def _engine_failed(error: Exception) -> bool:
    passing = isinstance(error, ModelAPIError | UnexpectedModelBehavior | EngineError | IntegrityError | OSError)
    return passing and not isinstance(error, ReplayMissError)


class _Bound(WrapperModel):
    """A model that says in its `chat` span which agent's model it is and what fills it."""

    def __init__(self, wrapped: Model, link: Link, name: str, hci: bool) -> None:
        super().__init__(wrapped)
        self._link = link
        self._name = SlotId(name)
        self._hci = hci
        self.terms = link.terms or Terms(link.label)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        self._say()
        try:
            async with asyncio.timeout(self._link.timeout):
                settings = self._bounded(model_settings)
                with (
                    responding(self._link.label),
                    spending(self.terms, self.wrapped, messages, settings, model_request_parameters) as settle,
                ):
                    response = await super().request(messages, settings, model_request_parameters)
                    settle(response.usage)
                return response
        except TimeoutError as error:
            within = f"in {self._link.timeout:g} s" if self._link.timeout else "in time"
            raise EngineError(f"{self._link.label} gave no answer {within}.") from error

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        self._say()
        settings = self._bounded(model_settings)
        with spending(self.terms, self.wrapped, messages, settings, model_request_parameters) as settle:
            async with super().request_stream(messages, settings, model_request_parameters, run_context) as stream:
                yield stream
            settle(stream.usage)

    def _bounded(self, settings: ModelSettings | None) -> ModelSettings | None:
        """The settings, with the binding's bound on an answer where they have none."""
        if self.terms.max_tokens is None:
            return settings
        return {"max_tokens": self.terms.max_tokens, **(settings or {})}

    def _say(self) -> None:
        told: dict[str, Any] = {
            Names.SLOT: self._name,
            Names.BINDING: self._link.label,
            Names.TRAINABLE: self._link.trainable,
            Names.HCI: self._hci or None,
        }
        get_current_span().set_attributes({key: value for key, value in told.items() if value is not None})
