"""`@slot`: an async function whose body is a model."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from opentelemetry.trace import SpanKind
from pydantic_ai.usage import RequestUsage

from ..bindings import Binding
from ..bindings.config import Tier
from ..contract import Contract, OneOf, Sha256, SlotId, check_shape, compact_json, sha256_of
from ..errors import HeteroError, SlotDefinitionError, UserError
from ..routing import Answer, Check, Kept, Route, ask, paid_step, recall, steps_now
from ..spans import Names, subject_now
from .beside import chance, compare_later
from .recalled import by_meaning
from .registry import name_in_module, registry

if TYPE_CHECKING:
    from .app import App

NO_CHECKS = sha256_of([])
"""Hash of no checks."""

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D", bound=Callable[..., Any])


@dataclass(frozen=True)
class SlotResult(Generic[R]):
    """A slot's answer and how it came about."""

    output: R
    model: str
    """The answering model's name."""
    route: Route
    """Through which models the call went, and why."""
    confidence: float | None
    """Probability that the answer is right, where a specialist or a cache by meaning gave it under a certificate; else the product of its token probabilities.

    0 to 1; None where the engine gives no probabilities.
    """
    usage: RequestUsage
    """Tokens of the answering model's requests."""
    seconds: float
    """Time of the answering model's requests."""
    trace_id: str
    """32 hexadecimal digits; `hetero traces` and `hetero feedback` take it."""
    span_id: str
    """16 hexadecimal digits."""


