"""Who takes what of whom: what does not fit, and the picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from ..errors import CrewDefinitionError
from .board import may_be
from .message import RoleFailed
from .role import Role


def check_agreement(
    crew: str, roles: Mapping[str, Role], started: Sequence[type], wanted: Sequence[type], *, ends_anyhow: bool
) -> None:
    """Refuse a crew in which messages or roles are left over.

    Args:
        crew: its name.
        roles: by name.
        started: types of the messages that the run begins with.
        wanted: types that are results, and need no role.
        ends_anyhow: a condition of the caller looks at every message, so none is left over.

    Raises:
        CrewDefinitionError: a role that nobody feeds, or a message that nobody takes; all of them, with names.
    """
    given = {*started, RoleFailed, *chain.from_iterable(role.gives for role in roles.values())}
    taken = {*wanted, *chain.from_iterable(_kinds(role) for role in roles.values())}
    wrong = [
        f"{role.name} waits for {takes.words}, which nobody publishes"
        for role in roles.values()
        for takes in (role.trigger, *role.joins)
        if not takes.optional and given.isdisjoint(takes.kinds) and not may_be(given, takes.kinds)
    ]
    wrong += [
        f"nobody takes {kind.__name__}, which the run begins with" for kind in started if not may_be([kind], taken)
    ]
    if not ends_anyhow:
        wrong += [
            f"nobody takes {kind.__name__}, which {role.name} publishes (name it in until= or in Crew(gives=) if it is a result)"
            for role in roles.values()
            for kind in role.gives
            if kind not in taken and not may_be([kind], taken)
        ]
    if wrong:
        raise CrewDefinitionError(f"The roles of crew {crew!r} do not fit together: {'; '.join(wrong)}.")


def mermaid(roles: Mapping[str, Role]) -> str:
    """Return the crew as a Mermaid flowchart: messages lead from who publishes them to whom they call; dotted, to who reads them too."""
    lines = ["flowchart LR"]
    lines += [f'    {name}["{name}"]' for name in roles]
    fed = list(chain.from_iterable(role.gives for role in roles.values()))
    begins = dict.fromkeys(
        (kind, role.name) for role in roles.values() for kind in role.trigger.kinds if not may_be(fed, [kind])
    )
    if begins := [(kind, name) for kind, name in begins if kind is not RoleFailed]:
        lines.append("    begin((begin))")
        lines += [f"    begin -->|{kind.__name__}| {name}" for kind, name in begins]
    ends: dict[str, None] = {}
    for name, role in roles.items():
        for kind in dict.fromkeys(role.gives):
            label = f"{kind.__name__}, each" if kind in role.many else kind.__name__
            arrows = list(_arrows(kind, label, roles))
            lines += [f"    {name} {arrow}" for arrow in arrows]
            if not arrows:
                ends[f"    {name} -->|{label}| done"] = None
    if ends:
        lines += ["    done((done))", *ends]
    return "\n".join(lines) + "\n"


def _arrows(kind: type, label: str, roles: Mapping[str, Role]) -> Iterator[str]:
    for other, role in roles.items():
        if may_be([kind], role.trigger.kinds):
            yield f"-->|{f'all {kind.__name__}' if role.trigger.many else label}| {other}"
        elif any(may_be([kind], takes.kinds) for takes in role.joins):
            yield f"-.->|{label}| {other}"


def entries(roles: Mapping[str, Role]) -> list[type]:
    """Return the types that a run begins with: roles wait for them, and no role publishes them."""
    fed = list(chain.from_iterable(role.gives for role in roles.values()))
    kinds = dict.fromkeys(kind for role in roles.values() for kind in _kinds(role))
    return [kind for kind in kinds if kind is not RoleFailed and not may_be(fed, [kind])]


def _kinds(role: Role) -> Iterator[type]:
    for takes in (role.trigger, *role.joins):
        yield from takes.kinds
