"""From a source to a project: which roles there are, what they do and hear, and how the team is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...errors import UserError
from .project import BEGIN, Action, Mode, Place, Project, Prompt, Role, Value
from .prompts import Prompts
from .source import Class, Function, Module, Source, calls, defaults, keywords, last_name, literals, value

_MODES: dict[str, Mode] = {"react": "react", "by_order": "by_order", "plan_and_act": "plan_and_act"}

_BEGINNINGS = {BEGIN, "BossRequirement"}
"""What a team's idea is caused by, in this and in earlier versions."""

ROUNDS = 3
"""Rounds of `Team.run` where nobody says how many (MetaGPT 0.8.2)."""


def read_project(path: Path) -> Project:
    """Read a MetaGPT project (0.8.2, or near it) from a file or a folder.

    Raises:
        UserError: there is nothing of MetaGPT in it.
    """
    source = Source.of(path)
    project = _Reader(source).read()
    project.gaps = sorted(set(source.gaps))
    if not project.actions and not project.roles:
        broken = f" ({project.gaps[0]})" if project.gaps else ""
        raise UserError(
            f"{path} holds no class that derives from MetaGPT's Role or Action{broken}; nothing was written."
        )
    return project


@dataclass
class _Reader:
    source: Source
    project: Project = field(default_factory=Project)

    def read(self) -> Project:
        prompts = Prompts(self.source)
        kinds = {name: self.source.kind(found) for name, found in self.source.classes.items()}
        for name, found in self.source.classes.items():
            if kinds[name] == "Action" and name not in _BEGINNINGS:
                try:
                    self.project.actions[name] = prompts.action(found)
                except RecursionError:
                    self.source.missing(found.place, f"{name} refers to itself; it was not read.")
        for found in filter(self.source.kind, self.source.doubles):
            first = self.source.classes[found.tree.name].place
            self.source.missing(found.place, f"a second class {found.tree.name} after {first} is left out; rename one.")
        self._classes = {name: self.source.classes[name] for name, kind in kinds.items() if kind == "Role"}
        for found in self._classes.values():
            self._own_code(found)
        hired = [role for module in self.source.modules for role in self._hired(module, prompts)]
        if not hired and self._classes:
            bases = {above.tree.name for each in self._classes.values() for above in self.source.lineage(each)[1:]}
            named = [name for name in self._classes if name not in bases]
            self.source.missing(self._classes[named[0]].place, "no Team.hire was found, so every role is in the crew.")
            hired = [role for name in named if (role := self._role(name, {}, self._classes[name].place, None))]
        for name in self._classes.keys() - {above for role in hired for above in self._line(role.kind)}:
            self.source.missing(self._classes[name].place, f"{name} is hired nowhere, so it is no role of the crew.")
        self.project.roles = hired
        teams = [module.place(call) for module in self.source.modules for call in calls(module.tree, "Team")]
        if len(teams) > 1:
            self.source.missing(
                teams[1], f"the source has {len(teams)} teams; the draft is one crew of all their roles."
            )
        for module in self.source.modules:
            self._team(module)
        return self.project

    def _line(self, name: str) -> list[str]:
        found = self._classes.get(name)
        return [each.tree.name for each in self.source.lineage(found)] if found else []

    # -- roles -------------------------------------------------------------------------------------

    def _hired(self, module: Module, prompts: Prompts) -> Iterator[Role]:
        """The roles that teams and environments of a module are given."""
        groups = [call.args[0] for call in calls(module.tree, "hire", "add_roles") if call.args]
        groups += [roles for call in calls(module.tree, "Team") if (roles := keywords(call).get("roles"))]
        single = [call.args[0] for call in calls(module.tree, "add_role") if call.args]
        for group in groups:
            listed = self._elements(group, module)
            if listed is None:
                self.source.missing(module.place(group), "the roles that are hired here are made by code; add them.")
            single += listed or []
        for each in single:
            call = module.constants.get(each.id) if isinstance(each, ast.Name) else each
            name = last_name(call) if isinstance(call, ast.Call) else last_name(each)
            given = keywords(call) if isinstance(call, ast.Call) else {}
            if name == "Role" and isinstance(call, ast.Call):
                self._inline_actions(module, prompts)
            role = self._role(name, given, module.place(each), module)
            if role is None:
                self.source.missing(
                    module.place(each), f"{name or 'a role'} is no role of this project; it is left out."
                )
            else:
                yield role

    def _role(self, name: str, given: dict[str, ast.expr], place: Place, module: Module | None) -> Role | None:
        """A role as it is hired with these arguments; None where its class is not here."""
        found = self._classes.get(name)
        if found is None and name != "Role":
            return None
        values: dict[str, Value] = {}
        human: ast.expr | None = None
        role = Role(name, found.place if found else place, {})
        for each in reversed(self.source.lineage(found)) if found else ():
            begins = each.methods.get("__init__")
            values |= literals(defaults(begins)) | literals(each.assigned)
            for call in calls(begins, "__init__") if begins else ():
                values |= literals(keywords(call))
            if "is_human" in each.assigned:
                human = each.assigned["is_human"]
            role = self._declared(role, each)
        values |= literals(given)
        if "is_human" in given:
            human = given["is_human"]
        if human is not None and not isinstance(value(human), bool):
            self.source.missing(place, f"whether {name} is a human is decided when it runs; the draft takes a model.")
        if module is not None and (actions := given.get("actions")):
            role = replace(role, actions=self._references(actions, module) or ())
        if module is not None and (watch := given.get("watch")):
            role = replace(role, watches=self._references(watch, module) or ())
        send_to = role.send_to
        if send_to and send_to.startswith("self."):
            to = values.get(send_to.removeprefix("self."))
            if to is None:
                self.source.missing(role.place, f"to whom {name} sends ({send_to}) is decided when it runs.")
            send_to = None if to is None else str(to)
        return replace(role, values=values, human=value(human) is True, send_to=send_to)

    def _declared(self, role: Role, found: Class) -> Role:
        """What a class adds to what its bases say."""
        module, tree = found.module, found.tree
        for call in calls(tree, "set_actions", "_init_actions", "set_action"):
            actions = self._references(call.args[0], module) if call.args else None
            if actions is None:
                self.source.missing(module.place(call), f"the actions of {tree.name} are made by code; name them.")
            role = replace(role, actions=tuple(dict.fromkeys((*role.actions, *(actions or ())))))
        for name, change in (("actions", "actions"), ("watch", "watches")):
            if (given := found.assigned.get(name)) is not None and (known := self._references(given, module)):
                role = replace(role, **{change: tuple(known)})
        for call in calls(tree, "_watch"):
            watches = self._references(call.args[0], module) if call.args else None
            if watches is None:
                self.source.missing(module.place(call), f"what {tree.name} watches is made by code; name it.")
            role = replace(role, watches=tuple(watches or ()))
        modes = [each for call in calls(tree, "_set_react_mode") for each in (*call.args[:1], *keywords(call).values())]
        assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
        modes += [node.value for node in assigned if last_name(node.targets[0]) == "react_mode"]
        for node in (*modes, *filter(None, [found.assigned.get("react_mode")])):
            if mode := _mode(node):
                role = replace(role, mode=mode)
        for call in calls(tree, "_set_react_mode"):
            loops = keywords(call).get("max_react_loop") or (call.args[1] if len(call.args) > 1 else None)
            if role.mode == "react" and loops is not None and value(loops) != 1:
                self.source.missing(module.place(call), f"{tree.name} chooses again after each action; the draft once.")
        if role.mode == "plan_and_act":
            self.source.missing(found.place, f"{tree.name} plans its tasks; the draft does its actions in their order.")
        for call in calls(tree, "Message", "AIMessage", "UserMessage"):
            if (to := keywords(call).get("send_to")) is not None:
                if (name := _addressee(to)) is None:
                    self.source.missing(module.place(call), f"to whom {tree.name} sends is decided when it runs.")
                role = replace(role, send_to=name)
        return role

    def _own_code(self, found: Class) -> None:
        for name, method in found.methods.items():
            if name == "__init__":
                continue
            reads = any(word in ast.unparse(method) for word in ("get_memories", "rc.memory", "rc.history"))
            what = " It reads the role's memory: take Memory as a parameter for that." if reads else ""
            self.source.missing(
                found.module.place(method), f"{found.tree.name}.{name} is code of its own and not translated.{what}"
            )

    def _elements(self, node: ast.expr, module: Module) -> list[ast.expr] | None:
        if isinstance(node, ast.Name) and node.id in module.constants:
            node = module.constants[node.id]
        return node.elts if isinstance(node, ast.List | ast.Set | ast.Tuple) else None

    def _references(self, node: ast.expr, module: Module) -> list[str] | None:
        """Names of the actions in a list; None where they are not written down."""
        listed = self._elements(node, module)
        if listed is None and last_name(node)[:1].isupper():
            listed = [node]
        if listed is None:
            return None
        names: list[str] = []
        for each in listed:
            inline = module.constants.get(each.id) if isinstance(each, ast.Name) else each
            name = last_name(each)
            if isinstance(inline, ast.Call) and last_name(inline) == "Action":
                name = str(value(keywords(inline).get("name")) or name)
            elif isinstance(inline, ast.Call) and isinstance(each, ast.Name):
                name = last_name(inline)
            if not name[:1].isupper() and name not in self.project.actions:
                return None
            names.append(BEGIN if name in _BEGINNINGS else name)
            if name not in self.project.actions and name not in _BEGINNINGS:
                place = module.place(each)
                self.project.actions[name] = Action(name, place, Prompt("", ("context",)))
                self.source.missing(place, f"{name} is no action of this project; say in its slot what it does.")
        return names

    def _inline_actions(self, module: Module, prompts: Prompts) -> None:
        for call in calls(module.tree, "Action"):
            if (name := value(keywords(call).get("name"))) and "instruction" in keywords(call):
                self.project.actions.setdefault(str(name), prompts.inline(str(name), call, module))

    # -- the team ----------------------------------------------------------------------------------

    def _team(self, module: Module) -> None:
        """How the team of a module is paid and run."""
        for function in _scopes(module.tree):
            known = defaults(function) if isinstance(function, Function) else {}

            def number(node: ast.expr | None, known: dict[str, ast.expr] = known) -> float | None:
                if isinstance(node, ast.Name):
                    node = known.get(node.id) or module.constants.get(node.id)
                if isinstance(node, ast.Call):  # typer.Option(3.0), typer.Option(default=3.0)
                    node = keywords(node).get("default") or (node.args[0] if node.args else None)
                plain = None if node is None else value(node)
                return None if isinstance(plain, str) else plain

            for call in _own_calls(function):
                name, given = last_name(call), keywords(call)
                if name == "invest" or (name == "Team" and "investment" in given):
                    paid = given.get("investment") or (call.args[0] if call.args else None)
                    self.project.money = money = number(paid)
                    if money is None:
                        self.source.missing(module.place(call), "the investment is decided when it runs; set a budget.")
                if name == "run" and ({"n_round", "idea", "send_to"} & given.keys() or self._is_team(call, module)):
                    rounds = number(given["n_round"]) if "n_round" in given else ROUNDS
                    self.project.rounds = None if rounds is None else int(rounds)
                    if rounds is None:
                        self.source.missing(module.place(call), "n_round is decided when it runs; set max_rounds.")
                if name in ("run", "run_project", "start_project") and (to := given.get("send_to")) is not None:
                    self.project.begins_with = _addressee(to)
                if name == "Environment" and "desc" in given:
                    self.source.missing(module.place(call), "the environment's desc is no part of the draft's prompts.")

    def _is_team(self, call: ast.Call, module: Module) -> bool:
        made = call.func.value if isinstance(call.func, ast.Attribute) else None
        return isinstance(made, ast.Name) and last_name(module.constants.get(made.id, made)) == "Team"


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    yield tree
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def _own_calls(scope: ast.AST) -> Iterator[ast.Call]:
    """The calls of a function or module, without those of functions in it."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.Call):
            yield node
        if not isinstance(node, Function):
            yield from _own_calls(node)


def _mode(node: ast.expr) -> Mode | None:
    """A react mode as text, or as a member of RoleReactMode."""
    said = value(node)
    if said is None:
        said = last_name(node.value if isinstance(node, ast.Attribute) and node.attr == "value" else node).lower()
    return _MODES.get(str(said))


def _addressee(node: ast.expr) -> str | None:
    """A name, a class, or an attribute of the role as `self.name`."""
    if isinstance(node, ast.Set | ast.List) and len(node.elts) == 1:
        node = node.elts[0]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return f"self.{node.attr}"
    said = value(node)
    if isinstance(said, str):
        return said
    return node.id if isinstance(node, ast.Name) and node.id[:1].isupper() and not node.id.isupper() else None
