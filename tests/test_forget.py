"""Forgetting a person, and how long spans are kept."""

import asyncio
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hetero_agents import slot, subject
from hetero_agents.bindings import SpecialistId, Workspace
from hetero_agents.bindings.lock import update_lock
from hetero_agents.contract import Sha256, SlotId
from hetero_agents.distill.curate import Dataset, Example
from hetero_agents.distill.forget import MARK, forget, nothing_distilled, traces_of
from hetero_agents.distill.lineage import keep_dataset, stored_datasets
from hetero_agents.distill.loop import alone_with_data
from hetero_agents.errors import DistillError, KeyAccessError, UserError
from hetero_agents.routing import AnswerCache, Kept
from hetero_agents.slots import App, registry
from hetero_agents.spans import Feedback, Keep, Names, SealedVault, SpanRecord, calls_of
from hetero_agents.spans.keys import KeyInMemory, Opener, Reader, public_text
from hetero_agents.spans.segments import SUFFIX
from hetero_agents.spans.subjects import SUFFIX as SUBJECT_SUFFIX
from hetero_agents.spans.subjects import person_of
from hetero_agents.testing import MemoryVault

from .support import TOML, FakeEngines, Hetero, answers, call_span, in_processes, lock_entry, write_workspace


def of(person: str, trace: str, number: int = 1) -> SpanRecord:
    return call_span(trace, number, subject=person, input=json.dumps({"text": f"I am {person}"}))


def told(vault: SealedVault) -> dict[str, str | None]:
    """What a reader gets of each span's content."""
    return {span["span_id"]: span["attributes"].get(Names.INPUT) for span in vault.read()}


def again(vault: SealedVault) -> SealedVault:
    """The vault as another process opens it."""
    return SealedVault(vault.folder)


@pytest.fixture
def vault(tmp_path: Path) -> SealedVault:
    vault = SealedVault(tmp_path / "vault")
    vault.write([of("ann", "a"), of("bob", "b"), call_span("c", 1)])
    return vault


# -- the keys --------------------------------------------------------------------------------------


def test_a_forgotten_persons_content_is_gone_and_everything_else_is_there(vault: SealedVault) -> None:
    assert vault.forget("ann")
    for reader in (vault, again(vault)):
        assert told(reader) == {"a01": None, "b01": '{"text": "I am bob"}', "c01": '{"text": "é"}'}
        (ann, *_) = reader.read()
        assert ann["attributes"][Names.SLOT] == "desk.classify" and ann.get("forgotten")
        assert [call.trace_id for call in calls_of(reader, "desk.classify")] == ["b", "c"]
        assert (reader.spans_of("ann"), reader.spans_of("bob")) == ([], [("b", "b01")])
    assert not vault.forget("ann") and not vault.forget("nobody")


def test_the_key_file_alone_opens_it(vault: SealedVault, tmp_path: Path) -> None:
    """What a backup means: the vault without the person's key file is closed, with it it is open."""
    backup = tmp_path / "backup"
    shutil.copytree(vault.folder, backup)
    vault.forget("ann")
    shutil.copytree(vault.folder, tmp_path / "old", ignore=shutil.ignore_patterns(f"*{SUBJECT_SUFFIX}"))
    assert told(SealedVault(tmp_path / "old")) == {"a01": None, "b01": None, "c01": '{"text": "é"}'}
    assert told(SealedVault(backup))["a01"] == '{"text": "I am ann"}'


@pytest.mark.parametrize(("said", "person"), [(1, "1"), (0, "0"), ("ann", "ann"), ("", None), (True, None)])
def test_a_user_id_may_be_a_number(said: Any, person: str | None) -> None:
    span = call_span("a", 1)
    span["attributes"]["user.id"] = said
    assert person_of(span) == person


def test_no_file_names_a_person(vault: SealedVault) -> None:
    for path in vault.folder.rglob("*"):
        assert "ann" not in path.name
        assert not path.is_file() or b"I am" not in path.read_bytes()


def test_what_comes_after_is_sealed_to_a_new_key(vault: SealedVault) -> None:
    other = again(vault)
    other.write([of("ann", "d")])  # it knows the key that is then destroyed
    vault.forget("ann")
    other.write([of("ann", "e")])
    vault.write([of("ann", "f")])
    assert told(vault) == told(other)
    assert {name for name, text in told(vault).items() if text} == {"b01", "c01", "e01", "f01"}


