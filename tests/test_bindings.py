"""hetero.toml: found upwards, every mistake one sentence; what fills a slot."""

from pathlib import Path

import pytest

from hetero_agents import ConfigError, UnknownNameError
from hetero_agents.bindings import Config, Workspace
from hetero_agents.contract import Sha256, SlotId
from hetero_agents.slots import App

from .support import TOML, lock_entry, write_workspace

CONTRACT, OTHER = Sha256("a" * 64), Sha256("b" * 64)


def complaint(folder: Path, toml: str) -> str:
    """Return the one sentence that a hetero.toml is refused with, without the file's path."""
    path = write_workspace(folder, toml) / "hetero.toml"
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    sentence = str(caught.value)
    assert sentence.startswith(str(path))
    assert "\n" not in sentence
    return sentence.removeprefix(str(path))


# -- the file --------------------------------------------------------------------------------------


def test_the_workspace_is_found_upwards(tmp_path: Path) -> None:
    deep = write_workspace(tmp_path / "desk") / "a" / "b"
    deep.mkdir(parents=True)
    assert Workspace.find(deep).root == (tmp_path / "desk").resolve()


def test_the_nearest_workspace_is_taken(tmp_path: Path) -> None:
    write_workspace(tmp_path)
    inner = write_workspace(tmp_path / "inner")
    assert Workspace.find(inner).root == inner.resolve()


def test_the_working_directory_is_where_the_search_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_workspace(tmp_path))
    assert Workspace.find().root == tmp_path.resolve()


def test_a_missing_file_is_one_sentence_that_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no hetero\.toml in .* or above it; `hetero init` writes one"):
        Workspace.find(tmp_path)


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("[app]\nmodule = []\n", ": the key 'app.module' does not exist, did you mean 'modules'."),
        ('[model]\nbig = "x"\n', ": the key 'model' does not exist, did you mean 'models'."),
        (
            '[models]\nbig = { model = "x", train_on_output = true }\n',
            ": the key 'models.big.train_on_output' does not exist, did you mean 'train_on_outputs'.",
        ),
        ('[slots."a.b"]\ntimeoutt = 1\n', ": the key 'slots.a.b.timeoutt' does not exist, did you mean 'timeout'."),
        (
            "[selection]\nlicense = []\n",
            ": the key 'selection.license' does not exist, did you mean 'licences'.",
        ),
        (
            '[models]\nbig = { model = "x", price = { inptu = 3 } }\n',
            ": the key 'models.big.price.inptu' does not exist, did you mean 'input'.",
        ),
        (
            "[slots.desk.classify]\nerror_budget = 0.1\n",
            ': a slot\'s id stands in quotes: write [slots."desk.classify"].',
        ),
        (
            '[slots."a.b".privacy]\ncontent = "raw"\n',
            ": the key 'slots.a.b.privacy' does not exist (there is",
        ),
        ('[tiers]\nmedium = { model = "x" }\n', ": there is no tier 'medium'; the tiers are llm and slm."),
        ('[slots."a.b"]\ncost = 0.5\n', ": 'slots.a.b' is wrong: cost goes with error_budget."),
        (
            '[slots."a.b"]\nerror_budget = 0.1\ntimeout = 1\np95_seconds = 1\n',
            ": 'slots.a.b' is wrong: p95_seconds is less than timeout, which ends what takes longer.",
        ),
        ('[slots."a.b"]\ntimeout = 0\n', ": 'slots.a.b.timeout' is wrong: input should be greater than 0 (it is 0)."),
        ("[models]\nbig = 3\n", ": 'models.big' is wrong: input should be a valid dictionary or instance of "),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(tmp_path: Path, toml: str, sentence: str) -> None:
    assert complaint(tmp_path, toml).startswith(sentence)


def test_broken_toml_is_one_sentence_with_its_line(tmp_path: Path) -> None:
    assert complaint(tmp_path, "[app\n").startswith(" is not TOML: ")
    assert "line 1" in complaint(tmp_path, "[app\n")


def test_bytes_that_are_no_text_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "hetero.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        Config.load(path)


def test_a_tier_that_names_an_unknown_model_says_which_was_meant(tmp_path: Path) -> None:
    toml = '[models]\nbig = "x"\n[tiers]\nllm = { model = "bug" }\n'
    assert complaint(tmp_path, toml) == (
        ": [tiers] llm names the model 'bug', which [models] does not have, did you mean 'big'."
    )


