"""What an Action asks: its prompt, put together from the strings in its source, and the form of the answer."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from string import Formatter

from .project import Action, Part, Prompt
from .source import Class, Function, Module, Source, calls, defaults, keywords, last_name, literals, value

_ASKS = ("_aask", "aask", "_aask_v1")
_FILLS = ("fill", "simple_fill")
_NAMES = {"list": "list[Any]", "dict": "dict[str, Any]", "set": "set[Any]", "tuple": "tuple[Any, ...]"}
_PLAIN = {"str", "int", "float", "bool", "Any", "None"}


@dataclass(frozen=True)
class _Node:
    """A call that makes an ActionNode."""

    call: ast.Call
    module: Module


@dataclass
class Prompts:
    """Reads the Actions of a source."""

    source: Source

    def action(self, found: Class) -> Action:
        """Read an Action; what cannot be translated is noted."""
        methods = {
            name: method for each in reversed(self.source.lineage(found)) for name, method in each.methods.items()
        }
        asking = [
            (method, call)
            for method in sorted(methods.values(), key=lambda method: (method.name != "run", method.lineno))
            for call in calls(method, *_ASKS, *_FILLS)
        ]
        name, place = found.tree.name, found.place
        run = methods.get("run")
        given = literals(defaults(run))
        filled = [call.func.value for _, call in asking if isinstance(call.func, ast.Attribute)]
        filled += filter(None, [self._attribute(found, "node")])
        nodes = [node for each in filled if (node := self._node(each, found, found.module))]
        for each in found.methods.values():
            if each.name not in ("run", "__init__") and not any(method is each for method, _ in asking):
                self._missing(found, each, f"{each.name} is code of {name}'s own; a typed answer may make it needless.")
        if "llm_name_or_type" in found.assigned:
            self._missing(found, found.tree, f"{name} names a model of its own; bind its slot in hetero.toml.")
        if len(asking) > 1:
            self._missing(
                found, asking[1][1], f"{name} asks a model {len(asking)} times; the draft asks the first time only."
            )
        if nodes:
            return Action(name, place, self._of_node(nodes[0], found), tuple(self._parts(nodes[0], found)), given)
        if not asking:
            return Action(name, place, None, (), given)
        method, call = asking[0]
        prompt = self._asked(method, call, found)
        if prompt is None:
            self._missing(found, call, f"the prompt of {name} is put together in a way that was not understood.")
            constants = (
                prompt for text in found.assigned.values() if (prompt := self._template(text, {}, found, method))
            )
            prompt = next(constants, Prompt("", ("context",)))
        return Action(name, place, prompt, (), given)

    def inline(self, name: str, call: ast.Call, module: Module) -> Action:
        """Read an `Action(name=, instruction=)`."""
        text = str(value(keywords(call).get("instruction")) or "")
        return Action(name, module.place(call), Prompt(text, ("context",)))

    # -- prompts -----------------------------------------------------------------------------------

    def _asked(self, method: Function, call: ast.Call, found: Class) -> Prompt | None:
        """The first argument of a call of a model, after the system messages in its second."""
        if not call.args:
            return None
        prompt = self._prompt(call.args[0], found, method)
        system = call.args[1] if len(call.args) > 1 else keywords(call).get("system_msgs")
        for each in reversed(system.elts if isinstance(system, ast.List) else []):
            before = self._prompt(each, found, method)
            if before is None:
                self._missing(found, each, f"a system message of {found.tree.name} was not understood.")
            elif prompt is not None:
                prompt = before + Prompt("\n\n") + prompt
        return prompt

    def _prompt(self, node: ast.expr, found: Class, method: Function) -> Prompt | None:
        """A string expression, with the variables in it as fields."""
        if (plain := value(node)) is not None:
            return Prompt(str(plain))
        match node:
            case ast.JoinedStr(values=parts):
                return _joined([self._part(part, found, method) for part in parts])
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return _joined([self._prompt(left, found, method), self._prompt(right, found, method)])
            case ast.Call(func=ast.Attribute(value=template, attr="format")):
                return self._template(template, keywords(node), found, method)
            case ast.Call(func=ast.Attribute(value=inner, attr="strip" | "lstrip" | "rstrip")):
                return self._prompt(inner, found, method)
            case ast.Call(args=[inner, *_]) if last_name(node) in ("dedent", "str"):
                return self._prompt(inner, found, method)
            case ast.Name(id=name):
                return self._named(name, found, method)
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                attribute = self._attribute(found, name)
                return _field(name) if attribute is None else self._prompt(attribute, found, method)
            case _:
                return None

    def _part(self, node: ast.expr, found: Class, method: Function) -> Prompt | None:
        if not isinstance(node, ast.FormattedValue):
            return self._prompt(node, found, method)
        return self._prompt(node.value, found, method) or _field(last_name(node.value) or "value")

    def _named(self, name: str, found: Class, method: Function) -> Prompt | None:
        """A variable: what it was assigned in the method, a parameter, else a constant."""
        here = [node for node in ast.walk(method) if isinstance(node, ast.Assign | ast.AugAssign)]
        here = [node for node in here if _target(node) == name and not _mentions(node.value, name)]
        if here:
            here.sort(key=lambda node: node.lineno)
            begun = [node for node in here if isinstance(node, ast.Assign)]
            if len(begun) > 1:
                self._missing(
                    found, begun[0], f"{name!r} of {found.tree.name} has several forms; the draft has the last."
                )
            more = [node for node in here if isinstance(node, ast.AugAssign)]
            return _joined([self._prompt(node.value, found, method) for node in (*begun[-1:], *more)]) or _field(name)
        named = [arg.arg for arg in (*method.args.args, *method.args.kwonlyargs)]
        if name in named:
            return self._passed(name, named, found, method) or _field(name)
        constant = self.source.constant(name, found.module)
        text = value(constant[0]) if constant else None
        return None if text is None else Prompt(str(text))

    def _passed(self, name: str, named: list[str], found: Class, method: Function) -> Prompt | None:
        """What another method of the class passes as a parameter of this one."""
        for other in found.methods.values():
            for call in calls(other, method.name) if other is not method else ():
                given = dict(zip(named[1:], call.args, strict=False)) | keywords(call)
                if name in given and (prompt := self._prompt(given[name], found, other)):
                    return prompt
        return None

    def _template(self, node: ast.expr, given: dict[str, ast.expr], found: Class, method: Function) -> Prompt | None:
        """A template of `str.format`; what is given as a literal is put in."""
        prompt = self._prompt(node, found, method)
        if prompt is None:
            return None
        pieces: list[Prompt | None] = []
        try:
            for text, name, _, _ in Formatter().parse(prompt.text):
                pieces.append(Prompt(text))
                if name is not None:
                    root = name.partition(".")[0].partition("[")[0]
                    constant = self._constant(given.get(root), found.module)
                    pieces.append(
                        _field(root if root.isidentifier() else "value") if constant is None else Prompt(constant)
                    )
        except ValueError:  # a brace that is none of a field: the template would fail there too
            return prompt
        return _joined([*pieces, Prompt("", prompt.fields)])

    def _constant(self, node: ast.expr | None, module: Module) -> str | None:
        """A literal, or a constant of a module."""
        if isinstance(node, ast.Name) and node.id.isupper() and (known := self.source.constant(node.id, module)):
            node = known[0]
        plain = None if node is None else value(node)
        return None if plain is None else str(plain)

    def _attribute(self, found: Class, name: str) -> ast.expr | None:
        return next((each.assigned[name] for each in self.source.lineage(found) if name in each.assigned), None)

    # -- answers -----------------------------------------------------------------------------------

    def _node(self, node: ast.expr, found: Class, module: Module) -> _Node | None:
        """The ActionNode that an expression stands for, with the module in which it is made."""
        if isinstance(node, ast.Attribute):
            node = self._attribute(found, node.attr) or node
        if isinstance(node, ast.Name) and (known := self.source.constant(node.id, module)):
            node, module = known
        makes = last_name(node) in ("ActionNode", "from_children", "from_pydantic")
        return _Node(node, module) if isinstance(node, ast.Call) and makes else None

    def _of_node(self, node: _Node, found: Class) -> Prompt:
        text = self._constant(keywords(node.call).get("instruction"), node.module)
        said = (ast.get_docstring(found.tree) or "").partition("\n\n")[0]
        return Prompt(text or said or f"Fill in the fields of {found.tree.name}.", ("context",))

    def _parts(self, node: _Node, found: Class) -> Iterator[Part]:
        """The children of a node, or the node itself."""
        call = node.call
        if last_name(call) == "ActionNode":
            yield self._part_of(node, found)
            return
        if last_name(call) == "from_pydantic":
            what = f"{found.tree.name} is answered by a model of your own; make it the slot's return type."
            self._missing(found, found.tree, what)
            return
        listed = keywords(call).get("nodes") or (call.args[1] if len(call.args) > 1 else None)
        for each, module in self._listed(listed, node.module):
            child = self._node(each, found, module)
            if child is None or last_name(child.call) != "ActionNode":
                self._missing(found, each, f"a child of the ActionNode of {found.tree.name} was not understood.")
            else:
                yield self._part_of(child, found)

    def _listed(self, node: ast.expr | None, module: Module) -> list[tuple[ast.expr, Module]]:
        match node:
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return [(element, module) for element in elements]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._listed(left, module) + self._listed(right, module)
            case ast.Name(id=name) if known := self.source.constant(name, module):
                return self._listed(*known)
            case _:
                return []

    def _part_of(self, node: _Node, found: Class) -> Part:
        given = dict(zip(("key", "expected_type", "instruction"), node.call.args, strict=False)) | keywords(node.call)
        said = type_text(given.get("expected_type"))
        key = str(value(given.get("key")) or "text")
        if said is None:
            what = f"the type of {key!r} in the answer of {found.tree.name} was not understood; it is Any."
            self._missing(found, found.tree, what)
        return Part(key, said or "Any", (self._constant(given.get("instruction"), node.module) or "").strip())

    def _missing(self, found: Class, node: ast.stmt | ast.expr, what: str) -> None:
        # A constant may stand in another file than the class; the class's place is what a reader looks for then.
        inside = found.tree.lineno <= node.lineno <= (found.tree.end_lineno or node.lineno)
        self.source.missing(found.module.place(node) if inside else found.place, what)


def type_text(node: ast.expr | None) -> str | None:
    """Return a type as today's Python writes it; None where it is not one of builtins, `Any` and `Literal`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return type_text(ast.parse(node.value, mode="eval").body)
        except SyntaxError:
            return None
    if isinstance(node, ast.Constant) and node.value is None:
        return "None"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _of_types("{0} | {1}", [node.left, node.right])
    if isinstance(node, ast.Name | ast.Attribute):
        name = last_name(node)
        return name if name in _PLAIN else _NAMES.get(name.lower())
    if not isinstance(node, ast.Subscript):
        return None
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    match last_name(node.value):
        case "Optional" if len(inner) == 1:
            return _of_types("{0} | None", inner)
        case "Union" if inner:
            return _of_types(" | ".join(f"{{{index}}}" for index in range(len(inner))), inner)
        case "Literal":
            words = [value(each) for each in inner]
            return f"Literal[{', '.join(map(json.dumps, words))}]" if all(isinstance(w, str) for w in words) else None
        case "List" | "list" | "Set" | "set" as name if len(inner) == 1:
            return _of_types(f"{name.lower()}[{{0}}]", inner)
        case "Dict" | "dict" if len(inner) == 2:
            return _of_types("dict[{0}, {1}]", inner)
        case "Tuple" | "tuple" if len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is ...:
            return _of_types("tuple[{0}, ...]", inner[:1])
        case "Tuple" | "tuple" if inner:
            return _of_types(f"tuple[{', '.join(f'{{{index}}}' for index in range(len(inner)))}]", inner)
        case _:
            return None


def _of_types(form: str, nodes: list[ast.expr]) -> str | None:
    texts = [text for text in map(type_text, nodes) if text]
    return form.format(*texts) if len(texts) == len(nodes) else None


def _joined(pieces: list[Prompt | None]) -> Prompt | None:
    whole = Prompt("")
    for piece in pieces:
        if piece is None:
            return None
        whole += piece
    return whole


def _field(name: str) -> Prompt:
    return Prompt(f"`{name}`", (name,))


def _target(node: ast.Assign | ast.AugAssign) -> str:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return target.id if isinstance(target, ast.Name) else ""


def _mentions(node: ast.expr, name: str) -> bool:
    return any(isinstance(each, ast.Name) and each.id == name for each in ast.walk(node))