@dataclass(eq=False)
class Slot(Generic[P, R]):
    """A named, typed call site for a model. `await slot(...)` gives the value, `slot.run` all that is known of it."""

    function: Callable[P, Coroutine[Any, Any, R]]
    id: SlotId
    tier: Tier
    hci: bool
    """The slot talks to a human: neither logged for training nor distilled, unless the user opts in."""
    instructions: str | None = None
    comparison: Callable[[Any, Any], Any] | None = None
    """When an answer is right beside the truth, where the user says so (`compare`)."""
    checks: list[Check] = field(default_factory=list[Check], repr=False)
    """Its verifiers, in their order."""
    checks_sha256: Sha256 = NO_CHECKS
    """Hash of their source, and that of the own comparison: an error budget is certified with them."""
    _contract: Contract | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        update_wrapper(cast(Callable[..., Any], self), self.function)

    @property
    def contract(self) -> Contract:
        """What the slot takes, gives and is told.

        Raises:
            SlotDefinitionError: a type hint names something that does not exist.
        """
        if self._contract is None:
            try:
                self._contract = Contract(self.function, self.id, self.instructions)
            except NameError as error:
                raise SlotDefinitionError(
                    f"Slot {self.id!r} has a type hint that does not resolve ({error}); import the name where the slot is declared."
                ) from error
        return self._contract

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Ask the model that fills the slot now.

        Raises:
            AnswerError: no model of the chain gave an answer that holds.
            UserError: a call or a binding that cannot work.
        """
        return (await self.run(*args, **kwargs)).output

    async def run(self, *args: P.args, **kwargs: P.kwargs) -> SlotResult[R]:
        """Like a call, with model, route, confidence, usage and trace id."""
        contract = self.contract
        arguments = contract.bind(args, kwargs)
        app = registry.app
        binding = app.binding(self.id, self.tier, contract.sha256, self.checks_sha256)
        question = compact_json(contract.dump(arguments))
        attributes: dict[str, Any] = {
            Names.SLOT: self.id,
            Names.CONTRACT: contract.sha256,
            Names.INPUT: question,
        }
        if isinstance(contract.constraint, OneOf):
            attributes[Names.ONE_OF] = contract.constraint.parameter
        if self.hci if binding.entry.hci is None else binding.entry.hci:
            attributes[Names.HCI] = True
        with app.tracing.tracer.start_as_current_span(
            f"slot {self.id}", attributes=attributes, kind=SpanKind.INTERNAL
        ) as span:
            with app.aside.call():
                answer = await self._once(app, binding, arguments, question)
            made, route = answer.attempt, answer.route
            told: dict[str, Any] = {
                Names.OUTPUT: compact_json(contract.dump_output(made.output)),
                Names.BINDING: route.binding,
                Names.DECISION: route.decision,
                Names.REASON: route.reason,
                Names.CONFIDENCE: made.confidence,
                Names.SPECIALIST: route.specialist,
                Names.CACHE: route.cache,
                Names.TRAINABLE: answer.trainable,
            }
            span.set_attributes({key: value for key, value in told.items() if value is not None})
            compare_later(app, self, binding, question, answer)
            context = span.get_span_context()
        return SlotResult(
            output=made.output,
            model=made.model,
            route=route,
            confidence=made.confidence,
            usage=made.usage,
            seconds=made.seconds,
            trace_id=f"{context.trace_id:032x}",
            span_id=f"{context.span_id:016x}",
        )

    async def _once(self, app: App, binding: Binding, arguments: Mapping[str, Any], question: str) -> Answer:
        """Ask, unless the run in which it is asked was resumed and has the answer."""
        if (steps := steps_now.get()) is None:
            return await self._answer(app, binding, arguments, question)
        contract = self.contract
        asked: list[Answer] = []

        async def ask() -> Any:
            answer = await self._answer(app, binding, arguments, question)
            asked.append(answer)
            if not contract.comes_back(answer.attempt.output, arguments):
                raise HeteroError(
                    f"An answer of {self.id} does not come back from JSON as it was, so a durable run cannot keep it; change its type, or run without durable."
                )
            return asdict(_kept(contract, answer))

        kept = await paid_step(steps, self.id, [contract.sha256, question], ask)
        if asked:
            return asked[0]
        # It held when it was given, and checks may ask slots themselves.
        answer = await recall(Kept(**kept), contract, arguments, checks=())
        if answer is None:
            raise HeteroError(
                f"What the run kept of {self.id} does not meet its contract any more; start the run again."
            )
        return replace(answer, route=replace(answer.route, reason="the run had it when it was resumed"))

    async def _answer(self, app: App, binding: Binding, arguments: Mapping[str, Any], question: str) -> Answer:
        """Ask the chain, or the cache where the slot has one; the question is the arguments as JSON text."""
        contract, entry = self.contract, binding.entry
        canary = binding.share > 0 and chance() < binding.share
        asked: tuple[Any, ...] | None = None
        person = subject_now.get() if entry.personal else None
        if entry.cache and not (entry.personal and person is None):
            # Who would answer it first, what it may answer alone, and whose question it is are part of what is asked.
            name, specialist = binding.specialist_id, binding.specialist
            if canary and binding.coming:
                name, specialist = binding.coming, binding.coming_entry
            first = name or binding.models[0][1].model_dump()
            shown = (
                [entry.error_budget, specialist.certificate.created] if specialist and specialist.certificate else None
            )
            asked = self.id, contract.sha256, question, first, shown, self.checks_sha256, person
            if not (name and app.state.stopped(name)) and (kept := app.cache.find(*asked)) is not None:
                answer = await recall(kept, contract, arguments, checks=self.checks)
                if answer is not None:
                    return answer
        near = by_meaning(app, self, binding, arguments, person)
        answer = await ask(
            app.chain(binding, canary=canary),
            contract,
            arguments,
            checks=self.checks,
            state=app.state,
            instrument=app.tracing.settings,
            refused=binding.refused,
            repair=entry.repair,
            recalled=near.recall if near else None,
        )
        if near:
            near.keep(answer)
        made, route = answer.attempt, answer.route
        # What another model answered while the first one could not is for this call alone.
        if asked and route.decision == "kept" and contract.comes_back(made.output, arguments):
            app.cache.keep(_kept(contract, answer), entry.cache_seconds, *asked)
        return answer

    def sync(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Ask from code without an event loop.

        Raises:
            UserError: a loop runs in this thread; `await` the slot there.
        """
        if _loop_runs():
            raise UserError(
                f"{self.id}.sync was called inside a running event loop; write `await {self.function.__name__}(...)` there."
            )
        return _thread.loop().run(self(*args, **kwargs), context=contextvars.copy_context())

    @property
    def checks_apart(self) -> list[Check]:
        """The checks that can be run apart from a call: none where they would want a parameter that is `NotSent`."""
        apart = all(parameter.kind != "not_sent" for parameter in self.contract.parameters.values())
        return self.checks if apart else []

    def compare(
        self, comparison: Callable[[R, R], float | Awaitable[float]], /
    ) -> Callable[[R, R], float | Awaitable[float]]:
        """Say when `hetero distill` calls an answer right: the function sees the answer and the truth, both typed.

        It gives a bool, or a share from 0, wrong, to 1, right. Without one, `compare` in `hetero.toml` says it.

        Raises:
            SlotDefinitionError: the function does not take two values.
        """
        count = len(inspect.signature(comparison).parameters)
        if count != 2:
            raise SlotDefinitionError(
                f"The comparison {getattr(comparison, '__name__', '')!r} of slot {self.id!r} takes {count} parameters; it takes the answer and the truth."
            )
        self.comparison = comparison
        self.checks_sha256 = sha256_of([self.checks_sha256, "compare", source_of(comparison)])
        return comparison

    @overload
    def check(self, verifier: Callable[[R], Awaitable[None] | None], /) -> Callable[[R], Awaitable[None] | None]: ...

    @overload
    def check(
        self, verifier: Callable[Concatenate[R, P], Awaitable[None] | None], /
    ) -> Callable[Concatenate[R, P], Awaitable[None] | None]: ...

    def check(self, verifier: Callable[..., Any], /) -> Callable[..., Any]:
        """Add a verifier: it sees the output, or the output and the arguments, and raises ModelRetry if it does not hold.

        The model may then mend its answer once; after that the call escalates.

        Raises:
            SlotDefinitionError: the verifier takes something else.
        """
        count = len(inspect.signature(verifier).parameters)
        parameters = inspect.signature(self.function).parameters
        by_name = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
        by_place = [name for name in parameters if name not in by_name]
        if count not in (1, 1 + len(parameters)):
            raise SlotDefinitionError(
                f"The check {verifier.__name__!r} of slot {self.id!r} takes {count} parameters; "
                f"it takes the output, or the output and {', '.join(parameters) or 'nothing else'}."
            )

        async def check(output: Any, arguments: Mapping[str, Any]) -> None:
            if count == 1:
                done = verifier(output)
            else:
                places, names = [arguments[name] for name in by_place], {name: arguments[name] for name in by_name}
                done = verifier(output, *places, **names)
            if inspect.isawaitable(done):
                await done

        self.checks.append(check)
        self.checks_sha256 = sha256_of([self.checks_sha256, source_of(verifier)])
        return verifier