def test_feedback_of_a_forgotten_person_has_no_answer_any_more(vault: SealedVault) -> None:
    vault.say(Feedback("a", "a01", None, "her answer", True, time.time_ns(), "ann"))
    vault.say(Feedback("a", None, 0.0, None, False, time.time_ns(), "ann"))
    assert [said.answer for said in vault.feedback(["a"])] == ["her answer", None]
    vault.forget("ann")
    assert [(said.answer, said.has_answer, said.score) for said in again(vault).feedback(["a"])] == [
        (None, False, None),
        (None, False, 0.0),
    ]


def write_of_ann(folder: str, trace: str) -> None:
    vault = SealedVault(Path(folder))
    for number in range(20):
        vault.write([of("ann", trace, number)])


def test_processes_that_write_at_once_share_a_persons_key(tmp_path: Path) -> None:
    vault = SealedVault(tmp_path / "vault")
    vault.made_keyring()
    in_processes(write_of_ann, (str(vault.folder), "a"), (str(vault.folder), "b"))
    assert len(list((vault.folder / "subjects").glob(f"*{SUBJECT_SUFFIX}"))) == 1
    assert list(told(vault).values()) == ['{"text": "I am ann"}'] * 40


def opened_as(vault: SealedVault, name: str, key: X25519PrivateKey) -> SealedVault:
    reader = again(vault)
    keyring = reader.keyring()
    assert keyring is not None
    reader._opener = Opener(keyring, name, KeyInMemory(key))  # pyright: ignore[reportPrivateUsage]
    return reader


def test_a_removed_reader_opens_nothing_new_of_a_known_person(vault: SealedVault) -> None:
    key = X25519PrivateKey.generate()
    reader = Reader(role="curator", public=public_text(key.public_key()))
    vault.change_keyring(lambda keyring: keyring.with_reader("eve", reader, vault.opener()))
    kept = opened_as(vault, "eve", key).keyring()
    assert kept is not None
    vault.change_keyring(lambda keyring: keyring.without_reader("eve"))
    vault.write([of("ann", "d")])
    assert told(vault)["d01"] == '{"text": "I am ann"}'
    eve = again(vault)
    eve._keyring = (eve.keyring_path.stat().st_mtime_ns, kept)  # pyright: ignore[reportPrivateUsage]
    eve._opener = Opener(kept, "eve", KeyInMemory(key))  # pyright: ignore[reportPrivateUsage]
    seen: dict[str, str | None] = {}
    for trace in ("a", "d"):  # the second is of an epoch that her keyring does not have
        seen |= {span["span_id"]: span["attributes"].get(Names.INPUT) for span in eve.read(traces=[trace])}
    assert seen == {"a01": '{"text": "I am ann"}'}


def test_an_operator_cannot_tell_one_person_from_another(vault: SealedVault) -> None:
    key = X25519PrivateKey.generate()
    reader = Reader(role="operator", public=public_text(key.public_key()))
    vault.change_keyring(lambda keyring: keyring.with_reader("olga", reader, vault.opener()))
    operator = opened_as(vault, "olga", key)
    assert set(told(operator).values()) == {None}
    with pytest.raises(KeyAccessError, match="cannot open content"):
        operator.spans_of("ann")
    opened = [operator._parts(entry) for entry in operator._scan()]  # pyright: ignore[reportPrivateUsage]
    subjects = [parts[0].get("subject") for parts in opened if parts]
    assert subjects[0] == subjects[1] != subjects[2], "that there is a person, and not which"


def test_a_redacted_run_is_forgotten_by_the_persons_own_name(tmp_path: Path) -> None:
    @slot(name="forget.who")
    async def who(message: str) -> str: ...

    app = App.of(Workspace(write_workspace(tmp_path, TOML.replace('content = "raw"', ""))))
    app.engines = FakeEngines(tmp_path, models={"fake:big": answers("yes")})
    registry.use(app)
    with subject("ann@example.org"):
        asyncio.run(who("Is it here?"))
    app.tracing.flush()
    assert isinstance(app.vault, SealedVault)
    assert len(app.vault.spans_of("ann@example.org")) == 2, "the slot's span and the chat below it"
    assert [call.output for call in calls_of(app.vault, "forget.who")] == ["yes"]
    app.vault.forget("ann@example.org")
    assert not list(calls_of(app.vault, "forget.who"))
    app.close()


# -- data sets and specialists ---------------------------------------------------------------------


def example(trace: str) -> Example:
    person = {"a": "ann", "b": "bob"}[trace]
    return Example(Sha256(f"{trace:0>64}"), {"text": trace}, "a", "big", False, trace, f"{trace}01", person)


