"""From a project to the source of a crew: messages, slots, roles, and a list of what is left to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel

from .code import WIDTH, imports, inside, literal, one_line, quoted
from .project import BEGIN, Action, Gap, Part, Project, Role
from .wire import Names, Wired, identifier, wire

CREW = "company"
"""The name of the draft's crew."""

_YOU = "you"
"""The parameter that says who speaks, in a slot that several roles use."""


@dataclass(frozen=True)
class Draft:
    """A module, and what it leaves to do."""

    code: str
    roles: list[str]
    slots: list[str]
    gaps: list[Gap]
    begins: bool
    """The draft has a `start`."""


@dataclass
class _Message:
    """The message of an action's output."""

    name: str
    fields: dict[str, Part]
    """Of an ActionNode; one text where there are none."""


@dataclass
class _Slot:
    """What stands for an action: a slot, or code that asks no model."""

    action: Action
    name: str
    parameters: dict[str, str] = field(default_factory=dict[str, str])
    """By field of the prompt."""
    prefix: str = ""
    """What is said about the only role that uses it."""
    shared: bool = False
    """Several roles use it, of which different things are said."""


def draft_of(project: Project, origin: str) -> Draft:
    """Write a first draft of a crew.

    Args:
        project: what was read.
        origin: where, for the draft's docstring.
    """
    return _Writer(project).draft(origin)