def _kept(contract: Contract, answer: Answer) -> Kept:
    made, route = answer.attempt, answer.route
    output = contract.dump_output(made.output)
    return Kept(output, made.model, route.binding, route.specialist, answer.trainable, made.confidence)


def source_of(function: Callable[..., Any]) -> str:
    """Return a function's source; nothing of one that was typed into a shell."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


@overload
def slot(function: Callable[P, Coroutine[Any, Any, R]], /) -> Slot[P, R]: ...


@overload
def slot(
    *, name: str | None = None, tier: Tier = "llm", hci: bool = False, instructions: str | None = None
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Slot[P, R]]: ...


def slot(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    tier: Tier = "llm",
    hci: bool = False,
    instructions: str | None = None,
) -> Any:
    """Declare a slot: an async function with typed parameters, a docstring as the instruction, and `...` as its body.

    Args:
        function: the function, where the decorator stands bare.
        name: the slot's id; the module's last part and the function's name where None.
        tier: what the slot falls back on when nothing more specific is bound.
        hci: the slot talks to a human (the paper's S1): never trained on unless the user opts in.
        instructions: the instruction, instead of the docstring.

    Raises:
        SlotDefinitionError: the function cannot be a slot; one sentence says why.
    """

    def declare(function: Callable[..., Any]) -> Slot[..., Any]:
        slot_id = SlotId(name or name_in_module(function))
        check_shape(function, slot_id)
        made = Slot(function, slot_id, tier, hci, instructions)
        with contextlib.suppress(NameError):  # a forward reference: resolved, or said, at the first call
            made._contract = Contract(function, slot_id, instructions)  # pyright: ignore[reportPrivateUsage]
        registry.add_slot(made)
        return made

    return declare if function is None else declare(function)


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _OwnLoop:
    """An event loop that is closed when its thread ends, in the process that made it."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.pid = os.getpid()

    def __del__(self) -> None:
        if self.pid != os.getpid():
            _inherited.append(self.runner)
            return
        with contextlib.suppress(RuntimeError):
            self.runner.close()


_inherited: list[asyncio.Runner] = []
"""Loops of a parent, whose threads are not here after a fork; one that were freed would close what the parent still waits on."""


class _Thread(threading.local):
    """One event loop for each thread that calls `.sync`, kept so that HTTP connections are used again."""

    own: _OwnLoop | None = None

    def loop(self) -> asyncio.Runner:
        if self.own is None or self.own.pid != os.getpid():
            self.own = _OwnLoop()
        return self.own.runner


_thread = _Thread()
