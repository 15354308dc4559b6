"""`hetero init --from-metagpt`: a project's source becomes a draft that runs, and says what is missing."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hetero_agents import CrewError, Slot
from hetero_agents.cli.metagpt import draft_of, read_project
from hetero_agents.cli.metagpt.source import Source
from hetero_agents.testing import scripted

from .support import Hetero

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


DATA = Path(__file__).parent / "data" / "metagpt"

ROLE = """\
from metagpt.actions import Action
from metagpt.roles import Role


class Greet(Action):
    async def run(self, name):
        return await self._aask({prompt})


class Greeter(Role):
    profile: str = {profile}

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.set_actions([Greet])
"""


def drafted(project: Path, folder: Path) -> ModuleType:
    """Write a project's draft into a folder, and import it."""
    (folder / "company.py").write_text(draft_of(read_project(project), "there").code, "utf-8")
    spec = importlib.util.spec_from_file_location("company", folder / "company.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(folder: Path, prompt: str, profile: str = "'Host'") -> Path:
    """Write a project of one role."""
    path = folder / "greeting.py"
    path.write_bytes(ROLE.format(prompt=prompt, profile=profile).encode("utf-8", "surrogatepass"))
    return path


def instruction(module: ModuleType, name: str) -> str:
    found: Slot[..., Any] = getattr(module, name)
    return found.contract.instructions


def who_said(run: Any) -> list[tuple[int, str | None, str]]:
    return [(message.round, message.role, message.content.text) for message in run.messages]


# -- what a draft does -----------------------------------------------------------------------------


async def test_a_crew_of_classes_is_drafted_whole_and_runs_as_many_rounds_as_it_did(tmp_path: Path) -> None:
    company = drafted(DATA / "trio", tmp_path)
    assert instruction(company, "write_function") == (
        "You are Ada, Coder. Your goal: Write short functions.\n\n"
        "Write a Python function for this request: `request`\nAnswer with ```python your_code ``` and nothing else."
    )
    asked: list[str] = []

    def said_of(prompt: str) -> str:
        asked.append(prompt)
        return f"tests {len(asked)}"

    answers = {"write_function": "def add", "write_tests": said_of, "review_tests": "none misses"}
    with scripted({f"company.{name}": answer for name, answer in answers.items()}):
        said = await company.start("add two numbers")
    assert [type(content).__name__ for content in said] == [
        "UserRequirement",
        *("WriteFunctionOutput", "WriteTestsOutput"),
        *("ReviewTestsOutput", "WriteTestsOutput"),
        "ReviewTestsOutput",
    ]
    assert asked == ["code: def add\nk: 3", "code: none misses\nk: 3"]  # k is the default of run()


async def test_roles_of_one_class_that_write_to_each_other_are_two_roles(tmp_path: Path) -> None:
    company = drafted(DATA / "debate", tmp_path)
    with scripted({"company.argue": lambda prompt: prompt.splitlines()[1]}):
        said = await company.start("Is rain good?")
    assert [content.text for content in said] == ["Is rain good?", "name: Ann", "name: Bo", "name: Ann", "name: Bo"]


async def test_a_role_does_not_hear_itself(tmp_path: Path) -> None:
    company = drafted(DATA / "short", tmp_path)
    with scripted({"company.say_yes": "yes", "company.talk": lambda prompt: prompt.split(",")[0].split()[-1]}):
        run = await company.crew.run(company.UserRequirement(text="Snow?"), max_rounds=3)
    assert who_said(run) == [
        (0, None, "Snow?"),
        (1, "yes", "yes"),
        (2, "one", "One"),
        (3, "yes", "yes"),
        (3, "two", "Two"),
    ]


async def test_an_action_node_is_a_typed_message_and_actions_in_order_are_calls_in_order(tmp_path: Path) -> None:
    company = drafted(DATA / "office", tmp_path)
    schema = company.WriteBriefOutput.model_json_schema()["properties"]
    assert {name: field["description"] for name, field in schema.items()} == {
        "product_goals": "At most three goals.",
        "priority": 'How urgent? Say "high" or "low".',
        "anything_unclear": "What to ask back.",
        "json_2": "A score a goal.",
    }

    def draft(prompt: str) -> str:
        return f"draft of {json.loads(prompt.split('context: ')[1])['priority']}"

    def polish(prompt: str) -> str:
        return f"polished {prompt}"

    answers: dict[str, Any] = {
        "company.write_brief": {"product_goals": ["a"], "priority": "low", "anything_unclear": None, "json_2": {}},
        "company.draft": draft,
        "company.polish": polish,
        "company.clerk_next": "run_it",
    }
    with scripted(answers), pytest.raises(CrewError) as stopped:
        await company.start("a desk")
    assert stopped.value.run.of(company.PolishOutput)[0].text == "polished draft of low"
    # What was plain code is not asked of a model: the draft says where it stands.
    assert "RunIt (office.py:42) asks no model: move its code into run_it." in str(stopped.value)


def test_a_class_that_has_the_name_of_its_base_is_read(tmp_path: Path) -> None:
    text = ROLE.format(prompt='"x"', profile="'Host'").replace("class Greeter(Role)", "class Engineer(Base)")
    (tmp_path / "greeting.py").write_text(text.replace("import Role", "import Engineer as Base"))
    source = Source.of(tmp_path)
    assert source.kind(source.classes["Engineer"]) == "Role"


def test_a_human_role_is_a_human(tmp_path: Path) -> None:
    company = drafted(DATA / "office", tmp_path)
    boss = company.crew.roles["boss"]
    assert (boss.trigger.kinds, boss.gives) == ((company.RunItOutput,), (company.ApproveOutput,))


def test_a_role_that_nobody_feeds_is_drafted_and_no_part_of_the_crew(tmp_path: Path) -> None:
    company = drafted(DATA / "office", tmp_path)
    assert callable(company.analyst)
    assert list(company.crew.roles) == ["planner", "writer", "clerk", "boss"]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ('"Greet `me`: {n}".format(n=name)', "Greet `me`: `n`"),
        ('f"Greet {name}" + " twice"', "Greet `name` twice"),
        ('f"Greet {self.profile}"', "Greet `profile`"),
        ('"a\\\\b \\"\\"\\" \\\\\\"\\"\\""', 'a\\b """ \\"""'),
        ("'ends in \"'", 'ends in "'),
        ('"lone \\ud800 half, \\x00 and \\x1b"', "lone   half,   and  "),
        ('"{name[0]} {0} {list}".format(name, list=name)', "`name` `value` `list`"),
        ('"{".format(name)', "{"),
        ("name", "`name`"),
    ],
)
def test_the_instruction_is_the_prompt_whatever_is_in_it(tmp_path: Path, prompt: str, said: str) -> None:
    company = drafted(written(tmp_path, prompt), tmp_path)
    assert instruction(company, "greet").removeprefix("You are Host.\n\n") == said.strip()


