"""`Crew`: roles that work together by what they publish. A typed blackboard, round by round.

In a round every call that is ready is made, in parallel; what they publish is put up at its end, in an order that
does not depend on who was faster. So the same answers give the same run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypedDict, TypeVar, Unpack, overload

from pydantic_ai.agent import AbstractAgent
from pydantic_core import to_json

from ..errors import CrewDefinitionError, CrewError, UserError
from ..routing import Budget, Ledger
from .durable import Confirm, kept_run
from .graph import check_agreement, entries, mermaid
from .human import Ask, said, terminal
from .role import OnError, Role, role_of
from .run import CrewRun, Rounds, Until, kinds_of


class Settings(TypedDict, total=False):
    """What `Crew.role` says of a role beside its function."""

    at_once: int | None
    timeout: float | None
    on_error: OnError


F = TypeVar("F", bound=Callable[..., Awaitable[Any]])
T = TypeVar("T")

MAX_ROUNDS = 100
"""Rounds of a run, where nobody says how many."""

ASKED = 10
"""Times that a human is asked for an answer that fits."""

AT_ONCE = 16
"""Calls of roles at a time, where nobody says how many."""


def as_text(message: object) -> str:
    """Return a message as a prompt: text as it is, anything else as JSON."""
    return message if isinstance(message, str) else to_json(message, indent=2).decode()


class Crew:
    """Roles on one blackboard: a role's first parameter's type says what calls it, its return type what it publishes.

    `@crew.role` stands on async functions; `crew.agent` and `crew.human` add others. `await crew.run(message)` works
    until nobody has work, or until what was asked for is there.
    """

    def __init__(self, name: str, *, gives: type | Sequence[type] = ()) -> None:
        """Begin a crew without roles.

        Args:
            name: the workflow's name in spans.
            gives: types of results, which no role needs to take.
        """
        self.id = name
        self.gives: tuple[type, ...] = (gives,) if isinstance(gives, type) else tuple(gives)
        self._declared: dict[str, Callable[[], Role]] = {}
        self._read: dict[str, Role] = {}

    @overload
    def role(self, function: F, /) -> F: ...

    @overload
    def role(
        self,
        /,
        *,
        name: str | None = None,
        at_once: int | None = None,
        timeout: float | None = None,
        on_error: OnError = "stop",
    ) -> Callable[[F], F]: ...

    def role(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        at_once: int | None = None,
        timeout: float | None = None,
        on_error: OnError = "stop",
    ) -> Any:
        """Add an async function, a slot or a code agent as a role; it stays what it is, and can be called alone.

        The first parameter is what calls it: each message of its type once, of `list[T]` with all that are pending once
        nobody upstream is at work. The others are read beside: the newest message of their type that led to the first
        one, else the newest of the run; without one the role waits, unless `T | None` is asked for. A parameter of the
        type `Memory` gives what was said before. What it returns is published: of a list each item, `None` is nothing,
        `To(message, role)` is for that role alone.

        Args:
            function: the function, where the decorator stands bare.
            name: the role's name; the function's where None.
            at_once: calls of it at a time; as many as the run allows where None.
            timeout: seconds for one call.
            on_error: `stop` ends the run after the round, with what it has; `go_on` publishes a `RoleFailed` instead.

        Raises:
            CrewDefinitionError: the function cannot be a role, or there is one of that name.
        """
        settings: Settings = {"at_once": at_once, "timeout": timeout, "on_error": on_error}

        def declare(function: F) -> F:
            self._add(function, name or function.__name__, settings)
            return function

        return declare if function is None else declare(function)

    def agent(
        self,
        agent: AbstractAgent[None, Any],
        *,
        takes: type[T],
        gives: type | None = None,
        name: str | None = None,
        prompt: Callable[[T], str] = as_text,
        **settings: Unpack[Settings],
    ) -> None:
        """Add a pydantic-ai agent as a role: it is run with each message, and its output is published.

        Args:
            agent: the agent; with `capabilities=[Slots()]` its calls are logged and count against the run's budget.
            takes: the message's type.
            gives: what it publishes; the agent's `output_type` where None.
            name: the role's name; the agent's where None.
            prompt: makes the prompt of a message; JSON where not given.
            settings: what `role` takes too.

        Raises:
            CrewDefinitionError: agent and types make no role.
        """
        if not (called := name or agent.name):
            raise CrewDefinitionError("The agent has no name: give it one, or say crew.agent(..., name=).")

        async def ask(message: T) -> Any:
            return (await agent.run(prompt(message))).output

        ask.__annotations__ = {"message": takes, "return": gives or agent.output_type}
        self._add(ask, called, settings)

    def human(
        self, name: str, *, takes: type, gives: type | Sequence[type], ask: Ask = terminal, **settings: Unpack[Settings]
    ) -> None:
        """Add a human as a role: asked with each message, whose words are published.

        Args:
            name: the role's name.
            takes: the message's type.
            gives: what the words may mean: text for the only field that the type needs, or JSON.
            ask: how to ask; on the terminal where not given. Asked again, with what was wrong, until an answer fits.
            settings: what `role` takes too.
        """
        kinds = (gives,) if isinstance(gives, type) else tuple(gives)

        async def asked(message: Any) -> Any:
            wrong: str | None = None
            for _ in range(ASKED):
                text = await ask(name, message, wrong)
                try:
                    return said(text, kinds)
                except UserError as error:
                    wrong = str(error)
            raise CrewError(f"{name} gave no answer that fits, asked {ASKED} times: {wrong}")

        union: Any = kinds[0]
        for kind in kinds[1:]:
            union |= kind
        asked.__annotations__ = {"message": takes, "return": union}
        self._add(asked, name, settings)

    @property
    def roles(self) -> dict[str, Role]:
        """The roles by name, in the order of their declaration.

        Raises:
            CrewDefinitionError: a hint names something that does not exist.
        """
        for name in self._declared:
            if name not in self._read:
                try:
                    self._read[name] = self._declared[name]()
                except NameError as error:
                    raise CrewDefinitionError(
                        f"Role {name!r} has a type hint that does not resolve ({error}); import the name where the role is declared."
                    ) from error
        return {name: self._read[name] for name in self._declared}

    @property
    def entries(self) -> list[type]:
        """Types that a run begins with: roles wait for them, and no role publishes them."""
        return entries(self.roles)

    def graph(self) -> str:
        """Return the crew as a Mermaid flowchart."""
        return mermaid(self.roles)

    @overload
    async def run(
        self,
        *messages: object,
        until: type[T],
        max_rounds: int = MAX_ROUNDS,
        budget: Budget | None = None,
        at_once: int = AT_ONCE,
        go_on: CrewRun[Any] | None = None,
        durable: bool | str = False,
        resume: str | None = None,
        confirm: Confirm | None = None,
    ) -> CrewRun[T]: ...

    @overload
    async def run(
        self,
        *messages: object,
        until: tuple[type, ...] | Callable[[Any], bool] | None = None,
        max_rounds: int = MAX_ROUNDS,
        budget: Budget | None = None,
        at_once: int = AT_ONCE,
        go_on: CrewRun[Any] | None = None,
        durable: bool | str = False,
        resume: str | None = None,
        confirm: Confirm | None = None,
    ) -> CrewRun[Any]: ...

    async def run(
        self,
        *messages: object,
        until: Until | None = None,
        max_rounds: int = MAX_ROUNDS,
        budget: Budget | None = None,
        at_once: int = AT_ONCE,
        go_on: CrewRun[Any] | None = None,
        durable: bool | str = False,
        resume: str | None = None,
        confirm: Confirm | None = None,
    ) -> CrewRun[Any]:
        """Publish messages, and let the roles work until nobody has work or a limit is met.

        Args:
            messages: what the run begins with.
            until: a type, one of several, or a condition on a message's content: the run ends after the round that published one.
            max_rounds: rounds at most.
            budget: what the run may spend; no model call begins that might break it.
            at_once: calls of roles at a time.
            go_on: a run of this crew that stopped, in this process: it goes on where it was, and what it spent counts.
            durable: keep what is done in `.hetero/runs.db`, so that the run can be resumed after a kill; a text is its id.
            resume: id of a durable run: it begins with the messages that it began with, and what it has done is not done again.
            confirm: asked with name and key of an `effect` that may have happened before the kill: whether it has.

        Returns:
            The run, whatever ended it but a failure.

        Raises:
            CrewDefinitionError: the roles do not fit together; all that is wrong, with names.
            CrewError: a role failed that does not go on after errors; `.run` is what there is until then.
            UnknownNameError: there is no such run to resume.
            HeteroError: an effect may have happened, and nobody can be asked.
        """
        if max_rounds < 1 or at_once < 1:
            raise UserError(
                f"A run takes at least one round and one call at a time, not max_rounds={max_rounds}, at_once={at_once}."
            )
        if go_on is not None and go_on.crew != self.id:
            raise UserError(f"The run to go on with is one of crew {go_on.crew!r}, not of {self.id!r}.")
        if resume is not None and (messages or go_on or durable):
            raise UserError("A run that is resumed begins with the messages that it began with; give resume= alone.")
        async with kept_run(self.id, self.roles, messages, go_on, durable, resume, confirm) as (run_id, begun, spent):
            if not begun and go_on is None:
                raise UserError(f"A run of crew {self.id!r} begins with a message; it takes {_names(self.entries)}.")
            known = go_on.messages if go_on else ()
            started = [type(message) for message in begun] + [message.kind for message in known if message.role is None]
            kinds = kinds_of(until)
            wanted, looked_at = (*self.gives, *kinds), until is not None and not kinds
            check_agreement(self.id, self.roles, started, wanted, ends_anyhow=looked_at)
            with Ledger(budget or Budget(), earlier=spent) as ledger:
                rounds = Rounds(self.id, self.roles, ledger, at_once)
                return await rounds.run(begun, until, max_rounds, go_on, run_id)

    def _add(self, function: Callable[..., Awaitable[Any]], name: str, settings: Settings) -> None:
        if name in self._declared:
            raise CrewDefinitionError(
                f"Crew {self.id!r} has two roles named {name!r}; give one of them another name with name=."
            )
        read = partial(role_of, function, name, **settings)
        with suppress(NameError):  # a forward reference: resolved, or said, before the first run
            self._read[name] = read()
        self._declared[name] = read


def _names(kinds: Sequence[type]) -> str:
    return ", ".join(kind.__name__ for kind in kinds) or "what its roles publish"
