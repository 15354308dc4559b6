"""The blackboard of a run: who has been told what, and which calls are ready. The same messages give the same calls."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from heapq import heapify, heappop, heappush
from typing import Any

from ..errors import CrewError
from .message import Memory, Message, Said
from .role import Role, Takes


@dataclass(frozen=True)
class Call:
    """A role that is to be called, with the messages that it takes."""

    role: Role
    taken: tuple[Message[Any], ...]
    """The triggering message, or all of a list."""
    joined: tuple[Message[Any] | None, ...]
    """One for each of the role's joins."""
    memory: Memory | None

    @property
    def key(self) -> str:
        """Names the call within its run, the same in every run of the same answers."""
        return f"{self.role.name}({', '.join(message.label for message in self.messages)})"

    @property
    def messages(self) -> tuple[Message[Any], ...]:
        """All messages that it takes, each once."""
        ids = {message.id for message in self.taken}
        return (*self.taken, *(message for message in self.joined if message is not None and message.id not in ids))

    @property
    def arguments(self) -> dict[str, Any]:
        """What the role's function is called with."""
        role = self.role
        first = [message.content for message in self.taken] if role.trigger.many else self.taken[0].content
        joined = {
            takes.name: message and message.content for takes, message in zip(role.joins, self.joined, strict=True)
        }
        return {role.trigger.name: first, **joined, **({role.memory: self.memory} if role.memory else {})}