def dataset_in(workspace: Workspace, name: str, *traces: str) -> Dataset:
    folder = workspace.state_dir / "distill" / "desk.classify" / name
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter.gguf").write_text("weights")
    (folder / "predictions.jsonl").write_text("predictions")
    dataset = Dataset({"train": [example(t) for t in traces], "select": [], "certify": [], "test": []}, "key", {"x": 1})
    (folder / "dataset.json").write_text(dataset.to_json())
    assert Dataset.from_json(dataset.to_json()) == dataset
    return dataset


@pytest.fixture
def trained(vault: SealedVault, tmp_path: Path) -> Workspace:
    """`desk.classify@1` of bob, then `@2` of ann and bob, then `@3` of an unknown data set; the second is active."""
    workspace = Workspace(write_workspace(tmp_path))
    vault.folder.rename(workspace.ensure_state_dir() / "vault")
    sets = [dataset_in(workspace, "1", "b"), dataset_in(workspace, "2", "a", "b")]
    for number, sha256 in enumerate([*(data.sha256 for data in sets), Sha256("9" * 64)], 1):
        entry = lock_entry("desk.classify").model_copy(update={"dataset_sha256": sha256})
        workspace.add_specialist(SpecialistId(f"desk.classify@{number}"), entry)
    for number in (1, 2):
        workspace.activate(SlotId("desk.classify"), SpecialistId(f"desk.classify@{number}"))
    return workspace


def test_forgetting_takes_data_sets_and_specialists_along(trained: Workspace) -> None:
    vault = SealedVault(trained.state_dir / "vault")
    found = traces_of(trained, vault, "ann")
    folder = trained.state_dir / "distill" / "desk.classify" / "2"
    assert (found.spans, found.datasets) == ([("a", "a01")], [folder])
    assert (found.specialists, found.untold) == (["desk.classify@2"], ["desk.classify@3"])
    assert forget(trained, vault, "ann", found) == ["desk.classify@2"]
    assert [path.name for path in folder.iterdir()] == [MARK]
    assert trained.lock.slots[SlotId("desk.classify")].active == "desk.classify@1"
    assert "forgotten" in (trained.lock.specialists[SpecialistId("desk.classify@2")].withdrawn or "")
    after = traces_of(trained, vault, "ann")
    assert (after.known, after.datasets, after.specialists, after.untold) == (False, [], [], ["desk.classify@3"])
    assert told(vault)["a01"] is None


def test_what_a_folders_data_set_was_before_is_forgotten_with_it(trained: Workspace) -> None:
    """The test part of ann's training changed since: her calls, and answers to them, are in the folder still."""
    folder = trained.state_dir / "distill" / "desk.classify" / "2"
    first = Dataset.from_json((folder / "dataset.json").read_text())
    second = Dataset({**first.parts, "train": [example("b")]}, "key", {"x": 1})
    keep_dataset(folder, second)
    keep_dataset(folder, second)
    assert {data.sha256 for path, data in stored_datasets(trained) if path.parent == folder} == {
        first.sha256,
        second.sha256,
    }
    entry = trained.lock.specialists[SpecialistId("desk.classify@2")]
    later = SpecialistId("desk.classify@4")
    trained.add_specialist(later, entry.model_copy(update={"dataset_sha256": second.sha256}))
    vault = SealedVault(trained.state_dir / "vault")
    found = traces_of(trained, vault, "ann")
    assert (found.datasets, found.specialists) == ([folder], ["desk.classify@2"])
    forget(trained, vault, "ann", found)
    assert [path.name for path in folder.iterdir()] == [MARK]
    assert traces_of(trained, vault, "ann").untold == ["desk.classify@3"], (
        "of both data sets it is known what they held"
    )


def test_a_matchers_file_which_holds_answers_goes_with_it(trained: Workspace) -> None:
    name, vault = SpecialistId("desk.classify@2"), SealedVault(trained.state_dir / "vault")
    entry = trained.lock.specialists[name].model_copy(update={"matcher": True})
    lock = trained.lock
    update_lock(trained.lock_path, lambda _: lock.model_copy(update={"specialists": {**lock.specialists, name: entry}}))
    file = trained.root / entry.served
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    found = traces_of(trained, vault, "ann")
    forget(trained, vault, "ann", found)
    assert (name in found.specialists, file.exists()) == (True, False)


