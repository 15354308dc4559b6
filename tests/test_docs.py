"""README and docs say what is true: their code runs, their files parse, their names and links exist.

A block runs as a file named by its `title=`, so that its slots have the ids that the text speaks of; slots are
answered by `ANSWERS`, so no model and no network is needed. `make docs` writes the outputs that blocks show.
"""

import json
import re
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pytest_examples import CodeExample, EvalExample, find_examples

from hetero_agents.bindings import Config, ModelConfig, SlotConfig, Specialist, TierConfig
from hetero_agents.bindings.config import AppConfig, PrivacyConfig, SelectionConfig, VaultConfig
from hetero_agents.cli.program import app, program
from hetero_agents.distill import Recipe
from hetero_agents.distill.curate import SHARES
from hetero_agents.engines.replay import AnswerKey
from hetero_agents.slots import registry
from hetero_agents.spans import Names
from hetero_agents.testing import scripted

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)


def _intent(message: str) -> str:
    return "delivery" if "Where" in message else "refund" if "back" in message else "other"


def _order(message: str) -> dict[str, Any]:
    number = re.search(r"[A-Z]-\d+", message)
    return {"number": number.group() if number else "A-0", "item": "lamp"}


def _where(word: str, there: Any, otherwise: Any) -> Callable[[str], Any]:
    """Answer by whether something stands in the prompt."""
    return lambda prompt: there if word in prompt else otherwise


ANSWERS: dict[str, Any] = {
    "desk": {"text": "Your lamp is on its way."},
    "desk.classify": _intent,
    "desk.extract": _order,
    "desk.choose": "track",
    "desk.fill": {"number": "A-17"},
    "desk.route": None,
    "desk.look_up": "It is on its way.",
    "desk.reply": "It is on its way.",
    "faq.answer": "Within 30 days.",
    "desk.plan_files": ["todo.py", "store.py"],
    "desk.write": "pass",
    "team.write_function": "def add(a, b): ...",
    "team.write_tests": _where("missing: zero", "def test_add(): ...  # zero", "def test_add(): ..."),
    "team.review_tests": _where("zero", None, "zero"),
    "team.write_brief": {"priority": "low", "goals": ["be quick"]},
    "team.next_step": _where("found", "write", "search"),
    "team.write_article": "It rains in spring.",
    "press.collect": ["it is wet"],
    "press.write": "Rain is wet.",
    "press.write_line": _where("wrong: dull", "Rain, at last, falls.", "Rain falls."),
    "press.criticise": _where("at last", None, "dull"),
}
"""What answers the slots of all examples, by slot or agent."""


@dataclass
class Titled(CodeExample):
    """An example that runs as the file that its title names."""

    @property
    def module_name(self) -> str:
        """Return the title's stem, else a name from the place in the page."""
        return self.prefix_settings().get("title", super().module_name).removesuffix(".py")


def _titled(example: CodeExample) -> Titled:
    return Titled(**{field.name: getattr(example, field.name) for field in fields(CodeExample)})


@dataclass(frozen=True)
class Block:
    """One fenced block of a page that is not Python."""

    page: Path
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        """Return the page's name and the block's."""
        return f"{self.page.name}-{self.title or self.language}"


def _fences(page: Path) -> list[Block]:
    found = re.findall(r"^```(\w*)([^\n]*)\n(.*?)^```$", page.read_text("utf-8"), flags=re.M | re.S)
    titles = [re.search(r'title="([^"]+)"', rest) for _, rest, _ in found]
    return [
        Block(page, language, title.group(1) if title else "", text)
        for (language, _, text), title in zip(found, titles, strict=True)
    ]


EXAMPLES = [_titled(example) for page in PAGES for example in find_examples(page)]
FENCES = [block for page in PAGES for block in _fences(page)]


def _code_in(text: str) -> str:
    """Return what stands in backticks and fences."""
    return "\n".join(re.findall(r"^```.*?^```$|`[^`\n]+`", text, flags=re.M | re.S))


# -- code ------------------------------------------------------------------------------------------


Run = Callable[[Titled, bool], str | None]


