"""`Crew`: roles that work together by what they publish. A typed blackboard, round by round.

In a round every call that is ready is made, in parallel; what they publish is put up at its end, in an order that
does not depend on who was faster. So the same answers give the same run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, overload

from pydantic_ai.agent import AbstractAgent
from pydantic_core import to_json

from ..errors import CrewDefinitionError, UserError
from ..routing import Budget, Ledger, Spent
from .graph import check_agreement, entries, mermaid
from .human import Ask, said, terminal
from .role import OnError, Role, role_of
from .run import CrewRun, Rounds, Until

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])
T = TypeVar("T")

MAX_ROUNDS = 100
"""Rounds of a run, where nobody says how many."""

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
        settings: dict[str, Any] = {"at_once": at_once, "timeout": timeout, "on_error": on_error}

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
        **settings: Any,
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
        self, name: str, *, takes: type, gives: type | Sequence[type], ask: Ask = terminal, **settings: Any
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
            shown: object = message
            while True:
                text = await ask(name, shown)
                try:
                    return said(text, kinds)
                except UserError as error:
                    shown = f"{error} {as_text(message)}"

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
    ) -> CrewRun[T]: ...

    @overload
    async def run(
        self,
        *messages: object,
        until: Callable[[Any], bool] | None = None,
        max_rounds: int = MAX_ROUNDS,
        budget: Budget | None = None,
        at_once: int = AT_ONCE,
        go_on: CrewRun[Any] | None = None,
    ) -> CrewRun[Any]: ...

    async def run(
        self,
        *messages: object,
        until: Until | None = None,
        max_rounds: int = MAX_ROUNDS,
        budget: Budget | None = None,
        at_once: int = AT_ONCE,
        go_on: CrewRun[Any] | None = None,
    ) -> CrewRun[Any]:
        """Publish messages, and let the roles work until nobody has work or a limit is met.

        Args:
            messages: what the run begins with.
            until: a type, or a condition on a message's content: the run ends after the round that published one.
            max_rounds: rounds at most.
            budget: what the run may spend; no model call begins that might break it.
            at_once: calls of roles at a time.
            go_on: a run of this crew that stopped: it goes on where it was, and what it spent counts.

        Returns:
            The run, whatever ended it but a failure.

        Raises:
            CrewDefinitionError: the roles do not fit together; all that is wrong, with names.
            CrewError: a role failed that does not go on after errors; `.run` is what there is until then.
        """
        if max_rounds < 1 or at_once < 1:
            raise UserError(
                f"A run takes at least one round and one call at a time, not max_rounds={max_rounds}, at_once={at_once}."
            )
        roles = self.roles
        if not messages and go_on is None:
            raise UserError(f"A run of crew {self.id!r} begins with a message; it takes {_names(self.entries)}.")
        if go_on is not None and go_on.crew != self.id:
            raise UserError(f"The run to go on with is one of crew {go_on.crew!r}, not of {self.id!r}.")
        begun = go_on.board.messages if go_on else ()
        started = [type(message) for message in messages] + [type(m.content) for m in begun if m.role is None]
        wanted = (*self.gives, *((until,) if isinstance(until, type) else ()))
        check_agreement(self.id, roles, started, wanted, ends_anyhow=until is not None and not isinstance(until, type))
        ledger = Ledger(budget or Budget(), earlier=go_on.spent if go_on else Spent())
        with ledger:
            return await Rounds(self.id, roles, ledger, at_once).run(messages, until, max_rounds, go_on)

    def _add(self, function: Callable[..., Awaitable[Any]], name: str, settings: dict[str, Any]) -> None:
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
