"""The house: what is public, which room imports which, what an import may load."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hetero_agents

ROOT = Path(hetero_agents.__file__).parent

ROOMS = (
    "errors",
    "contract",
    "bindings",
    "spans",
    "engines",
    "routing",
    "slots",
    "crew",
    "distill",
    "rollout",
    "report",
    "cli",
)
"""From the top of the house down; a room imports only rooms above it."""

MAY_IMPORT = {
    **{room: set(ROOMS[:index]) for index, room in enumerate(ROOMS)},
    "testing": set(ROOMS) - {"cli"},
    "tools": {"errors"},
    "cli": {*ROOMS[: ROOMS.index("cli")], "tools"},
    "roles": {*ROOMS[: ROOMS.index("crew") + 1], "tools"},
    "__init__": set(ROOMS) - {"cli"},
}

HEAVY = {"torch", "transformers", "sklearn", "vllm", "xllamacpp", "openai", "matplotlib", "gguf", "peft", "scipy"}


def modules() -> list[Path]:
    """Return every module, those behind the links included, as paths inside the package."""
    folders = [ROOT, *(entry for entry in ROOT.iterdir() if entry.is_symlink())]
    return sorted({path for folder in folders for path in folder.rglob("*.py")})


def imported(path: Path) -> Iterator[str]:
    """Give the dotted names that a module imports from our package, wherever the import stands in it."""
    package = ["hetero_agents", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = [*base, *(node.module.split(".") if node.module else [])]
            if source == ["hetero_agents"]:
                yield from (f"hetero_agents.{alias.name}" for alias in node.names)
            else:
                yield ".".join(source)


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def test_the_public_names_are_these() -> None:
    assert sorted(hetero_agents.__all__) == [
        "AnswerError",
        "Budget",
        "BudgetError",
        "CodeAgent",
        "ConfigError",
        "Crew",
        "CrewDefinitionError",
        "CrewError",
        "CrewRun",
        "DistillError",
        "EffectError",
        "EngineError",
        "Fits",
        "HeteroError",
        "IntegrityError",
        "KeyAccessError",
        "Ledger",
        "Memory",
        "Message",
        "MissingExtraError",
        "ModelRetry",
        "NotSent",
        "OneOf",
        "ReplayMissError",
        "RoleFailed",
        "Slot",
        "SlotDefinitionError",
        "SlotResult",
        "Slots",
        "Spent",
        "To",
        "UnknownNameError",
        "UserError",
        "code_agent",
        "effect",
        "flush",
        "slot",
        "subject",
        "workflow_outcome",
    ]


@pytest.mark.parametrize("name", hetero_agents.__all__)
def test_a_public_name_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(hetero_agents, name))


CLASSES: list[type] = [value for value in map(vars(hetero_agents).get, hetero_agents.__all__) if inspect.isclass(value)]


@pytest.mark.parametrize("public", CLASSES, ids=lambda public: public.__name__)
def test_the_public_methods_of_a_public_class_have_docstrings(public: type) -> None:
    methods = {key: value for key, value in vars(public).items() if inspect.isfunction(value) and key[0] != "_"}
    assert [key for key, method in methods.items() if not inspect.getdoc(method)] == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_room_imports_only_rooms_above_it(path: Path) -> None:
    room = room_of(path)
    names = [name.split(".")[1] for name in imported(path) if name.startswith("hetero_agents.")]
    rooms = {name for name in names if name in (*ROOMS, "testing", "tools", "roles")} - {room}
    assert rooms <= MAY_IMPORT[room], f"{room} imports {sorted(rooms - MAY_IMPORT[room])}"


def test_no_module_imports_the_package_as_a_whole() -> None:
    inside = [path for path in modules() if room_of(path) not in ("__init__", "tools", "roles")]
    assert [path for path in inside if "hetero_agents" in imported(path)] == []


def test_every_module_stands_in_a_known_room() -> None:
    assert {room_of(path) for path in modules()} <= MAY_IMPORT.keys()


def test_importing_loads_nothing_heavy() -> None:
    program = "import hetero_agents, json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert HEAVY & set(json.loads(done.stdout)) == set()


@pytest.mark.parametrize("name", ["roles", "tools"])
def test_a_link_resolves_beside_the_package_and_imports(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.resolve() == ROOT.parent / name
    module = importlib.import_module(f"hetero_agents.{name}")
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == ROOT.parent / name / "__init__.py"


def test_the_error_tree_is_the_one_drawn_at_the_top_of_its_file() -> None:
    from hetero_agents import errors

    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name = next((word for word in line.split() if word.endswith("Error")), None)
        if name is None or not line.startswith("    "):
            continue
        depth = (line.index(name) - 4) // 4
        path[depth:] = [name]
        drawn[name] = path[-2] if depth else "Exception"
    real = {
        name: entry.__bases__[0].__name__
        for name, entry in vars(errors).items()
        if inspect.isclass(entry) and issubclass(entry, Exception)
    }
    assert drawn == real