@pytest.mark.parametrize("name", ["print", "class", "crew", "slot", "start", "message", "text", "Any"])
async def test_a_name_that_the_draft_or_python_needs_is_no_trouble(tmp_path: Path, name: str) -> None:
    source = ROLE.format(prompt=f"f'Greet {{{'name'}}}'", profile="'Host'")
    path = tmp_path / "names.py"
    path.write_text(source.replace("Greeter", name.title()).replace("Greet", "Do" + name.title()))
    company = drafted(path, tmp_path)
    with scripted({f"company.do_{name.lower()}": "hello"}):
        assert (await company.start("Ada"))[1].text == "hello"


@pytest.mark.parametrize(
    ("expected", "type_"),
    [
        ("List[Dict[str, List[int]]]", "list[dict[str, list[int]]]"),
        ("typing.Optional[str]", "str | None"),
        ("Union[int, None]", "int | None"),
        ("Tuple[int, ...]", "tuple[int, ...]"),
        ("'list'", "list[Any]"),
        ("Tuple[()]", "Any"),
        ("Dict[str]", "Any"),
        ("Literal['a', 1]", "Any"),
        ("Shape", "Any"),
    ],
)
def test_a_type_of_an_action_node_is_written_as_today_or_is_any(tmp_path: Path, expected: str, type_: str) -> None:
    path = written(tmp_path, "name")
    node = f"NODE = ActionNode(key='list', expected_type={expected}, instruction='x', example='')\n"
    path.write_text(path.read_text().replace("self._aask(name)", "NODE.fill(context=name, llm=self.llm)") + node)
    drafted(path, tmp_path)
    assert f"    list_2: {type_} = Field(" in (tmp_path / "company.py").read_text()