@pytest.fixture
def run(eval_example: EvalExample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Lint and run an example; its outputs are compared, or written into the page, and returned; None where it is only linted."""
    eval_example.set_config(
        line_length=120, target_version="py310", quotes="double", ruff_ignore=["D", "RUF001", "RUF002", "RUF003"]
    )

    printed: list[str] = []

    def note(text: str) -> str:
        printed.append(text)
        return text

    def run(example: Titled, update: bool) -> str | None:
        eval_example.lint_ruff(example)
        eval_example.lint_black(example)
        if example.prefix_settings().get("test") == "skip":
            return None
        eval_example.print_callback = note
        monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the example takes its place
        monkeypatch.chdir(tmp_path)
        registry.slots.clear()
        registry.code_agents.clear()
        with scripted(ANSWERS):
            if update:
                eval_example.run_print_update(example, rewrite_assertions=False)
            else:
                eval_example.run_print_check(example, rewrite_assertions=False)
        return " ".join(printed)

    return run


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_runs_and_prints_what_it_shows(example: Titled, run: Run, eval_example: EvalExample) -> None:
    printed = run(example, eval_example.update_examples)
    # What is shown beside a print that was never reached would not be compared.
    shown = re.findall(r"^ *#> (.*)$", example.source, flags=re.M)
    assert printed is None or not [line for line in shown if line not in printed]


def test_few_examples_are_skipped() -> None:
    skipped = [example for example in EXAMPLES if example.prefix_settings().get("test") == "skip"]
    assert len(EXAMPLES) >= 15
    assert len(skipped) <= 2, [str(example) for example in skipped]


@pytest.mark.parametrize(
    ("source", "failure"),
    [
        ("print(1 + 1)\n#> 3\n", pytest.fail.Exception),
        ('raise ValueError("no")\n', ValueError),
        ("import os\n", pytest.fail.Exception),
    ],
    ids=["another output", "an error", "an unused import"],
)
def test_an_example_that_is_wrong_fails(source: str, failure: type[BaseException], run: Run) -> None:
    with pytest.raises(failure):
        run(_titled(CodeExample.create(source, prefix="python")), False)


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [b for b in FENCES if b.language == "toml"], ids=str)
def test_a_toml_block_parses_and_a_hetero_toml_is_one(block: Block, tmp_path: Path) -> None:
    tomllib.loads(block.text)
    assert block.title, "a toml block says which file it is"
    if block.title == "hetero.toml":
        (tmp_path / "hetero.toml").write_text(block.text)
        assert Config.load(tmp_path / "hetero.toml").models


@pytest.mark.parametrize("block", [b for b in FENCES if b.title == "answers.jsonl"], ids=str)
def test_an_answer_key_in_the_docs_is_one(block: Block, tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text(block.text)
    key = AnswerKey(tmp_path / "answers.jsonl")
    entry = json.loads(next(line for line in block.text.splitlines() if '"after": null' in line))
    asked = {"messages": [{"role": "user", "content": entry["prompt"]}]}
    assert key.answer(entry["slot"], asked) is not None
    assert key.answer(entry["slot"], {"messages": [{"role": "user", "content": "something else"}]}) is None


# -- names -----------------------------------------------------------------------------------------

COMMANDS: dict[str, Any] = vars(program)["commands"]


def test_the_docs_of_the_command_line_have_each_command_and_no_other() -> None:
    headings = re.findall(r"^## `hetero (\w+)", (ROOT / "docs" / "cli.md").read_text("utf-8"), flags=re.M)
    groups = [group.name for group in app.registered_groups]
    assert [name for name in headings if name not in groups] == [name for name in COMMANDS if name not in groups]
    assert sorted(headings) == sorted(COMMANDS)
    assert len(app.registered_commands) + len(groups) == len(headings)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_docs_of_a_command_have_each_option_and_no_other(command: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    section = text.split(f"## `hetero {command}", 1)[1].split("\n## ", 1)[0]
    shown = set(re.findall(r"^\| `(-[\w-]+)", section, flags=re.M))
    subcommands: dict[str, Any] = getattr(COMMANDS[command], "commands", {})
    commands: list[Any] = [COMMANDS[command], *subcommands.values()]
    exist = {p.opts[0] for part in commands for p in part.params if p.param_type_name == "option"}
    assert shown == exist - {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"(?:^|[`$(])\s*hetero ([a-z]+)", _code_in(page.read_text("utf-8")), flags=re.M)
    assert set(named) <= set(COMMANDS)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("bindings.md", [*AppConfig.model_fields, *ModelConfig.model_fields, *TierConfig.model_fields]),
        ("bindings.md", list(SlotConfig.model_fields)),
        ("bindings.md", [*PrivacyConfig.model_fields, *VaultConfig.model_fields]),
        ("distill.md", [field.name for field in fields(Recipe)]),
        ("distill.md", list(Specialist.model_fields)),
        ("distill.md", list(SHARES)),
        ("spans.md", [value for key, value in vars(Names).items() if key.isupper()]),
    ],
    ids=["hetero.toml", "[slots]", "[privacy], [vault]", "recipe", "specialist", "parts", "attributes"],
)
def test_a_table_in_the_docs_is_complete(page: str, names: list[str]) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_docs_of_a_form_name_no_key_that_does_not_exist() -> None:
    text = (ROOT / "docs" / "bindings.md").read_text("utf-8")
    forms: dict[str, type[BaseModel]] = {
        "[app]": AppConfig,
        "[models]": ModelConfig,
        "[tiers]": TierConfig,
        '[slots."ID"]': SlotConfig,
        "[selection]": SelectionConfig,
        "[privacy]": PrivacyConfig,
        "[vault]": VaultConfig,
    }
    for heading, form in forms.items():
        section = text.split(f"### `{heading}`", 1)[1].split("\n#", 1)[0]
        assert set(re.findall(r"^\| `(\w+)` ", section, flags=re.M)) == set(form.model_fields), heading


def _links(page: Path) -> list[str]:
    plain = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", plain) if "://" not in link]


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), flags=re.M)
    slug: Callable[[str], str] = lambda head: re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")  # noqa: E731
    return {slug(head) for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_relative_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in _links(page):
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_the_readme_leads_to_each_page_of_the_docs() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in _links(ROOT / "README.md")}
    assert {page.resolve() for page in (ROOT / "docs").glob("*.md")} - linked == set()
