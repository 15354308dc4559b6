"""Who hears whom: the roles of a project on a typed blackboard, each with a name, and what does not fit."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .project import BEGIN, Gap, Project, Role

TAKEN = {
    *("crew", "start", "slot", "code_agent", "Crew", "Budget", "Memory", "To", "BaseModel", "Field", "Any", "Literal"),
    *("message", "memory", "text", "answer", "idea", "run"),
}
"""Names that the draft uses itself."""


@dataclass
class Names:
    """Gives each thing an identifier of its own."""

    used: set[str] = field(default_factory=lambda: {*keyword.kwlist, *dir(builtins), *TAKEN, BEGIN})

    def unique(self, name: str) -> str:
        """Return the name, with a number behind it if it is taken."""
        tried, number = name, 2
        while tried in self.used:
            tried, number = f"{name}_{number}", number + 1
        self.used.add(tried)
        return tried


def identifier(text: str) -> str:
    """Return a text as a lower-case identifier: `WritePRD` and `Write PRD` are `write_prd`."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text)
    name = re.sub(r"\W+", "_", parted).strip("_").lower()
    name = name if name.isidentifier() else f"x_{name}".rstrip("_")
    return f"{name}_" if keyword.iskeyword(name) else name


@dataclass(frozen=True)
class Wired:
    """A role with its place on the blackboard."""

    role: Role
    name: str
    takes: Sequence[str]
    """Actions whose messages call it, or `UserRequirement`."""
    gives: Sequence[str]
    """Actions whose messages it publishes."""
    to: str | None = None
    """The name of the role that they are for."""
    deaf: bool = False
    """It would hear itself, and a MetaGPT role does not."""
    fed: bool = True
    """Somebody publishes what it takes."""


def wire(project: Project, names: Names) -> list[Wired]:
    """Put the roles on a blackboard; what does not fit is noted in the project."""
    roles: list[Wired] = []
    for role in project.roles:
        if not role.actions:
            _missing(project, role, "has no action that was found, so it is left out.")
            continue
        several = [other.kind for other in project.roles].count(role.kind) > 1
        called = str(role.values.get("name") or role.values.get("profile") or role.kind)
        name = names.unique(identifier(called if several or role.kind == "Role" else role.kind))
        # MetaGPT publishes what the last action of a reaction gave.
        gives = role.actions if role.mode == "react" and not role.human else role.actions[-1:]
        roles.append(Wired(role, name, list(dict.fromkeys(role.watches)), list(dict.fromkeys(gives))))
    roles = _addressed(project, roles)
    roles = [_hearing(each, roles) for each in roles]
    return _fed(project, roles)


def _addressed(project: Project, roles: list[Wired]) -> list[Wired]:
    """Resolve to whom messages go: who is addressed takes them, watched or not."""
    hears: dict[str, list[str]] = {each.name: list(each.takes) for each in roles}
    to: dict[str, str | None] = {}
    for each in roles:
        if each.role.human and each.role.send_to is not None:
            _missing(
                project, each.role, f"is a human that sends to {each.role.send_to!r}; in the draft its words go to all."
            )
        elif each.role.send_to is not None:
            to[each.name] = target = _called(each.role.send_to, roles)
            if target is None:
                _missing(project, each.role, f"sends to {each.role.send_to!r}, which is no role that was found.")
            else:
                hears[target] += [action for action in each.gives if action not in hears[target]]
    if project.begins_with is not None and (first := _called(project.begins_with, roles)):
        for name, takes in hears.items():
            if BEGIN in takes and name != first:
                takes.remove(BEGIN)
        hears[first] = list(dict.fromkeys([BEGIN, *hears[first]]))
    return [replace(each, takes=hears[each.name], to=to.get(each.name)) for each in roles]


def _called(name: str, roles: Sequence[Wired]) -> str | None:
    for each in roles:
        if name in (each.role.values.get("name"), each.role.values.get("profile"), each.role.kind):
            return each.name
    return None


def _hearing(each: Wired, roles: Sequence[Wired]) -> Wired:
    # A human is not asked for what a human said.
    others = {action for other in roles if other is not each and not each.role.human for action in other.gives}
    takes = [action for action in each.takes if action not in each.gives or action in others]
    return replace(each, takes=takes, deaf=each.to is None and any(action in each.gives for action in takes))


def _fed(project: Project, roles: list[Wired]) -> list[Wired]:
    """Take away what nobody publishes, until nothing more is to be taken away."""
    while True:
        published = {BEGIN, *(action for each in roles if each.fed for action in each.gives)}
        for index, each in enumerate(roles):
            takes = [action for action in each.takes if action in published]
            if each.fed and len(takes) < len(each.takes):
                never = " and ".join(action for action in each.takes if action not in published)
                left = "" if takes else ", and nothing else, so it is no role of the crew yet"
                _missing(project, each.role, f"watches {never}, which nobody publishes{left}.")
            if each.fed and takes != each.takes:
                # The draft shows what an unfed role waits for.
                roles[index] = replace(each, takes=takes or each.takes, fed=bool(takes))
                break
            if each.fed and not takes:
                _missing(project, each.role, "hears nobody but itself, so it is no role of the crew yet.")
                roles[index] = replace(each, takes=[BEGIN], fed=False)
                break
        else:
            return roles


def _missing(project: Project, role: Role, what: str) -> None:
    project.gaps.append(Gap(role.place.file, role.place.line, f"{role.kind} {what}"))