async def test_a_field_named_as_a_parameter_of_the_draft_is_no_trouble(tmp_path: Path) -> None:
    company = drafted(written(tmp_path, 'f"{self} {you} {name}"'), tmp_path)
    with scripted({"company.greet": "hello"}):
        assert (await company.start("Ada"))[1].text == "hello"


# -- what it does not ------------------------------------------------------------------------------


def test_what_is_not_translated_is_said_with_its_place_in_the_draft_and_as_json(hetero: Hetero, tmp_path: Path) -> None:
    done = hetero("init", "new", "--from-metagpt", str(DATA / "office"), "--json")
    assert done.code == 0
    gaps = done.json["not_translated"]
    assert [(gap["line"], gap["what"].split()[0]) for gap in gaps] == [
        (49, "the"),
        (50, "Approve"),
        (52, "assemble"),
        (82, "Clerk"),
        (96, "Analyst"),
        (96, "Analyst"),
        (103, "WriteDesign"),
        (106, "Idle"),
        (111, "ProductManager"),
    ]
    head = (tmp_path / "new" / "company.py").read_text().split('"""')[1]
    assert all(f"- {gap['file']}:{gap['line']}: {gap['what']}\n" in head for gap in gaps)


def test_code_of_a_role_s_own_is_said(hetero: Hetero) -> None:
    printed = hetero("init", "new", "--from-metagpt", str(DATA / "trio")).out
    assert "  team.py:30: Tester._act is code of its own and not translated. It reads the role's memory" in printed
    assert "3 roles, 3 slots, 2 things not translated.\n" in printed


@pytest.mark.parametrize("broken", [b"class Half(:\n", b"x = '\xff'\n", b"\x00", b"(" * 1000])
def test_a_file_that_does_not_parse_is_said_and_the_others_are_read(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "broken.py").write_bytes(broken)
    written(tmp_path, "name")
    project = read_project(tmp_path)
    assert [role.kind for role in project.roles] == ["Greeter"]
    assert [gap.what.split(" (")[0] for gap in project.gaps if gap.file == "broken.py"] == ["the file does not parse"]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "is no Python file and no folder with one; nothing was written."),
        (
            {"a.py": "class Role: ..."},
            "holds no class that derives from MetaGPT's Role or Action; nothing was written.",
        ),
        ({"a.py": "class Half(:"}, "MetaGPT's Role or Action (a.py:1: the file does not parse"),
        ({".venv/a.py": ROLE}, "is no Python file and no folder with one; nothing was written."),
    ],
)
def test_where_there_is_nothing_to_read_nothing_is_written(
    hetero: Hetero, tmp_path: Path, files: dict[str, str], sentence: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, text in files.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    assert sentence in hetero("init", "new", "--from-metagpt", "source").sentence
    assert not (tmp_path / "new").exists()


def test_the_source_is_neither_run_nor_changed(tmp_path: Path) -> None:
    path = written(tmp_path, "name")
    text = path.read_text() + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit('it ran')\n"
    path.write_text(text)
    assert [role.kind for role in read_project(path).roles] == ["Greeter"]
    assert path.read_text() == text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["hetero.toml", "company.py"])
def test_a_draft_overwrites_nothing(hetero: Hetero, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert "is already there" in hetero("init", "--from-metagpt", str(DATA / "trio")).sentence
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_a_prompt_that_refers_to_itself_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, "a")
    path.write_text(
        path.read_text().replace("        return", "        a = b + ''\n        b = a + ''\n        return")
    )
    (gap, *_) = read_project(path).gaps
    assert gap.what == "Greet refers to itself; it was not read."


def test_a_draft_is_a_workspace(hetero: Hetero, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "company", sys)  # so that its end takes the module away again
    monkeypatch.delitem(sys.modules, "company")
    assert hetero("init", "--from-metagpt", str(DATA / "trio")).code == 0
    listed = hetero("slots", "--json").json
    # Other test files' slots are declared in this process too.
    assert [entry["slot"] for entry in listed if entry["slot"].startswith("company.")] == [
        "company.write_function",
        "company.write_tests",
        "company.review_tests",
    ]