class Board:
    """Messages in their order, and what of them each role has not taken yet."""

    def __init__(self, roles: Mapping[str, Role]) -> None:
        """Begin without a message.

        Args:
            roles: by name, in the order in which they act.
        """
        self.messages: list[Message[Any]] = []
        self._roles = roles
        self._place = {name: index for index, name in enumerate(roles)}
        self._pending: defaultdict[str, deque[Message[Any]]] = defaultdict(deque)
        self._awake: set[str] = set()
        """Roles for which something has changed since they were looked at."""
        self._said = Said(self.messages)
        self._led: defaultdict[type, dict[int, Message[Any] | None]] = defaultdict(dict)
        """By joined type and message id, where it was asked for: the newest message of the type that led to it, itself included."""
        self._latest: dict[type, Message[Any]] = {}
        self._to: dict[type, tuple[list[str], list[type]]] = {}
        """By a message's class: roles that it calls, and joined types that it is of."""

    def copy(self) -> Board:
        """Return a board with the same on it, which goes on by itself."""
        other = Board(self._roles)
        other.messages += self.messages
        other._pending.update({name: deque(waiting) for name, waiting in self._pending.items()})
        other._awake |= self._awake
        other._latest |= self._latest
        return other

    def publish(self, message: Message[Any]) -> None:
        """Put a message up, and tell the roles that take it.

        Raises:
            CrewError: it is addressed to a role that does not take its type.
        """
        called, joined = self._taken_by(message.kind)
        for name in message.to:
            if name not in called:
                takes = (
                    f"which takes {self._roles[name].trigger.words}" if name in self._roles else "which is no role here"
                )
                raise CrewError(f"{message.role} addressed {message.label} to {name}, {takes}.")
        for of in () if message.to else joined:  # what is for some is read beside by nobody
            self._latest[of] = message
            self._awake |= self._joined[of]
        self.messages.append(message)
        for name in message.to or called:
            self._pending[name].append(message)
            self._awake.add(name)

    def take(self) -> list[Call]:
        """Return every call that is ready, and hold its messages as taken.

        A role that collects a list is ready when no role that could publish more of it is: so it gets a fan-out whole.
        """
        calls: list[Call] = []
        collecting: list[Role] = []
        for name in sorted(self._awake, key=self._place.__getitem__):
            role = self._roles[name]
            if role.trigger.many:
                collecting.append(role)
            else:
                calls += self._ready(role)
        busy = {call.role.name for call in calls}
        waiting = [role for role in collecting if self._pending[role.name]]
        self._awake = {role.name for role in waiting}
        for role in waiting:
            others = {other.name for other in waiting if other is not role}
            if not (self._upstream[role.name] & (busy | others)):
                calls += self._collected(role)
        if not calls:  # collectors that feed each other, or behind a role that waits for what never comes
            for role in waiting:
                if calls := self._collected(role):
                    break
        self._awake -= {call.role.name for call in calls if call.role.trigger.many}
        return sorted(calls, key=lambda call: (self._place[call.role.name], call.taken[0].id))

    def give_back(self, call: Call) -> None:
        """Hold a call's messages as not taken: it was not made."""
        self._pending[call.role.name].extendleft(reversed(call.taken))
        self._awake.add(call.role.name)

    def waiting(self) -> list[str]:
        """Return a phrase for each role that holds messages and cannot be called."""
        return [
            f"{name} holds {len(self._pending[name])} {role.trigger.words} and waits for "
            f"{' and '.join(takes.words for takes in role.joins if not takes.optional and not self._has(takes))}"
            for name, role in self._roles.items()
            if self._pending[name]
        ]

    def memory(self, role: str, taken: tuple[Message[Any], ...]) -> Memory:
        """Return what a role may ask for now."""
        return Memory(role, taken, self._said, len(self.messages))

    def _ready(self, role: Role) -> list[Call]:
        pending, kept = self._pending[role.name], deque[Message[Any]]()
        calls: list[Call] = []
        while pending:
            message = pending.popleft()
            call = self._call(role, (message,))
            if call is None:
                kept.append(message)
            else:
                calls.append(call)
        self._pending[role.name] = kept
        return calls

    def _collected(self, role: Role) -> list[Call]:
        call = self._call(role, tuple(self._pending[role.name]))
        if call is None:
            return []
        self._pending[role.name].clear()
        return [call]

    def _call(self, role: Role, taken: tuple[Message[Any], ...]) -> Call | None:
        """The call of a role with these messages; None while another that it reads is not there."""
        joined: list[Message[Any] | None] = []
        for takes in role.joins:
            message = self._joining(takes, taken)
            if message is None and not takes.optional:
                return None
            joined.append(message)
        messages = (*taken, *(message for message in joined if message))
        return Call(role, taken, tuple(joined), self.memory(role.name, messages) if role.memory else None)

    def _joining(self, takes: Takes, taken: Sequence[Message[Any]]) -> Message[Any] | None:
        for known in (partial(self._led_to, taken), self._latest.get):
            if found := [message for kind in takes.kinds if (message := known(kind)) is not None]:
                return max(found, key=lambda message: message.id)
        return None

    def _led_to(self, taken: Sequence[Message[Any]], kind: type) -> Message[Any] | None:
        """The newest message of a joined type that led to one of these."""
        led = self._led[kind]
        newest: Message[Any] | None = None
        end = None
        after: dict[int, int | None] = dict.fromkeys(message.id for message in taken)
        ask = [-number for number in after]
        heapify(ask)  # newest first, so that older ones are not looked at
        while ask and (newest is None or -ask[0] > newest.id):
            message = self.messages[-heappop(ask)]
            if issubclass(message.kind, kind) and not message.to:
                newest, end = message, message.id
            elif message.id in led:
                known = led[message.id]
                if known is not None and (newest is None or known.id > newest.id):
                    newest, end = known, message.id
            else:
                for cause in message.caused_by:
                    if cause not in after:
                        after[cause] = message.id
                        heappush(ask, -cause)
        if end is None:
            led.update(dict.fromkeys(after))
        while end is not None:
            led[end], end = newest, after[end]
        return newest

    def _has(self, takes: Takes) -> bool:
        return any(kind in self._latest for kind in takes.kinds)

    def _taken_by(self, kind: type) -> tuple[list[str], list[type]]:
        if kind not in self._to:
            called = [name for name, role in self._roles.items() if issubclass(kind, role.trigger.kinds)]
            self._to[kind] = called, [of for of in self._joined if issubclass(kind, of)]
        return self._to[kind]

    @cached_property
    def _joined(self) -> dict[type, set[str]]:
        """By joined type: roles that read it."""
        found: defaultdict[type, set[str]] = defaultdict(set)
        for role in self._roles.values():
            for takes in role.joins:
                for kind in takes.kinds:
                    found[kind].add(role.name)
        return dict(found)

    @cached_property
    def _upstream(self) -> dict[str, set[str]]:
        """By collecting role: those whose work may end in a message for it, not through itself."""
        return {name: _feeding(name, self._roles) for name, role in self._roles.items() if role.trigger.many}


def _feeding(name: str, roles: Mapping[str, Role]) -> set[str]:
    others = {other: role for other, role in roles.items() if other != name}
    ask: list[tuple[type, ...]] = [roles[name].trigger.kinds]
    while ask:
        kinds = ask.pop()
        for feeder in [other for other, role in others.items() if may_be(role.publishes, kinds)]:
            role = others.pop(feeder)
            ask += [takes.kinds for takes in (role.trigger, *role.joins)]
    return roles.keys() - others.keys() - {name}


def may_be(gives: Iterable[type], kinds: Collection[type]) -> bool:
    """Return whether a value of one of the first types can be one of the second."""
    return any(issubclass(given, kind) or issubclass(kind, given) for given in gives for kind in kinds)
