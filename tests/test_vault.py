"""The vault: nothing is lost between processes; what is read back as runs and as calls."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from hetero_agents import HeteroError
from hetero_agents.spans import Feedback, SealedVault, SpanRecord, Trace, Vault, calls_of, read_traces
from hetero_agents.spans.record import foreign_record
from hetero_agents.testing import MemoryVault

from .bench.kills import survive
from .support import call_span, in_processes, span


def said(trace: str, span: str | None = None, **what: Any) -> Feedback:
    given: dict[str, Any] = {"score": None, "answer": None, "has_answer": "answer" in what, "time": time.time_ns()}
    return Feedback(trace, span, **{**given, **what})


@pytest.fixture(params=["file", "memory"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    return SealedVault(tmp_path / "vault") if request.param == "file" else MemoryVault()


# -- writing and reading ---------------------------------------------------------------------------


def test_spans_are_read_as_they_were_written_in_the_order_of_their_start(vault: Vault) -> None:
    spans = [span("a", 2, 1, note="é\n"), span("a", 1), span("b", 3)]
    vault.write(spans)
    assert list(vault.read()) == [spans[1], spans[0], spans[2]]


def test_the_runs_that_called_a_slot_are_read_whole(vault: Vault) -> None:
    vault.write([span("a", 1), call_span("a", 2, 1), span("b", 3)])
    assert [s["span_id"] for s in vault.read(slot="desk.classify")] == ["a01", "a02"]


def test_one_run_is_read_alone(vault: Vault) -> None:
    vault.write([span("a", 1), span("b", 2)])
    assert [s["span_id"] for s in vault.read(traces=["b"])] == ["b02"]


def test_the_latest_runs_come_first_by_when_they_began(vault: Vault) -> None:
    vault.write([span("a", 1), span("b", 2), span("c", 3), span("a", 4, 1)])
    assert vault.traces(10) == ["c", "b", "a"]
    assert vault.traces(2) == ["c", "b"]


def test_feedback_comes_back_oldest_first(vault: Vault) -> None:
    given = [said("a", score=0.0), said("a", "a02", answer=None), said("b", "b01", answer={"x": [1]})]
    for feedback in given:
        vault.say(feedback)
    assert vault.feedback() == given


def test_an_empty_vault_holds_nothing(vault: Vault) -> None:
    assert (list(vault.read()), vault.traces(5), vault.feedback()) == ([], [], [])


def test_reading_makes_no_file(tmp_path: Path) -> None:
    assert list(SealedVault(tmp_path / "vault").read()) == []
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    SealedVault(tmp_path / "state" / "vault").write([span("a", 1)])
    files = list((tmp_path / "state" / "vault").glob("*.spans"))
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600]
    assert (tmp_path / "state" / "vault").stat().st_mode & 0o777 == 0o700


def test_a_vault_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HeteroError, match="cannot be written"):
        SealedVault(tmp_path / "file" / "vault").write([span("a", 1)])


def write_many(path: str, trace: str) -> None:
    vault = SealedVault(Path(path))
    for number in range(40):
        vault.write([span(trace, number)])


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "vault"
    in_processes(write_many, (str(path), "a"), (str(path), "b"))
    assert [s["span_id"] for s in SealedVault(path).read()] == [f"{t}{n:02d}" for t in "ab" for n in range(40)]


def test_a_vault_may_cross_a_fork(tmp_path: Path) -> None:
    vault = SealedVault(tmp_path / "vault")
    vault.write([span("a", 1)])

    def child() -> None:
        vault.write([span("a", 2)])
        assert len(list(vault.read())) == 2

    in_processes(child, ())
    vault.write([span("a", 3)])
    assert [s["start"] for s in vault.read()] == [1, 2, 3]


# -- how a run ended -------------------------------------------------------------------------------

ROOT_OK, ROOT_FAILED = span("a", 1, outcome="ok"), span("a", 1, outcome="failed")


@pytest.mark.parametrize(
    ("spans", "feedback", "outcome"),
    [
        ([span("a", 1)], [], "unknown"),
        ([ROOT_OK], [], "ok"),
        ([ROOT_FAILED], [], "failed"),
        ([span("a", 1, status="ERROR")], [], "failed"),
        ([span("a", 1, outcome="ok", status="ERROR")], [], "failed"),
        ([span("a", 1), span("a", 2, 1, status="ERROR")], [], "unknown"),
        ([span("a", 1), span("a", 2, 1, outcome="failed")], [], "unknown"),
        ([ROOT_FAILED], [said("a", score=0.5)], "ok"),
        ([ROOT_OK], [said("a", score=0.49)], "failed"),
        ([span("a", 1, status="ERROR")], [said("a", score=1.0)], "ok"),
        ([ROOT_OK], [said("a", score=1.0), said("a", score=0.0)], "failed"),
        ([ROOT_OK], [said("a", "a01", score=0.0)], "ok"),
        ([ROOT_OK], [said("a", "a01", answer="b")], "ok"),
    ],
)
def test_the_latest_word_on_a_run_decides_its_outcome(
    spans: list[SpanRecord], feedback: list[Feedback], outcome: str
) -> None:
    assert Trace("a", spans, feedback).outcome == outcome


def test_the_roots_of_a_run_are_the_spans_whose_parents_are_not_here() -> None:
    trace = Trace("a", [span("a", 1, 0), span("a", 2, 1), span("a", 3, 2)], [])
    assert [s["span_id"] for s in trace.roots] == ["a01"]
    assert [s["span_id"] for s in trace.children(trace.roots[0])] == ["a02"]


def test_runs_are_read_with_what_was_said_of_them(vault: Vault) -> None:
    vault.write([span("a", 1), span("b", 2)])
    vault.say(said("b", score=1.0))
    assert [(trace.trace_id, trace.outcome) for trace in read_traces(vault)] == [("a", "unknown"), ("b", "ok")]


# -- a slot's calls --------------------------------------------------------------------------------


def test_a_call_is_read_with_its_input_its_answer_and_its_runs_outcome(vault: Vault) -> None:
    vault.write([span("a", 1, outcome="ok"), call_span("a", 2, 1, binding="big", train_on_outputs=True)])
    [call] = calls_of(vault, "desk.classify")
    assert (call.input, call.output, call.corrected) == ({"text": "é"}, "a", False)
    assert (call.binding, call.specialist, call.trainable, call.hci) == ("big", None, True, False)
    assert (call.outcome, call.trace_id, call.span_id, call.contract) == ("ok", "a", "a02", "c")


def test_a_correction_takes_the_answers_place(vault: Vault) -> None:
    vault.write([call_span("a", 1)])
    vault.say(said("a", "a01", answer="b"))
    [call] = calls_of(vault, "desk.classify")
    assert (call.output, call.corrected) == ("b", True)


def test_the_latest_correction_counts(vault: Vault) -> None:
    vault.write([call_span("a", 1)])
    vault.say(said("a", "a01", answer="b"))
    vault.say(said("a", "a01", answer=None))
    [call] = calls_of(vault, "desk.classify")
    assert (call.output, call.corrected) == (None, True)


def test_a_correction_answers_a_call_that_failed(vault: Vault) -> None:
    failed = call_span("a", 1, status="ERROR")
    del failed["attributes"]["hetero.output"]
    vault.write([failed])
    assert list(calls_of(vault, "desk.classify")) == []
    vault.say(said("a", "a01", answer="b"))
    assert [call.output for call in calls_of(vault, "desk.classify")] == ["b"]


def test_an_agents_own_chats_are_no_calls(vault: Vault) -> None:
    vault.write([span("a", 1, slot="desk.classify", binding="big")])
    assert list(calls_of(vault, "desk.classify")) == []


def test_runs_that_share_a_trace_have_outcomes_of_their_own(vault: Vault) -> None:
    """A user's own span around a batch joins its runs to one trace; that span is not in the vault."""
    runs = [span("a", 1, 99, outcome="ok"), span("a", 3, 99, outcome="failed")]
    vault.write([*runs, call_span("a", 2, 1), call_span("a", 4, 3)])
    assert [call.outcome for call in calls_of(vault, "desk.classify")] == ["ok", "failed"]
    assert next(read_traces(vault)).outcome == "failed"