class _Writer:
    def __init__(self, project: Project) -> None:
        self.project = project
        names = Names()
        self.roles = wire(project, names)
        self.messages = {BEGIN: _Message(BEGIN, {})}
        self.slots: dict[str, _Slot] = {}
        for key, action in project.actions.items():
            public = "".join(part[:1].upper() + part[1:] for part in identifier(key).split("_") if part)
            shown = key if key.isidentifier() else public
            self.messages[key] = _Message(names.unique(f"{shown}Output"), _fields(action))
            self.slots[key] = self._slot(action, names.unique(identifier(key)))
        self.names = names
        self.choosers: dict[str, str] = {}

    def draft(self, origin: str) -> Draft:
        fed = [each for each in self.roles if each.fed]
        blocks = [self._message(key) for key in self.messages]
        blocks += [block for slot in self.slots.values() for block in self._slot_code(slot)]
        blocks += [block for each in fed for block in self._chooser(each)]
        taken = {action for each in fed for action in each.takes}
        results = dict.fromkeys(self.messages[a].name for each in fed for a in each.gives if a not in taken)
        gives = f", gives=[{', '.join(results)}]" if results else ""
        blocks.append(f'crew = Crew("{CREW}"{gives})')
        blocks += [self._role(each) for each in self.roles]
        begins = any(BEGIN in each.takes for each in fed)
        if begins:
            blocks.append(self._start())
        body = "\n\n\n".join(blocks)
        gaps = sorted(set(self.project.gaps))
        code = f"{_head(origin, gaps)}\n\n{imports(body)}\n\n\n{body}\n"
        slots = [each.name for each in self.slots.values() if each.action.prompt is not None]
        return Draft(code, [each.name for each in fed], [*slots, *self.choosers.values()], gaps, begins)

    # -- messages ----------------------------------------------------------------------------------

    def _message(self, key: str) -> str:
        message = self.messages[key]
        if key == BEGIN:
            return f'class {message.name}(BaseModel):\n    """What the crew is asked for."""\n\n    text: str'
        action = self.project.actions[key]
        lines = [f"class {message.name}(BaseModel):", f'    """{inside(f"What {key} gives ({action.place}).")}"""', ""]
        for name, part in message.fields.items():
            optional = part.type.endswith("| None")
            description = f"description={quoted(part.description)}" if part.description else ""
            given = ", ".join(filter(None, ["default=None" if optional else "", description]))
            line = f"    {name}: {part.type}" + (f" = Field({given})" if given else "")
            lines.append(
                line if len(line) <= WIDTH else line.replace("Field(", "Field(\n        ", 1)[:-1] + ",\n    )"
            )
        return "\n".join(lines if message.fields else [*lines, "    text: str"])

    def _text(self, variable: str, keys: list[str]) -> str:
        """An expression for what the content of a MetaGPT message was."""
        plain = [self.messages[key].name for key in keys if not self.messages[key].fields]
        if len(plain) == len(keys):
            return f"{variable}.text"
        whole = f"{variable}.model_dump_json()"
        return f"{variable}.text if isinstance({variable}, {' | '.join(plain)}) else {whole}" if plain else whole

    # -- slots -------------------------------------------------------------------------------------

    def _slot(self, action: Action, name: str) -> _Slot:
        users = [each.role for each in self.roles if action.name in each.role.actions]
        prefixes = dict.fromkeys(role.prefix for role in users)
        own = Names({_YOU, "self", "cls"})
        fields = (action.prompt.fields if action.prompt else ()) or ("context",)
        parameters = {key: own.unique(identifier(key)) for key in fields}
        if len(prefixes) > 1:
            return _Slot(action, name, parameters, shared=True)
        return _Slot(action, name, parameters, next(iter(prefixes), ""))

    def _slot_code(self, slot: _Slot) -> Iterator[str]:
        action, message = slot.action, self.messages[slot.action.name]
        gives = message.name if message.fields else "str"
        if action.prompt is None:
            where = f"{action.name} ({action.place}) asks no model: move its code into {slot.name}."
            yield (
                f'async def {slot.name}(context: str) -> {gives}:\n    """{inside(where)}"""\n'
                f"    raise NotImplementedError({quoted(where)})"
            )
            return
        text = action.prompt.text
        for key, name in slot.parameters.items():
            text = text.replace(f"`{key}`", f"`{name}`")
        says = f"You are who `{_YOU}` says." if slot.shared else slot.prefix
        text = textwrap.dedent(text).strip() or f"{action.name}: say here what the model is to do."
        yield self._asking(slot.name, self._signature(slot), gives, "\n\n".join(filter(None, [says, text])))

    def _signature(self, slot: _Slot) -> str:
        """Its parameters, those with a default last."""
        needed, given = ([f"{_YOU}: str"] if slot.shared else []), list[str]()
        for key, name in slot.parameters.items():
            default = slot.action.defaults.get(key)
            if default is None:
                needed.append(f"{name}: str")
            else:
                given.append(f"{name}: {type(default).__name__} = {literal(default)}")
        return ", ".join([*needed, *given])

    def _asking(self, name: str, parameters: str, gives: str, instruction: str) -> str:
        said = textwrap.indent(inside(instruction), "    ").strip()
        said = "\n".join(line.rstrip() for line in said.splitlines())
        end = "\n    " if "\n" in said else ""
        return f'@slot\nasync def {name}({parameters}) -> {gives}:\n    """{said}{end}"""\n    ...'

    def _chooser(self, each: Wired) -> Iterator[str]:
        role = each.role
        if role.mode != "react" or len(role.actions) < 2 or role.human:
            return
        self.choosers[each.name] = name = self.names.unique(f"{each.name}_next")
        options = ", ".join(f'"{self.slots[action].name}"' for action in dict.fromkeys(role.actions))
        yield self._asking(name, "text: str", f"Literal[{options}]", f"{role.prefix} Choose what to do next.".strip())

    # -- roles -------------------------------------------------------------------------------------

    def _role(self, each: Wired) -> str:
        role = each.role
        takes = " | ".join(self.messages[key].name for key in each.takes)
        gives = " | ".join(self.messages[key].name for key in each.gives)
        if role.human and each.fed:
            last = self.messages[each.gives[-1]].name
            return f'crew.human("{each.name}", takes={takes}, gives={last})  # {role.place}'
        returns = " | ".join(f"To[{self.messages[key].name}]" for key in each.gives) if each.to else gives
        parameters = f"message: {takes}" + (", memory: Memory" if each.deaf else "")
        head = "@crew.role" if each.fed else "# No role of the crew yet: nobody publishes what it takes."
        known = ", ".join(str(role.values[key]) for key in ("name", "profile") if role.values.get(key))
        lines = [
            head,
            f"async def {each.name}({parameters}) -> {returns}{' | None' if each.deaf else ''}:",
            f'    """{inside(f"{known or role.kind} ({role.place}).")}"""',
        ]
        if each.deaf:
            lines += [f'    if memory.taken[0].role == "{each.name}":  # nobody hears itself', "        return None"]
        keys = list(each.takes)
        text = self._text("message", keys)
        if " else " in text:
            lines.append(f"    text = {text}")
            text = "text"
        if each.name in self.choosers:
            lines.append(f"    match await {self.choosers[each.name]}({text}):")
            for action in dict.fromkeys(role.actions):
                lines += [f'        case "{self.slots[action].name}":']
                lines += self._last(each, self._call(action, role, text, keys, "message"), action, "            ")
            return "\n".join(lines)
        variables, source = Names(set(self.names.used)), "message"
        for action in role.actions[:-1]:
            variable = variables.unique(f"{self.slots[action].name}_done")
            lines += self._kept(variable, self._call(action, role, text, keys, source), "    ")
            source, keys = variable, [action]
            text = self._text(variable, keys) if self.messages[action].fields else variable
        last = role.actions[-1]
        lines += self._last(each, self._call(last, role, text, keys, source), last, "    ")
        return "\n".join(lines)

    def _last(self, each: Wired, call: Sequence[str], action: str, indent: str) -> list[str]:
        """What a role returns, of an action that is its last."""
        message = self.messages[action]

        def returned(answer: str) -> str:
            made = answer if message.fields else f"{message.name}(text={answer})"
            return f'{indent}return To({made}, "{each.to}")' if each.to else f"{indent}return {made}"

        whole = returned(one_line(call))
        return [whole] if len(whole) <= WIDTH else [*self._kept("answer", call, indent), returned("answer")]

    def _kept(self, variable: str, call: Sequence[str], indent: str) -> list[str]:
        """A call whose answer is kept."""
        whole = f"{indent}{variable} = {one_line(call)}"
        if len(whole) <= WIDTH:
            return [whole]
        return [f"{indent}{variable} = {call[0]}(", *(f"{indent}    {part}," for part in call[1:]), f"{indent})"]

    def _call(self, action: str, role: Role, text: str, keys: list[str], source: str) -> list[str]:
        """A call of a slot and its arguments: fields of the message and attributes of the role by their names, else the text."""
        slot = self.slots[action]
        if slot.action.prompt is None:
            return [f"await {slot.name}", text]
        given = [f"{_YOU}={quoted(role.prefix)}"] if slot.shared else []
        fields: Mapping[str, Part] = self.messages[keys[0]].fields if len(keys) == 1 else {}
        texted = False
        for key, name in slot.parameters.items():
            if key in slot.action.defaults:
                continue
            if name in fields and fields[name].type == "str":
                given.append(f"{name}={source}.{name}")
            elif (known := role.values.get(key)) is not None and known != "":
                given.append(f"{name}={quoted(str(known))}")
            elif not texted:
                texted = True
                given.append(f"{name}={text}")
            else:
                given.append(f'{name}=""')
                place = role.place
                what = f"nothing says what {key!r} of {action} is in {role.kind}; the draft gives an empty text."
                self.project.gaps.append(Gap(place.file, place.line, what))
        return [f"await {slot.name}", *given]

    def _start(self) -> str:
        project = self.project
        limits = [f"max_rounds={project.rounds}"] if project.rounds and project.rounds > 0 else []
        limits += [f"budget=Budget(money={project.money})"] if project.money and project.money > 0 else []
        call = ", ".join([f"{BEGIN}(text=idea)", *limits])
        return (
            "@code_agent\nasync def start(idea: str) -> list[Any]:\n"
            '    """Run the crew as its MetaGPT team was run; return what was published."""\n'
            f"    run = await crew.run({call})\n    return [message.content for message in run.messages]"
        )


def _fields(action: Action) -> dict[str, Part]:
    # A field of such a name would stand in the way of BaseModel's own, or of the types of the fields after it.
    names = Names({*dir(BaseModel), "str", "int", "float", "bool", "list", "dict", "set", "tuple"})
    return {names.unique(identifier(part.key)): part for part in action.answer}


def _head(origin: str, gaps: list[Gap]) -> str:
    lines = [f"A first draft of a crew, written by `hetero init --from-metagpt` from {origin}.", ""]
    lines += ["A slot gets the message that called its role, not all that the role remembers."]
    if gaps:
        lines += ["", "What was not translated:", ""]
        lines += [f"- {gap}" for gap in gaps]
    return '"""' + inside("\n".join(lines)) + '\n"""'