def test_lineage_goes_from_a_specialist_back_to_its_spans(trained: Workspace, hetero: Hetero) -> None:
    trained.withdraw([SpecialistId("desk.classify@3")], "it leaked")
    known: dict[str, Any] = hetero("lineage", "desk.classify@2", "--json").json
    assert (known["route"], known["dataset"]) == ("active", ".hetero/distill/desk.classify/2/dataset.json")
    assert [(span["trace_id"], span["span_id"], span["part"]) for span in known["spans"]] == [
        ("a", "a01", "train"),
        ("b", "b01", "train"),
    ]
    assert known["base_sha256"] == "1" * 64 and known["recipe"] == {"epochs": 1.5}
    assert hetero("lineage", "desk.classify@1", "--json").json["route"] == "replaced"
    unknown = hetero("lineage", "desk.classify@3", "--json").json
    assert (unknown["route"], unknown["dataset"], unknown["spans"]) == ("withdrawn", None, [])
    drawn = hetero("lineage", "desk.classify@2").out
    assert "train: 2 calls of 2 runs, 0 corrected" in drawn and "a:a01" in drawn and "epochs=1.5" in drawn


def test_lineage_goes_from_spans_and_persons_to_what_was_made_from_them(trained: Workspace, hetero: Hetero) -> None:
    for asked in (("a",), ("a:a01",), ("--subject", "ann")):
        (use,) = hetero("lineage", *asked, "--json").json
        assert (use["slot"], use["specialists"], len(use["origins"])) == ("desk.classify", ["desk.classify@2"], 1)
    uses = hetero("lineage", "--subject", "bob", "--json").json
    assert [use["specialists"] for use in uses] == [["desk.classify@1"], ["desk.classify@2"]]
    assert "data set of desk.classify: 1 in train" in hetero("lineage", "b").out
    assert hetero("lineage", "a:b01", "--json").json == []
    assert "No data set that lies here" in hetero("lineage", "c").out


def test_lineage_of_nothing_or_of_two_things_is_a_sentence(trained: Workspace, hetero: Hetero) -> None:
    assert hetero("lineage").sentence.startswith("Name one thing")
    assert hetero("lineage", "a", "--subject", "ann").sentence.startswith("Name one thing")
    assert hetero("lineage", "desk.classify@9").sentence.startswith("There is no specialist 'desk.classify@9'")


def test_forgetting_empties_the_cache_of_answers(trained: Workspace, hetero: Hetero) -> None:
    path, kept = trained.state_dir / "cache.db", Kept("a secret", "m", "big", None, True, None)
    cache = AnswerCache(path, lambda: bytes(32))
    for person in ("ann", "eve"):
        cache.keep(kept, 60, "q")
        assert cache.find("q") == kept
        done = hetero("forget", "--subject", person, "--yes")
        assert cache.find("q") is None, done
    assert "the cache of answers, which may have held some, was emptied" in done.err, "nothing else was of eve"
    cache.close()


def test_a_withdrawn_specialist_is_never_served_although_it_is_active(trained: Workspace) -> None:
    slot_id, name = SlotId("desk.classify"), SpecialistId("desk.classify@2")
    trained.withdraw([name], "it was trained on data that was forgotten")
    trained.activate(slot_id, name)  # an older program, or somebody's hand
    with pytest.warns(UserWarning, match="is not used: it was trained on data that was forgotten"):
        binding = trained.binding(slot_id, "slm", Sha256("0" * 64))
    assert binding.specialist is None and binding.refused


def test_forget_on_the_command_line(trained: Workspace, hetero: Hetero) -> None:
    asked = hetero("forget", "--subject", "ann")
    assert asked.code == 2 and asked.err == "hetero: This cannot be undone: say --yes.\n"
    assert "1 spans of 1 runs lose their content" in asked.out and "desk.classify@2 was trained on it" in asked.out
    assert trained.lock.slots[SlotId("desk.classify")].active == "desk.classify@2", "nothing was done"
    done: dict[str, Any] = hetero("forget", "--subject", "ann", "--yes", "--json").json
    assert done["withdrawn"] == done["demoted"] == ["desk.classify@2"] and done["untold"] == ["desk.classify@3"]
    assert "may not be used any more" in hetero("promote", "desk.classify@2").sentence
    unsure = hetero("forget", "--subject", "eve")
    assert unsure.code == 2 and unsure.err.endswith("hetero: This cannot be undone: say --yes.\n"), (
        "a slip costs no run"
    )
    assert hetero("forget", "--subject", "eve", "--yes").err.startswith("hetero: There is no subject 'eve'")


