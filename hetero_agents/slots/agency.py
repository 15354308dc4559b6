"""Runs: `@code_agent` opens the root span, `subject` names whose data it holds, `workflow_outcome` says how it ended."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from opentelemetry.trace import Span, SpanKind, Tracer

from ..errors import SlotDefinitionError, UserError
from ..spans import Names, subject_now

P = ParamSpec("P")
R = TypeVar("R")

_root: ContextVar[Span | None] = ContextVar("hetero_root", default=None)


@dataclass(eq=False)
class CodeAgent(Generic[P, R]):
    """An agent in which Python decides (the paper's Fig. 1, right): a plain async function with a root span."""

    function: Callable[P, Coroutine[Any, Any, R]]
    id: str

    def __post_init__(self) -> None:
        update_wrapper(cast(Callable[..., Any], self), self.function)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it; an exception marks the run as failed and passes on."""
        from .registry import registry

        with rooted(registry.app.tracing.tracer, self.id):
            return await self.function(*args, **kwargs)


@overload
def code_agent(function: Callable[P, Coroutine[Any, Any, R]], /) -> CodeAgent[P, R]: ...


@overload
def code_agent(*, name: str) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], CodeAgent[P, R]]: ...


def code_agent(function: Callable[..., Any] | None = None, /, *, name: str | None = None) -> Any:
    """Open a root span around an async function, so that its slot calls are one run; nothing more.

    Args:
        function: the function, where the decorator stands bare.
        name: the workflow's name; the module's last part and the function's name where None.

    Raises:
        SlotDefinitionError: the function is not `async def`.
    """
    from .registry import name_in_module, registry

    def declare(function: Callable[..., Any]) -> CodeAgent[..., Any]:
        agent = CodeAgent(function, name or name_in_module(function))
        if not inspect.iscoroutinefunction(function):
            raise SlotDefinitionError(
                f"The code agent {agent.id!r} is no `async def` function; declare it `async def`."
            )
        registry.add_code_agent(agent)
        return agent

    return declare if function is None else declare(function)


@contextmanager
def subject(person: str) -> Generator[None]:
    """Name the person whose data the calls inside hold."""
    token = subject_now.set(person)
    try:
        yield
    finally:
        subject_now.reset(token)


def workflow_outcome(*, ok: bool, score: float | None = None) -> None:
    """Say how the current run ended; training data is filtered by it.

    Args:
        ok: the task succeeded.
        score: how well, 0 to 1.

    Raises:
        UserError: there is no run: call it inside a `@code_agent` or an agent with `Slots()`.
    """
    span = _root.get()
    if span is None:
        raise UserError(
            "workflow_outcome was called outside a run; call it inside a @code_agent function or a tool of an agent with Slots()."
        )
    if score is not None and not 0 <= score <= 1:
        raise UserError(f"workflow_outcome got the score {score}; it goes from 0 to 1.")
    record_outcome(span, ok=ok, score=score)


def record_outcome(span: Span, *, ok: bool, score: float | None = None) -> None:
    """Write an outcome on a root span."""
    label = "ok" if ok else "failed"
    span.set_attribute(Names.OUTCOME, label)
    evaluation = {
        Names.EVALUATION_NAME: "workflow_outcome",
        Names.EVALUATION_LABEL: label,
        Names.EVALUATION_SCORE: float(ok) if score is None else score,
    }
    span.add_event(Names.EVALUATION, evaluation)


@contextmanager
def rooted(tracer: Tracer, name: str) -> Generator[Span]:
    """Open the root span of a workflow's run."""
    attributes = {Names.OPERATION: "invoke_workflow", Names.WORKFLOW: name}
    with (
        tracer.start_as_current_span(f"invoke_workflow {name}", attributes=attributes, kind=SpanKind.INTERNAL) as span,
        root_span(span),
    ):
        yield span


@contextmanager
def root_span(span: Span) -> Generator[None]:
    """Make a span the one that `workflow_outcome` speaks of, unless the run has one already; an exception fails it."""
    token = _root.set(_root.get() or span)
    try:
        yield
    except Exception:
        record_outcome(span, ok=False)
        raise
    finally:
        _root.reset(token)
