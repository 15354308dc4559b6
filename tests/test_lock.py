"""hetero.lock: written atomically, by many processes at once, and put back in order."""

import errno
import json
import os
from pathlib import Path

import pytest

from hetero_agents import ConfigError, UnknownNameError
from hetero_agents.bindings import Lock, SlotLock, SpecialistId, Workspace
from hetero_agents.bindings.lock import update_lock, write_atomically
from hetero_agents.contract import SlotId

from .support import in_processes, lock_entry, write_workspace

SLOT = SlotId("desk.choose")


def add_many(root: str, slot: str, count: int) -> None:
    workspace = Workspace(Path(root))
    for version in range(1, count + 1):
        workspace.add_specialist(SpecialistId(f"{slot}@{version}"), lock_entry(slot))


def promote(root: str, specialist: str) -> None:
    Workspace(Path(root)).activate(SLOT, SpecialistId(specialist))


# -- reading ---------------------------------------------------------------------------------------


def test_a_missing_lock_is_empty(tmp_path: Path) -> None:
    assert Lock.load(tmp_path / "hetero.lock") == Lock()


@pytest.mark.parametrize("text", ["", "{", '{"version": 2}', '{"unknown": 1}', '{"slots": {"a": {"active": 3}}}'])
def test_a_broken_lock_is_one_sentence_that_says_where_to_get_it_back(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hetero.lock"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"is broken at .*; restore it from version control\.$") as caught:
        Lock.load(path)
    assert "\n" not in str(caught.value)


def test_an_active_specialist_that_is_not_in_the_lock_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "hetero.lock"
    path.write_text(json.dumps({"slots": {SLOT: {"active": f"{SLOT}@1"}}}))
    with pytest.raises(ConfigError, match=r"names 'desk\.choose@1' for 'desk\.choose' but does not hold it"):
        Lock.load(path)


def test_versions_count_from_one_and_past_nine() -> None:
    lock = Lock(specialists={SpecialistId(f"{SLOT}@{n}"): lock_entry(SLOT) for n in (10, 9, 2)})
    assert Lock().next_id(SLOT) == f"{SLOT}@1"
    assert lock.next_id(SLOT) == f"{SLOT}@11"
    assert list(lock.of_slot(SLOT)) == [f"{SLOT}@{n}" for n in (2, 9, 10)]


def test_versions_of_another_slot_do_not_count() -> None:
    other = SlotId("desk.choose2")
    assert Lock(specialists={SpecialistId(f"{other}@4"): lock_entry(other)}).next_id(SLOT) == f"{SLOT}@1"


# -- writing ---------------------------------------------------------------------------------------


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "hetero.lock"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, step, no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_change_that_raises_writes_nothing(tmp_path: Path) -> None:
    def change(lock: Lock) -> Lock:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        update_lock(tmp_path / "hetero.lock", change)
    assert not (tmp_path / "hetero.lock").exists()


def test_the_lock_is_text_for_version_control(tmp_path: Path) -> None:
    write_workspace(tmp_path)
    add_many(str(tmp_path), SLOT, 2)
    text = (tmp_path / "hetero.lock").read_text()
    assert text.endswith("}\n")
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_what_was_written_is_read_again(workspace: Workspace) -> None:
    add_many(str(workspace.root), SLOT, 1)
    assert Lock.load(workspace.lock_path).specialists == {SpecialistId(f"{SLOT}@1"): lock_entry(SLOT)}


def test_four_processes_that_write_at_once_lose_nothing(workspace: Workspace) -> None:
    slots = [f"desk.slot{n}" for n in range(4)]
    in_processes(add_many, *((str(workspace.root), slot, 5) for slot in slots))
    assert set(workspace.lock.specialists) == {f"{slot}@{n}" for slot in slots for n in range(1, 6)}


def test_a_promote_by_another_process_is_seen_at_the_next_binding(workspace: Workspace) -> None:
    add_many(str(workspace.root), SLOT, 2)
    contract = lock_entry(SLOT).contract_sha256

    def active() -> str | None:
        return workspace.binding(SLOT, "slm", contract).specialist_id

    seen = [active()]
    for version in (1, 2):
        in_processes(promote, (str(workspace.root), f"{SLOT}@{version}"))
        seen.append(active())
    assert seen == [None, f"{SLOT}@1", f"{SLOT}@2"]


# -- promote and rollback --------------------------------------------------------------------------


@pytest.fixture
def three(workspace: Workspace) -> Workspace:
    add_many(str(workspace.root), SLOT, 3)
    return workspace


def specialist(version: int) -> SpecialistId:
    return SpecialistId(f"{SLOT}@{version}")


def test_a_promotion_remembers_what_it_replaced(three: Workspace) -> None:
    three.activate(SLOT, specialist(1))
    assert three.activate(SLOT, specialist(2)) == SlotLock(active=specialist(2), replaced=[None, specialist(1)])


def test_promoting_what_is_active_changes_nothing(three: Workspace) -> None:
    first = three.activate(SLOT, specialist(1))
    assert three.activate(SLOT, specialist(1)) == first


def test_a_rollback_puts_back_one_step_at_a_time_down_to_the_file(three: Workspace) -> None:
    for version in (1, 2, 3):
        three.activate(SLOT, specialist(version))
    assert [three.restore(SLOT).active for _ in range(3)] == [specialist(2), specialist(1), None]


def test_a_rollback_with_nothing_to_put_back_is_one_sentence(three: Workspace) -> None:
    three.activate(SLOT, specialist(1))
    three.restore(SLOT)
    with pytest.raises(ConfigError, match="has no active specialist, so there is nothing to roll back"):
        three.restore(SLOT)


def test_a_promotion_after_a_rollback_begins_from_there(three: Workspace) -> None:
    three.activate(SLOT, specialist(1))
    three.activate(SLOT, specialist(2))
    three.restore(SLOT)
    assert three.activate(SLOT, specialist(3)).replaced == [None, specialist(1)]


def test_a_specialist_that_the_lock_does_not_hold_is_never_made_active(three: Workspace) -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        three.activate(SLOT, specialist(4))
    assert Lock.load(three.lock_path).slots == {}


def test_slots_are_rolled_back_apart_from_each_other(three: Workspace) -> None:
    other = SlotId("desk.fill")
    add_many(str(three.root), other, 1)
    three.activate(SLOT, specialist(1))
    three.activate(other, SpecialistId("desk.fill@1"))
    three.restore(other)
    assert three.lock.slots[SLOT].active == specialist(1)