def test_the_calls_of_a_killed_run_have_an_unknown_outcome(vault: Vault) -> None:
    vault.write([call_span("a", 2, 1)])  # its root was never written
    assert [call.outcome for call in calls_of(vault, "desk.classify")] == ["unknown"]


def test_a_record_is_plain_json(vault: Vault) -> None:
    record = span("a", 1, list=["x"], flag=True, share=1.5)
    vault.write([record])
    assert json.loads(json.dumps(list(vault.read()))) == [record]


def test_a_span_written_again_is_replaced(tmp_path: Path) -> None:
    vault = SealedVault(tmp_path / "vault")
    vault.write([span("a", 1)])
    vault.write([span("a", 1, outcome="ok")])
    assert [s["attributes"] for s in vault.read()] == [{"hetero.outcome": "ok"}]


def test_a_copy_of_our_span_that_comes_back_does_not_take_its_place(tmp_path: Path) -> None:
    vault, ours = SealedVault(tmp_path / "vault"), span("a", 1, slot="desk.classify")
    vault.write([ours])
    vault.write([foreign_record(ours), foreign_record(span("a", 2))])
    assert [s["scope"] for s in vault.read(slot="desk.classify")] == [ours["scope"], f"imported:{ours['scope']}"]
    assert vault.traces(9) == ["a"]


def test_a_full_disk_is_one_sentence_and_nothing_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = SealedVault(tmp_path / "vault")
    vault.say(Feedback("t", None, 1.0, None, False, 1))
    write = os.write

    def half(file: int, data: Any) -> int:
        if len(data) > 1000:
            return write(file, data[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(HeteroError, match=r"cannot be written \(No space left on device\)"):
            vault.say(Feedback("t", None, None, "x" * 1500, True, 2))
    vault.say(Feedback("t", None, 0.5, None, False, 3))
    assert [feedback.score for feedback in vault.feedback()] == [1.0, 0.5]


def test_processes_that_are_killed_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    survived = survive(12, tmp_path / "vault")
    assert survived.acknowledged > 100
    assert (survived.lost, survived.damaged) == (0, 0)
