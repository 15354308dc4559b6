"""A run of a crew: rounds until nobody has work, what was asked for is there, or a limit is met."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, cast

from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from ..errors import BudgetError, CrewError, EffectError
from ..routing import Ledger, Spent, steps_now
from ..slots import registry
from ..slots.agency import record_outcome, rooted
from ..spans import Names
from .board import Board, Call
from .message import Message, RoleFailed, To
from .role import Role
from .wire import dump, load

T = TypeVar("T")

Until = type | tuple[type, ...] | Callable[[Any], bool]

M = TypeVar("M")

Ended = Literal["until", "idle", "max_rounds", "budget", "failed"]

GRACE = 5.0
"""Seconds that a role has to end once it is cancelled; afterwards nobody waits for it."""


@dataclass
class CrewRun(Generic[T]):
    """A run, ended or stopped: everything that was published, and why it went no further."""

    crew: str
    board: Board = field(repr=False)
    until: Until | None = field(default=None, repr=False)
    ended: Ended = "idle"
    """`until`: what was asked for is there; `idle`: nobody has work; a limit; or `failed`."""
    why: str = ""
    """The same in a sentence."""
    rounds: int = 0
    spent: Spent = field(default_factory=Spent)
    """What its model calls took: of slots, and of agents with `Slots()`."""
    failures: list[RoleFailed] = field(default_factory=list[RoleFailed])
    """Of roles that go on after errors."""
    id: str | None = None
    """What `resume=` takes, where the run is durable."""
    trace_id: str = ""
    """32 hexadecimal digits; `hetero traces` takes it."""

    begun: int = field(default=0, repr=False)
    """Messages that were there before it went on."""

    @property
    def messages(self) -> Sequence[Message[Any]]:
        """All messages in their order, with who published them and why."""
        return self.board.messages

    def of(self, kind: type[M]) -> list[M]:
        """Return the contents of a type, oldest first."""
        return [message.content for message in self.messages if isinstance(message.content, kind)]

    @property
    def output(self) -> T:
        """The first message that the run was to work until; one of before it went on only where there is no new one.

        Raises:
            CrewError: there is none; the sentence says why the run ended.
        """
        for message in (*self.messages[self.begun :], *self.messages[: self.begun]):
            if message.round and _meets(self.until, message.content):
                return cast(T, message.content)
        error = CrewError(f"Crew {self.crew} did not give what it was asked for: {self.why}")
        error.run = self
        raise error


@dataclass
class _Made:
    """What became of a call: what it published, why it failed, or neither where it was not made for want of budget."""

    contents: Sequence[Any] = ()
    failed: Exception | None = None
    unmade: bool = False
    span: Any = None


@dataclass
class Rounds:
    """What makes the rounds of one run."""

    crew: str
    roles: Mapping[str, Role]
    ledger: Ledger
    at_once: int

    async def run(
        self,
        messages: Sequence[object],
        until: Until | None,
        max_rounds: int,
        before: CrewRun[Any] | None,
        run_id: str | None,
    ) -> CrewRun[Any]:
        """Make rounds, as `Crew.run` says."""
        self._gate = asyncio.Semaphore(self.at_once)
        self._gates = {name: asyncio.Semaphore(role.at_once) for name, role in self.roles.items() if role.at_once}
        self._names = {id(role.function): name for name, role in reversed([*self.roles.items()])}
        self._tracer = registry.app.tracing.tracer
        board = before.board.copy() if before else Board(self.roles)
        run = CrewRun[Any](self.crew, board, until, rounds=before.rounds if before else 0, id=run_id)
        run.begun = len(board.messages)
        run.failures = list(before.failures) if before else []
        with rooted(self._tracer, self.crew) as root:
            context = root.get_span_context()
            run.trace_id = f"{context.trace_id:032x}"
            for content in messages:
                board.publish(Message(len(board.messages), content, None, 0, (), span=context))
            try:
                last = run.rounds + max_rounds
                while not run.why:
                    await self._round(run, last)
            finally:
                run.spent = self.ledger.spent
            if until is not None and run.ended in ("idle", "max_rounds"):
                record_outcome(root, ok=False)
        return run

    async def _round(self, run: CrewRun[Any], last: int) -> None:
        """Make one round, and say in the run whether it was the last."""
        board = run.board
        if run.rounds >= last:
            run.ended, run.why = "max_rounds", f"it has made {run.rounds} rounds, as many as it may."
            return
        calls = board.take()
        if not calls:
            held = "; ".join(board.waiting())
            run.ended, run.why = "idle", f"nobody has work{f': {held}' if held else ''}."
            return
        run.rounds += 1
        with self._tracer.start_as_current_span(
            f"round {run.rounds}", attributes={Names.ROUND: run.rounds}, kind=SpanKind.INTERNAL
        ):
            made = await self._make(calls, run.rounds)
        first = len(board.messages)
        stopped: _Made | None = None
        who = ""
        for call, done in zip(calls, made, strict=True):
            if done.unmade:
                board.give_back(call)
            elif done.failed is not None and _stops(call.role, done.failed):
                board.give_back(call)
                stopped, who = stopped or done, who or call.key
            self._publish(run, call, done)
        if stopped is not None:
            raise self._failed(run, f"{who} failed: {_sentence(stopped.failed)}") from stopped.failed
        try:
            met = any(_meets(run.until, message.content) for message in board.messages[first:])
        except Exception as error:
            raise self._failed(run, f"its condition `until` failed: {_sentence(error)}") from error
        if met:
            run.ended, run.why = "until", f"what was asked for is there after round {run.rounds}."
        elif any(done.unmade for done in made):
            run.ended, run.why = "budget", self.ledger.refused or "its budget of seconds is spent; give more to go on."

    def _failed(self, run: CrewRun[Any], why: str) -> CrewError:
        run.ended, run.why, run.spent = "failed", why, self.ledger.spent
        error = CrewError(f"Crew {run.crew} stopped in round {run.rounds}: {why}")
        error.run = run
        return error

    async def _make(self, calls: Sequence[Call], number: int) -> list[_Made]:
        """Make the calls of a round in parallel; those that the budget of seconds cuts off are unmade."""
        tasks = [asyncio.create_task(self._call(call, number)) for call in calls]
        try:
            await asyncio.wait(tasks, timeout=self.ledger.seconds_left)
        finally:
            late = [task for task in tasks if task.cancel()]
            if late:
                await asyncio.wait(late, timeout=GRACE)
        return [task.result() if task.done() and not task.cancelled() else _Made(unmade=True) for task in tasks]

    async def _call(self, call: Call, number: int) -> _Made:
        gate = self._gates.get(call.role.name)
        if gate is None:
            async with self._gate:
                return await self._ask(call, number)
        async with gate, self._gate:
            return await self._ask(call, number)

    async def _ask(self, call: Call, number: int) -> _Made:
        """Call a role inside its span; an exception is what became of it."""
        role = call.role
        attributes: dict[str, Any] = {
            Names.OPERATION: "invoke_agent",
            Names.AGENT: role.name,
            Names.ROUND: number,
            Names.TAKES: [message.label for message in call.messages],
        }
        links = [Link(message.span) for message in call.messages if message.span is not None]
        with self._tracer.start_as_current_span(
            f"invoke_agent {role.name}",
            attributes=attributes,
            links=links,
            kind=SpanKind.INTERNAL,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                contents = await self._published(call)
            except asyncio.CancelledError as error:
                if (task := asyncio.current_task()) and task.cancelling():
                    raise
                span.set_status(Status(StatusCode.ERROR, "cancelled from inside"))
                inside = CrewError("something inside it cancelled it.")
                inside.__cause__ = error
                return _Made(failed=inside, span=span.get_span_context())
            except Exception as error:
                if _is(error, BudgetError):
                    span.set_status(Status(StatusCode.ERROR, _sentence(error)))
                    return _Made(unmade=True, span=span.get_span_context())
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, _sentence(error)))
                return _Made(failed=error, span=span.get_span_context())
            span.set_attribute(Names.GIVES, [type(_content(item)).__name__ for item in contents])
            return _Made(contents, span=span.get_span_context())

    async def _published(self, call: Call) -> list[Any]:
        """What a role publishes, or published before the run was resumed."""
        role = call.role
        if (steps := steps_now.get()) is None:
            return self._contents(role, await _within(role.function(**call.arguments), role.timeout))
        made: list[list[Any]] = []

        async def make() -> Any:
            try:
                contents = self._contents(role, await _within(role.function(**call.arguments), role.timeout))
                kept = [{**dump(_content(item)), "to": self._to(role, item)} for item in contents]
            except Exception as error:
                if _is(error, BudgetError) or _stops(role, error):
                    raise
                return {"failed": _sentence(error)}  # what the others do next depends on it
            made.append(contents)
            return {"published": kept}

        memory = call.memory.all() if call.memory else []
        read = [[message.label, dump(message.content)] for message in (*call.messages, *memory)]
        kept = await steps.step(role.name, [call.key, read], make)
        if "failed" in kept:
            raise CrewError(kept["failed"])
        return made[0] if made else [To(load(item, role.gives), *item["to"]) for item in kept["published"]]

    def _to(self, role: Role, item: Any) -> tuple[str, ...]:
        return self._addressees(role, cast("To[Any]", item)) if isinstance(item, To) else ()

    def _contents(self, role: Role, value: Any) -> list[Any]:
        """What a role published.

        Raises:
            CrewError: it is not what the return type says.
        """
        items = cast("list[Any]", value) if isinstance(value, list) else [value]
        said = [item for item in items if item is not None]
        wrong = [item for item in said if not isinstance(_content(item), role.gives)]
        if isinstance(value, list) and not role.many:
            wrong = [cast("list[Any]", value)]
        if (not said and not role.silent) or wrong:
            what = type(_content(wrong[0])).__name__ if wrong else "nothing"
            says = " or ".join(kind.__name__ for kind in role.gives) or "None"
            raise CrewError(f"{role.name} returned {what}, and its return type says {says}.")
        for item in said:
            self._to(role, item)
        return said

    def _addressees(self, role: Role, item: To[Any]) -> tuple[str, ...]:
        """The names of whom a message is for.

        Raises:
            CrewError: one is no role, or does not take the message.
        """
        names = tuple(
            dict.fromkeys(
                each if isinstance(each, str) else self._names.get(id(each), getattr(each, "__name__", repr(each)))
                for each in item.roles
            )
        )
        for name in names:
            if name not in self.roles:
                raise CrewError(f"{role.name} addressed a message to {name}, which is no role of {self.crew}.")
            if not isinstance(item.content, self.roles[name].trigger.kinds):
                raise CrewError(
                    f"{role.name} addressed {type(item.content).__name__} to {name}, which takes {self.roles[name].trigger.words}."
                )
        return names

    def _publish(self, run: CrewRun[Any], call: Call, done: _Made) -> None:
        contents = list(done.contents)
        taken = tuple(message.id for message in call.messages)
        if done.failed is not None and not _stops(call.role, done.failed):
            failure = RoleFailed(call.role.name, _sentence(done.failed), taken)
            run.failures.append(failure)
            contents = [failure]
        for item in contents:
            to = self._to(call.role, item)
            message = Message(
                len(run.messages), _content(item), call.role.name, run.rounds, taken, to=to, span=done.span
            )
            run.board.publish(message)


async def _within(asked: Awaitable[Any], seconds: float | None) -> Any:
    """Await a role, for some seconds at most, whatever it does when it is cancelled."""
    if seconds is None:
        return await asked

    async def ask() -> Any:
        return await asked

    task = asyncio.ensure_future(cast("Coroutine[Any, Any, Any]", ask()))
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task], timeout=GRACE)
        raise
    if done:
        return task.result()
    task.cancel()
    await asyncio.wait([task], timeout=GRACE)
    raise CrewError(f"no answer in {seconds:g} s.")


def _is(error: BaseException | None, kind: type[Exception]) -> bool:
    """Whether an error is of a kind, comes of one, or is a group that holds one."""
    if isinstance(error, BaseExceptionGroup):
        return any(_is(each, kind) for each in cast("BaseExceptionGroup[BaseException]", error).exceptions)
    return error is not None and (isinstance(error, kind) or _is(error.__cause__, kind))


def _stops(role: Role, error: Exception) -> bool:
    """Whether a failure ends the run; that nobody knows what has happened to the world always does."""
    return role.on_error == "stop" or _is(error, EffectError)


def _content(item: Any) -> Any:
    return cast("To[Any]", item).content if isinstance(item, To) else item


def kinds_of(until: Until | None) -> tuple[type, ...]:
    """Return the types that a run works until; none where it is a condition."""
    if isinstance(until, type):
        return (until,)
    return cast("tuple[type, ...]", until) if isinstance(until, tuple) else ()


def _meets(until: Until | None, content: Any) -> bool:
    if until is None:
        return False
    if kinds := kinds_of(until):
        return isinstance(content, kinds)
    return bool(cast("Callable[[Any], bool]", until)(content))


def _sentence(error: Exception | None) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0] if isinstance(error, CrewError) else f"{type(error).__name__}: {text.splitlines()[0]}"