@pytest.mark.parametrize("entry", ['model = "bug"', 'fallback = ["bug"]', 'compare = "judge"\njudge = "bug"'])
def test_a_slot_that_names_an_unknown_model_says_which_was_meant(tmp_path: Path, entry: str) -> None:
    sentence = complaint(tmp_path, f'[models]\nbig = "x"\n[slots."a.b"]\n{entry}\n')
    assert sentence.startswith(": [slots.\"a.b\"] names the model 'bug'")


def test_a_broken_file_is_said_when_the_app_opens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not TOML"):
        App.of(Workspace(write_workspace(tmp_path, "[app\n")))


def test_a_changed_file_is_read_again(workspace: Workspace) -> None:
    assert workspace.binding("a.b", "llm", None).models[0][0] == "big"
    write_workspace(workspace.root, f'{TOML}[slots."a.b"]\nmodel = "small"\n')
    assert workspace.binding("a.b", "llm", None).models[0][0] == "small"


def test_the_state_folder_is_the_owners_alone_and_ignored_by_git(workspace: Workspace) -> None:
    folder = workspace.ensure_state_dir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / ".gitignore").read_text() == "*\n"


# -- what fills a slot -----------------------------------------------------------------------------


def names(workspace: Workspace, slot: str, tier: str = "slm") -> list[str]:
    binding = workspace.binding(slot, "slm" if tier == "slm" else "llm", CONTRACT)
    return [name for name, _ in binding.models]


def test_a_slot_falls_back_on_its_tier(workspace: Workspace) -> None:
    assert (names(workspace, "a.b", "llm"), names(workspace, "a.b", "slm")) == (["big"], ["small", "big"])


def test_a_slots_own_model_comes_before_its_tiers(tmp_path: Path) -> None:
    toml = f'{TOML}[slots."a.b"]\nmodel = "big"\nfallback = ["small"]\n'
    assert names(Workspace(write_workspace(tmp_path, toml)), "a.b") == ["big", "small"]


def test_an_empty_fallback_means_none(tmp_path: Path) -> None:
    assert names(Workspace(write_workspace(tmp_path, f'{TOML}[slots."a.b"]\nfallback = []\n')), "a.b") == ["small"]


def test_a_model_stands_in_a_chain_once(tmp_path: Path) -> None:
    toml = f'{TOML}[slots."a.b"]\nmodel = "big"\n'
    assert names(Workspace(write_workspace(tmp_path, toml)), "a.b") == ["big"]


def test_a_slot_that_nothing_fills_is_one_sentence_that_says_where_to_write(tmp_path: Path) -> None:
    workspace = Workspace(write_workspace(tmp_path, '[models]\nbig = "x"\n'))
    with pytest.raises(ConfigError, match=r"Nothing fills slot 'a\.b': give \[tiers\] an entry llm"):
        workspace.binding("a.b", "llm", None)


def test_an_unknown_model_says_which_was_meant(workspace: Workspace) -> None:
    with pytest.raises(UnknownNameError, match="There is no model 'smal', did you mean 'small'"):
        workspace.model("smal")


def test_an_active_specialist_comes_first(workspace: Workspace) -> None:
    slot = SlotId("a.b")
    name = workspace.lock.next_id(slot)
    workspace.add_specialist(name, lock_entry(slot, CONTRACT))
    assert workspace.binding(slot, "slm", CONTRACT).specialist_id is None
    workspace.activate(slot, name)
    binding = workspace.binding(slot, "slm", CONTRACT)
    assert (binding.specialist_id, binding.specialist) == (name, lock_entry(slot, CONTRACT))


def test_a_specialist_of_another_contract_is_not_bound_warns_once_and_says_why(workspace: Workspace) -> None:
    slot = SlotId("a.b")
    name = workspace.lock.next_id(slot)
    workspace.add_specialist(name, lock_entry(slot, OTHER))
    workspace.activate(slot, name)
    with pytest.warns(UserWarning, match=r"a\.b@1 is not used: the contract of 'a\.b' has changed since") as warned:
        first, second = (workspace.binding(slot, "slm", CONTRACT) for _ in range(2))
    assert len(warned) == 1
    assert first == second
    assert (first.specialist_id, first.specialist) == (None, None)
    assert first.refused == "the contract of 'a.b' has changed since a.b@1 was trained"


def test_an_agents_own_model_has_no_specialist(workspace: Workspace) -> None:
    slot = SlotId("desk")
    name = workspace.lock.next_id(slot)
    workspace.add_specialist(name, lock_entry(slot, CONTRACT))
    workspace.activate(slot, name)
    assert workspace.binding(slot, "llm", None).specialist_id is None