def test_a_person_whose_spans_are_gone_already_is_found_in_data_sets(trained: Workspace, hetero: Hetero) -> None:
    for path in (trained.state_dir / "vault").glob(f"*{SUFFIX}"):
        path.unlink()
    done: dict[str, Any] = hetero("forget", "--subject", "ann", "--yes", "--json").json
    assert (done["spans"], done["withdrawn"]) == (0, ["desk.classify@2"])
    assert not SealedVault(trained.state_dir / "vault").knows("ann")


def test_nothing_is_done_where_runs_are_kept_in_a_database_of_the_users(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETERO_RUNS", "postgresql://nowhere/runs")
    vault = SealedVault(trained.state_dir / "vault")
    found, lock = traces_of(trained, vault, "ann"), trained.lock
    with pytest.raises(UserError, match="drop it, unset HETERO_RUNS"):
        forget(trained, vault, "ann", found)
    assert (trained.lock, traces_of(trained, vault, "ann")) == (lock, found)


def test_nothing_is_forgotten_while_a_slot_is_distilled_nor_distilled_meanwhile(
    trained: Workspace, hetero: Hetero
) -> None:
    @slot
    async def never_distilled(text: str) -> str: ...

    app = App.of(trained, MemoryVault())
    with alone_with_data(app, never_distilled):
        done = hetero("forget", "--subject", "ann", "--yes")
    assert done.code == 1 and "A slot is being distilled or relabelled; wait for it" in done.err
    assert SealedVault(trained.state_dir / "vault").knows("ann")
    refused = pytest.raises(DistillError, match="A person is being forgotten")
    with nothing_distilled(trained), refused, alone_with_data(app, never_distilled):
        pass


def test_specialists_may_be_kept(trained: Workspace, hetero: Hetero) -> None:
    done: dict[str, Any] = hetero("forget", "--subject", "ann", "--keep-specialists", "--yes", "--json").json
    assert (done["withdrawn"], done["kept"]) == ([], ["desk.classify@2"])
    assert trained.lock.slots[SlotId("desk.classify")].active == "desk.classify@2"


# -- how long spans are kept -----------------------------------------------------------------------


def written(folder: Path, trace: str, keep: Keep | None = None, *, text: str = "x") -> Path:
    """A file of one run, as a process that has ended left it."""
    before = set(folder.glob(f"*{SUFFIX}"))
    vault = SealedVault(folder, keep=keep)
    vault.write([call_span(trace, 1, input=json.dumps({"text": text}))])
    vault.close()
    (made,) = set(folder.glob(f"*{SUFFIX}")) - before
    return made


def test_files_go_when_their_days_are_over(tmp_path: Path) -> None:
    old, young = written(tmp_path, "a"), written(tmp_path, "b")
    os.utime(old, (0, time.time() - 8 * 86_400))
    os.utime(young, (0, time.time() - 6 * 86_400))
    written(tmp_path, "c", Keep(days=7))
    assert set(SealedVault(tmp_path).traces(9)) == {"b", "c"}
    assert not old.exists() and young.exists()


def test_the_oldest_files_go_while_there_is_too_much(tmp_path: Path) -> None:
    paths = [written(tmp_path, trace, text="x" * 40_000) for trace in "abc"]
    for number, path in enumerate(paths):
        os.utime(path, (0, time.time() - 100 + number))
    written(tmp_path, "d", Keep(megabytes=0.1))
    assert [path.exists() for path in paths] == [False, True, True]


def test_a_file_that_is_being_written_stays(tmp_path: Path) -> None:
    writing = SealedVault(tmp_path)
    writing.write([call_span("a", 1)])
    (path,) = tmp_path.glob(f"*{SUFFIX}")
    os.utime(path, (0, 0))
    written(tmp_path, "b", Keep(days=1))
    assert path.exists()
    writing.close()


def test_a_writer_begins_another_file_before_too_much_would_go_at_once(tmp_path: Path) -> None:
    vault = SealedVault(tmp_path, keep=Keep(megabytes=1))
    for number in range(40):
        vault.write([call_span("a", number, input=json.dumps({"text": "x" * 60_000}))])
    assert sum(path.stat().st_size for path in tmp_path.glob(f"*{SUFFIX}")) < 1.5e6
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) >= 5
    vault.close()


def test_reading_goes_on_while_files_go(tmp_path: Path) -> None:
    old = written(tmp_path, "a")
    written(tmp_path, "b")
    vault = SealedVault(tmp_path)
    reading = vault.read()
    old.unlink()
    assert [span["trace_id"] for span in reading] == ["b"]
    reading = SealedVault(tmp_path).read()
    assert next(reading)["trace_id"] == "b"
