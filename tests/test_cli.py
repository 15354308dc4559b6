"""`hetero`: answers as JSON, mistakes as one sentence with exit code 2, failures with 1."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hetero_agents.bindings import CacheLock, Calibrator, SpecialistId, Workspace
from hetero_agents.contract import SlotId, sha256_of
from hetero_agents.engines import EMBEDDER
from hetero_agents.routing import Promise, Seen, State
from hetero_agents.spans import SealedVault

from .support import Hetero, lock_entry, span, write_workspace
from .test_budget import certificate

TOML = """\
[app]
modules = ["clidesk"]
[models]
big = "test"
[tiers]
llm = { model = "big" }
[privacy]
content = "raw"
"""

MODULE = '''\
from typing import Literal

from pydantic_ai import Agent

from hetero_agents import Slots, code_agent, slot


@slot
async def classify(message: str) -> Literal["refund", "other"]:
    """Name the customer's intent."""
    ...


@slot
async def route(message: str, floor: int) -> Literal["a", "b"]: ...


@code_agent
async def triage(message: str) -> str:
    return f"{await classify(message)} {await classify(message)}"


@code_agent
async def tick() -> str:
    return "tock"


@code_agent
async def broken(message: str) -> str:
    raise ValueError("no such order")


helper = Agent("slot:helper", name="helper", capabilities=[Slots()])
'''


@pytest.fixture
def desk(hetero: Hetero, tmp_path: Path) -> Hetero:
    """Runs a command in a workspace with slots, code agents and an agent."""
    write_workspace(tmp_path, TOML)
    (tmp_path / "clidesk.py").write_text(MODULE)
    SealedVault(tmp_path / ".hetero" / "vault").made_keyring()  # with its remark, which no command then makes
    return hetero


# -- mistakes --------------------------------------------------------------------------------------


def test_an_unknown_command_is_one_sentence(hetero: Hetero) -> None:
    assert "No such command 'destill'" in hetero("destill").sentence


def test_an_unknown_option_is_one_sentence(hetero: Hetero) -> None:
    assert "No such option" in hetero("traces", "--jsn").sentence


@pytest.mark.parametrize(
    "command", [("run", "desk"), ("traces",), ("slots",), ("promote", "a@1"), ("rollback", "a"), ("distill", "a")]
)
def test_without_a_workspace_one_sentence_says_what_writes_one(hetero: Hetero, command: tuple[str, ...]) -> None:
    assert hetero(*command).sentence.endswith("`hetero init` writes one.")


def test_a_broken_workspace_is_one_sentence(hetero: Hetero, tmp_path: Path) -> None:
    write_workspace(tmp_path, "[app\n")
    assert "is not TOML" in hetero("traces").sentence


def test_a_module_that_cannot_be_imported_is_one_sentence(desk: Hetero, tmp_path: Path) -> None:
    (tmp_path / "clidesk.py").write_text("import nowhere_at_all\n")
    assert "cannot be imported: ModuleNotFoundError" in desk("slots").sentence


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            ("run", "clidesk.triag", "x"),
            "There is no slot, agent or crew 'clidesk.triag', did you mean 'clidesk.triage'",
        ),
        (("traces", "abc"), "There is no trace 'abc'; `hetero traces` lists them."),
        (("feedback", "abc", "--score", "1"), "There is no trace 'abc'"),
        (("distill", "clidesk.clasify"), "There is no slot 'clidesk.clasify', did you mean 'clidesk.classify'"),
        (("promote", "clidesk.classify"), "There is no specialist of slot 'clidesk.classify'; make one with"),
        (("promote", "clidesk.classify@1"), "There is no specialist 'clidesk.classify@1'; `hetero slots` lists them."),
        (("rollback", "clidesk.classify"), "There is no slot with a specialist 'clidesk.classify'"),
    ],
)
def test_an_unknown_name_is_one_sentence(desk: Hetero, command: tuple[str, ...], sentence: str) -> None:
    assert desk(*command).sentence.startswith(sentence)


def test_a_cache_that_is_none_by_meaning_cannot_be_certified(desk: Hetero) -> None:
    sentence = desk("distill", "clidesk.classify", "--cache-only").sentence
    assert sentence.startswith("Slot 'clidesk.classify' has no cache by meaning to certify: give [slots")


# -- init ------------------------------------------------------------------------------------------


def test_init_writes_a_workspace_that_can_be_opened(hetero: Hetero, tmp_path: Path) -> None:
    done = hetero("init", "new", "--llm", "test", "--json")
    assert done.json == {"wrote": ["new/hetero.toml", "new/desk.py"], "not_translated": []}
    assert Workspace.find(tmp_path / "new").config.models["big"].model == "test"
    compile((tmp_path / "new" / "desk.py").read_text(), "desk.py", "exec")


@pytest.mark.parametrize("name", ["hetero.toml", "desk.py"])
def test_init_overwrites_nothing(hetero: Hetero, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert "is already there; `hetero init` overwrites nothing" in hetero("init").sentence
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


# -- run -------------------------------------------------------------------------------------------


def test_a_run_names_its_own_trace_while_others_write(desk: Hetero, tmp_path: Path) -> None:
    """Another process's span that is newer stands in the vault when the run ends."""
    later = span("f" * 32, 2**62)
    (tmp_path / "clidesk.py").write_text(
        f"from hetero_agents import registry\n{MODULE}".replace(
            "async def triage(message: str) -> str:\n",
            f"async def triage(message: str) -> str:\n    registry.app.vault.write([{later!r}])\n",
        )
    )
    trace = desk("run", "clidesk.triage", "x", "--json").json["trace"]
    assert trace != later["trace_id"]
    assert desk("traces", trace, "--json").json["spans"][0]["name"] == "invoke_workflow clidesk.triage"


def test_run_asks_for_what_is_missing_and_takes_no_two_kinds_of_input(desk: Hetero, tmp_path: Path) -> None:
    assert desk("run", "clidesk.classify").sentence == "clidesk.classify needs a VALUE for message."
    (tmp_path / "in.jsonl").write_text("m\n")
    both = desk("run", "clidesk.classify", "m", "--inputs", "in.jsonl")
    assert both.sentence.startswith("VALUE and --inputs do not go together")
    assert desk("run", "clidesk.tick", "--json").json["output"] == "tock"


def test_an_entry_of_no_slot_is_said(desk: Hetero, tmp_path: Path) -> None:
    agent = '[slots."helper"]\nmodel = "big"\n'
    write_workspace(tmp_path, TOML + agent + '[slots."clidesk.clasify"]\nerror_budget = 0.1\n')
    done = desk("slots")
    assert done.code == 0 and done.err.count("is of no slot") == 1
    assert done.err.startswith('[slots."clidesk.clasify"] in hetero.toml is of no slot that the modules')
    assert "did you mean 'clidesk.classify'" in done.err


def test_run_prints_the_answer_and_the_trace(desk: Hetero) -> None:
    done = desk("run", "clidesk.triage", "My parcel is broken")
    assert (done.code, done.out) == (0, "refund refund\n")
    [row] = desk("traces", "--json").json
    assert done.err == f"trace {row['trace']}\n"


@pytest.mark.parametrize("name", ["clidesk.classify", "triage", "clidesk.helper"])
def test_slots_and_agents_are_run_by_their_names(desk: Hetero, name: str) -> None:
    output = desk("run", name, "x", "--json").json["output"]
    assert output in ("refund", "refund refund", "success (no tool calls)")


def test_arguments_may_be_a_json_object(desk: Hetero) -> None:
    assert desk("run", "clidesk.route", '{"message": "x", "floor": 3}', "--json").json["output"] == "a"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("x", "clidesk.route takes message, floor: give a JSON object with these keys."),
        ('{"message": "x", "flor": 3}', "There is no parameter of clidesk.route 'flor', did you mean 'floor'."),
        ('{"message": "x", "floor": "three"}', "An argument of clidesk.route is wrong: "),
        ('{"message": "x"}', "clidesk.route"),
    ],
)
def test_a_wrong_argument_is_one_sentence(desk: Hetero, value: str, sentence: str) -> None:
    assert desk("run", "clidesk.route", value).sentence.startswith(sentence)


def test_a_short_name_that_may_be_two_things_is_said(desk: Hetero, tmp_path: Path) -> None:
    write_workspace(tmp_path, TOML.replace('["clidesk"]', '["clidesk", "climail"]'))
    text = MODULE.replace("helper = Agent(", "from clidesk import helper\n\nother = Agent(")
    (tmp_path / "climail.py").write_text(text)
    assert desk("run", "tick").sentence == "tick may be clidesk.tick or climail.tick; give the whole name."
    assert "There is no" not in desk("run", "helper", "x").err, "imported into a second module, it is the same one"
    assert "may be" not in desk("run", "helper", "x").err


def test_bytes_that_are_no_text_are_printed_as_python_writes_them(desk: Hetero, tmp_path: Path) -> None:
    (tmp_path / "clidesk.py").write_text(MODULE.replace('str:\n    return "tock"', 'bytes:\n    return b"\\xff"'))
    assert desk("run", "clidesk.tick", "--json").json["output"] == repr(b"\xff")


def test_a_file_of_inputs_gives_a_json_line_each(desk: Hetero, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"message": "x"}\n\n{"message": "y"}\n')
    done = desk("run", "clidesk.classify", "--inputs", "in.jsonl")
    assert [json.loads(line) for line in done.out.splitlines()] == [{"output": "refund"}] * 2


def test_a_wrong_line_of_a_file_is_said_before_anything_runs(desk: Hetero, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"message": "x"}\n{"massage": "y"}\n')
    assert "did you mean 'message'" in desk("run", "clidesk.classify", "--inputs", "in.jsonl").sentence
    assert desk("traces", "--json").json == []


def test_a_file_of_inputs_that_is_not_there_is_one_sentence(desk: Hetero) -> None:
    done = desk("run", "clidesk.classify", "--inputs", "nowhere.jsonl")
    assert (done.out, done.err) == ("", "hetero: No such file or directory: nowhere.jsonl.\n")


def test_a_file_of_inputs_that_is_no_text_is_one_sentence(desk: Hetero, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes('{"message": "größer"}'.encode("latin-1"))
    done = desk("run", "clidesk.classify", "--inputs", "in.jsonl")
    assert (done.code, done.err) == (2, "hetero: in.jsonl is no text in UTF-8.\n")


def test_a_model_that_cannot_be_used_is_one_sentence(desk: Hetero, tmp_path: Path) -> None:
    write_workspace(tmp_path, TOML.replace('"test"', '"nowhere:model"'))
    assert desk("run", "clidesk.classify", "x").sentence.startswith("The model 'nowhere:model' cannot be used")


def test_a_key_that_is_missing_is_named(desk: Hetero, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write_workspace(tmp_path, TOML.replace('"test"', '"openai:gpt-5.2"'))
    sentence = desk("run", "clidesk.classify", "x").sentence
    assert sentence.startswith("The model 'openai:gpt-5.2' needs OPENAI_API_KEY in the environment")
    assert "Agent(" not in sentence


# -- traces ----------------------------------------------------------------------------------------


def test_traces_lists_runs_newest_first(desk: Hetero) -> None:
    first = desk("run", "clidesk.classify", "x", "--json").json["trace"]
    second = desk("run", "clidesk.triage", "y", "--json").json["trace"]
    rows = desk("traces", "--json").json
    assert [(row["trace"], row["name"], row["calls"]) for row in rows] == [
        (second, "invoke_workflow clidesk.triage", 2),
        (first, "slot clidesk.classify", 1),
    ]
    assert len(desk("traces", "-n", "1", "--json").json) == 1


def test_a_run_is_shown_by_the_beginning_of_its_id(desk: Hetero) -> None:
    trace = desk("run", "clidesk.triage", "x", "--json").json["trace"]
    shown = desk("traces", trace[:8], "--json").json
    assert (shown["trace"], shown["outcome"], len(shown["spans"])) == (trace, "unknown", 5)


def test_a_run_is_drawn_as_a_tree(desk: Hetero) -> None:
    trace = desk("run", "clidesk.triage", "x", "--json").json["trace"]
    lines = desk("traces", trace).out.splitlines()
    assert lines[0].startswith("invoke_workflow clidesk.triage")
    assert any("slot clidesk.classify" in line for line in lines)


# -- feedback --------------------------------------------------------------------------------------


def test_a_score_becomes_the_runs_outcome(desk: Hetero) -> None:
    trace = desk("run", "clidesk.triage", "x", "--json").json["trace"]
    assert desk("feedback", trace[:12], "--score", "0.2").code == 0
    assert desk("traces", trace, "--json").json["outcome"] == "failed"


def test_an_answer_is_kept_for_the_only_call_of_a_run(desk: Hetero, tmp_path: Path) -> None:
    trace = desk("run", "clidesk.classify", "x", "--json").json["trace"]
    assert desk("feedback", trace, "--answer", '"other"').code == 0
    [feedback] = SealedVault(tmp_path / ".hetero" / "vault").feedback()
    assert (feedback.answer, feedback.trace_id, feedback.span_id is not None) == ("other", trace, True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "Give --score or --answer, one of them."),
        (("--score", "1", "--answer", "1"), "Give --score or --answer, one of them."),
        (("--answer", "other"), "The answer is not JSON"),
        (("--answer", '"third"'), "The answer does not meet the contract of 'clidesk.classify': "),
        (("--span", "0" * 16, "--answer", '"other"'), "Say with --span which call of the run the answer is for: "),
        (("--span", "0" * 16, "--score", "1"), "There is no span '0000000000000000'"),
    ],
)
def test_feedback_that_cannot_be_taken_is_one_sentence(desk: Hetero, options: tuple[str, ...], sentence: str) -> None:
    trace = desk("run", "clidesk.classify", "x", "--json").json["trace"]
    assert desk("feedback", trace, *options).sentence.startswith(sentence)


def test_an_answer_to_a_call_under_an_earlier_contract_is_refused(desk: Hetero, tmp_path: Path) -> None:
    trace = desk("run", "clidesk.classify", "x", "--json").json["trace"]
    (tmp_path / "clidesk.py").write_text(MODULE.replace("classify(message: str)", "classify(text: str)"))
    del sys.modules["clidesk"]  # the next command is another process
    sentence = desk("feedback", trace, "--answer", '"other"').sentence
    assert sentence.startswith("The call was made under another contract of 'clidesk.classify'")


def test_an_answer_for_a_run_of_several_calls_asks_which(desk: Hetero) -> None:
    trace = desk("run", "clidesk.triage", "x", "--json").json["trace"]
    sentence = desk("feedback", trace, "--answer", '"other"').sentence
    assert sentence.startswith("Say with --span which call")
    assert sentence.count("(clidesk.classify)") == 2


# -- slots, rollback, doctor, models ---------------------------------------------------------------


def test_slots_says_what_fills_each(desk: Hetero, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.add_specialist(SpecialistId("clidesk.classify@1"), lock_entry("clidesk.classify"))
    rows = {row["slot"]: row for row in desk("slots", "--json").json if row["slot"].startswith("clidesk.")}
    assert rows.keys() == {"clidesk.classify", "clidesk.route"}
    row = rows["clidesk.classify"]
    assert (row["tier"], row["filled_by"], row["note"]) == ("llm", "big", None)
    assert row["specialists"] == ["clidesk.classify@1 0.900 [0.850, 0.940] n=200"]


def test_a_promotion_of_another_contract_is_refused(desk: Hetero, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.add_specialist(SpecialistId("clidesk.classify@1"), lock_entry("clidesk.classify"))
    assert "was trained for another contract" in desk("promote", "clidesk.classify").sentence
    assert workspace.lock.slots == {}


def test_a_rollback_with_nothing_to_put_back_is_one_sentence(desk: Hetero, tmp_path: Path) -> None:
    workspace, slot = Workspace(tmp_path), SlotId("clidesk.classify")
    workspace.add_specialist(SpecialistId(f"{slot}@1"), lock_entry(slot))
    workspace.activate(slot, SpecialistId(f"{slot}@1"))
    assert desk("rollback", slot, "--json").json == {
        "slot": slot,
        "active": None,
        "stage": "active",
        "share": None,
        "replaced": [],
    }
    assert "so there is nothing to roll back" in desk("rollback", slot).sentence


BUDGET = '[slots."clidesk.classify"]\nerror_budget = 0.1\n'


def test_a_specialist_is_promoted_by_stages(desk: Hetero, tmp_path: Path) -> None:
    slot = SlotId("clidesk.classify")
    contract = next(row["contract"] for row in desk("slots", "--json").json if row["slot"] == slot)
    (tmp_path / "w").write_bytes(b"weights")
    gguf = tmp_path / "adapters" / "1" / "adapter.gguf"
    gguf.parent.mkdir(parents=True)
    gguf.write_bytes(b"weights")
    entry = lock_entry(slot, contract).model_copy(update={"gguf_sha256": hashlib.sha256(b"weights").hexdigest()})
    Workspace(tmp_path).add_specialist(SpecialistId(f"{slot}@1"), entry)
    assert desk("promote", slot, "--stage", "shadow", "--json").json["stage"] == "shadow"
    shadow = desk("promote", slot, "--stage", "canary", "--share", "0.25")
    assert shadow.out == f"{slot} is filled by the model that hetero.toml names; {slot}@1 answers 25% of the calls.\n"
    [row] = [row for row in desk("slots", "--json").json if row["slot"] == slot]
    assert row["filled_by"] == f"{slot}@1 (canary) -> big"
    assert "needs an error_budget" in desk("promote", slot, "--auto").sentence
    assert desk("promote", slot).out == f"{slot} is filled by {slot}@1.\n"
    assert "is not one of" in desk("promote", slot, "--stage", "half").sentence


@pytest.mark.filterwarnings("ignore:.* is not used")
def test_the_evidence_decides_what_auto_does(desk: Hetero, tmp_path: Path) -> None:
    write_workspace(tmp_path, TOML + BUDGET)
    slot = SlotId("clidesk.classify")
    assert "no specialist to move" in desk("promote", slot, "--auto").sentence
    contract = next(row["contract"] for row in desk("slots", "--json").json if row["slot"] == slot)
    shown = certificate(checks_sha256=sha256_of([]))
    workspace = Workspace(tmp_path)
    entry = lock_entry(slot, contract).model_copy(update={"certificate": shown})
    workspace.add_specialist(SpecialistId(f"{slot}@1"), entry)
    workspace.activate(slot, SpecialistId(f"{slot}@1"), "shadow")
    assert (
        "stays: 0 of 0 kept answers were wrong, of 0 that were compared: not decided yet."
        in desk("promote", slot, "--auto").out
    )
    state = State(tmp_path / ".hetero" / "state.db")
    for _ in range(60):
        state.saw(f"{slot}@1", "shadow", Seen(True, False, 0.5), Promise(0.1))
    state.close()
    done = desk("promote", slot, "--auto", "--json").json
    assert (done["move"], done["now"]["stage"], done["now"]["share"], done["p95_seconds"]) == (
        "forward",
        "canary",
        0.1,
        0.5,
    )


@pytest.mark.parametrize(
    ("budget", "sentence"), [("0", "greater than 0"), ("1.5", "less than 1"), ('"5 %"', "valid number")]
)
def test_an_error_budget_that_is_none_is_one_sentence(desk: Hetero, tmp_path: Path, budget: str, sentence: str) -> None:
    write_workspace(tmp_path, TOML + BUDGET.replace("0.1", budget))
    said = desk("slots").sentence
    assert "slots.clidesk.classify.error_budget" in said
    assert sentence in said


def test_a_report_of_a_slot_without_a_specialist_says_what_the_vault_holds(desk: Hetero, tmp_path: Path) -> None:
    for _ in range(2):
        desk("run", "clidesk.triage", "hello")
    done = desk("report", "clidesk.classify", "--json").json
    [row] = done["slots"]
    assert (row["calls"], row["repeated"], row["constant"], row["kept"]) == (4, 3, 4, 0)
    assert row["specialist"] is None
    assert row["spent"]["input_tokens"] > 0
    assert done["whole"] is None
    page = tmp_path / "page.html"
    assert "makes one" in desk("report", "--html", str(page)).out
    assert "What can move" in page.read_text()


def test_a_cache_by_meaning_shows_what_was_certified_or_why_it_answers_nothing(desk: Hetero, tmp_path: Path) -> None:
    write_workspace(tmp_path, TOML + BUDGET + 'cache = "semantic"\n')
    slot = SlotId("clidesk.classify")
    never = desk("slots", "--json").json
    row = next(row for row in never if row["slot"] == slot)
    assert [cache["refused"] for cache in row["caches"]] == [
        f"it was never certified; run `hetero distill {slot} --cache-only`"
    ]
    sure = Calibrator(bias=-80.0, weights={"likeness": 100.0})
    cache = CacheLock(
        slot=slot,
        after=None,
        model="test",
        embedder=EMBEDDER,
        contract_sha256=row["contract"],
        certificate=certificate(checks_sha256=sha256_of([]), calibrator=sure),
    )
    Workspace(tmp_path).add_cache(cache)
    row = next(row for row in desk("slots", "--json").json if row["slot"] == slot)
    [shown] = row["caches"]
    assert (shown["refused"], shown["likeness"]) == (None, pytest.approx(0.8))
    assert shown["certificate"]["share"]["score"] == 0.6
    assert "likeness" in desk("slots").out
    page = tmp_path / "page.html"
    said = desk("report", slot, "--html", str(page)).out
    assert "of all calls, with nobody before it, from a likeness of 0.800 on. Error budget 0.1" in said
    assert (
        "against answers of big; right: exact: of 100 calls 60 were kept and 1 of them wrong, so at most 0.077" in said
    )
    assert "so at most 7.7 % are, against answers of big" in page.read_text()


def test_iterate_needs_a_slot_with_a_budget_and_says_what_it_did(desk: Hetero, tmp_path: Path) -> None:
    assert "No slot has an error_budget" in desk("iterate").sentence
    write_workspace(tmp_path, TOML + BUDGET)
    done = json.loads(desk("iterate", "--json").out)
    assert (done["slot"], done["did"]) == ("clidesk.classify", "nothing")
    assert "needs 40" in done["why"]
    assert json.loads((tmp_path / ".hetero" / "iterate.jsonl").read_text()) == done
    write_workspace(tmp_path, TOML)
    failed = desk("iterate", "clidesk.classify", "--json")
    assert failed.code == 1
    assert json.loads(failed.out)["did"] == "failed" and "needs an error_budget" in failed.out


def test_doctor_says_what_is_right_and_wrong(desk: Hetero, tmp_path: Path) -> None:
    checks = {entry["check"]: entry for entry in desk("doctor", "--json").json}
    assert checks["workspace"] == {"check": "workspace", "ok": True, "detail": str(tmp_path.resolve())}
    Workspace(tmp_path).add_specialist(SpecialistId("clidesk.classify@1"), lock_entry("clidesk.classify"))
    done = desk("doctor", "--json")
    assert done.code == 1
    [wrong] = [entry for entry in json.loads(done.out) if entry["ok"] is False]
    assert wrong["check"] == "specialist clidesk.classify@1"


@pytest.mark.parametrize(
    ("isolation", "good", "said"),
    [("bubblewrap", True, "bubblewrap"), ("none", None, "so none is run without `hetero run --unsafe`")],
)
def test_doctor_says_what_confines_commands(
    desk: Hetero, monkeypatch: pytest.MonkeyPatch, isolation: str, good: bool | None, said: str
) -> None:
    monkeypatch.setattr("hetero_agents.tools.sandbox.isolation", lambda: isolation)
    [check] = [entry for entry in desk("doctor", "--json").json if entry["check"] == "sandbox"]
    assert check["ok"] is good
    assert said in check["detail"]


RUNNING = """\
from pathlib import Path
from pydantic import BaseModel
from hetero_agents import Crew
from hetero_agents.tools.python import Python

class Program(BaseModel):
    code: str

class Printed(BaseModel):
    text: str

crew = Crew("runs", gives=Printed)

@crew.role
async def work(program: Program) -> Printed:
    Path("work").mkdir(exist_ok=True)
    return Printed(text=(await Python(Path("work")).run_python(program.code)).stdout)
"""


@pytest.fixture
def unconfined(desk: Hetero, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hetero:
    """A crew that runs programs, on a machine where nothing can confine them."""
    (tmp_path / "clidesk.py").write_text(RUNNING)
    monkeypatch.setattr("hetero_agents.tools.sandbox.isolation", lambda: "none")
    return desk


def test_a_crews_programs_run_unconfined_where_the_command_line_says_so_and_it_is_said(unconfined: Hetero) -> None:
    done = unconfined("run", "runs", "print(6 * 7)", "--unsafe", "--json")
    assert done.json["output"] == {"text": "42\n"}
    assert done.err.count("hetero: ") == 1
    assert "hetero: Nothing here can confine a command: what models wrote is run with your rights" in done.err


def test_without_being_told_a_crews_programs_do_not_run_unconfined(unconfined: Hetero, tmp_path: Path) -> None:
    unconfined("run", "runs", "print(6 * 7)", "--unsafe")  # which says nothing of later runs
    done = unconfined("run", "runs", "open('x', 'w')")
    assert done.code == 1
    assert "or by `hetero run --unsafe`, it runs unconfined" in done.err
    assert not (tmp_path / "work" / "x").exists()


def test_where_commands_are_confined_unsafe_changes_nothing_and_says_so(
    unconfined: Hetero, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hetero_agents.tools.sandbox.isolation", lambda: "landlock")
    done = unconfined("run", "clidesk.triag", "x", "--unsafe")
    assert "hetero: --unsafe changes nothing here: commands are confined by landlock." in done.err


def test_doctor_without_a_workspace_says_so_and_fails(hetero: Hetero) -> None:
    done = hetero("doctor", "--json")
    assert done.code == 1
    assert [entry["check"] for entry in json.loads(done.out) if entry["ok"] is False] == ["workspace"]


def test_models_lists_the_workspaces_and_the_known_ones(desk: Hetero) -> None:
    listed = desk("models", "list", "--json").json
    assert listed["models"] == {"big": "test"}
    names = ["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "all-minilm-l6-v2"]
    assert [row["name"] for row in listed["catalog"]] == [f"local:{name}" for name in names]


def test_an_unknown_model_to_fetch_is_one_sentence(hetero: Hetero) -> None:
    assert hetero("models", "fetch", "smollm").sentence.startswith("There is no model 'local:smollm', did you mean")


# -- as a program ----------------------------------------------------------------------------------


def test_the_program_ends_with_its_exit_code_and_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from hetero_agents.cli import main; main()", "slots"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("hetero: There is no hetero.toml in ")
    assert "Traceback" not in done.stderr


# -- keys ------------------------------------------------------------------------------------------


def test_readers_come_and_go(desk: Hetero) -> None:
    trace = desk("run", "clidesk.classify", "x", "--json").json["trace"]
    added = desk("keys", "add", "ops", "--role", "operator", "--expires", "2999-01-01", "--json").json
    assert Path(added["key"]).exists()
    assert [(r["reader"], r["role"], r["expires"]) for r in desk("keys", "list", "--json").json["readers"]] == [
        ("owner", "curator", None),
        ("ops", "operator", "2999-01-01"),
    ]
    assert desk("keys", "rotate", "--json").json["epoch"] == 1
    assert "opens nothing that is written from now on" in desk("keys", "remove", "ops").out
    assert desk("keys", "list", "--json").json["epoch"] == 2
    assert desk("traces", trace, "--json").json["outcome"] == "unknown"


def test_a_readers_public_key_may_come_from_openssl(desk: Hetero, tmp_path: Path) -> None:
    public = X25519PrivateKey.generate().public_key()
    (tmp_path / "eve.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    added = desk("keys", "add", "eve", "--role", "curator", "--public", "eve.pem", "--json").json
    assert added == {"reader": "eve", "role": "curator", "key": None}


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("init",), "The vault "),
        (("add", "owner", "--role", "operator"), "There is a reader 'owner' already"),
        (("add", "../eve", "--role", "operator"), "'../eve' cannot be a reader's name"),
        (("add", "eve", "--role", "king"), "There is no role 'king'; the roles are operator, curator, auditor."),
        (("add", "eve", "--role", "curator", "--public", "clidesk.py"), "clidesk.py is no public key in PEM"),
        (("remove", "owner"), "Nobody could open what comes"),
        (("remove", "ower"), "There is no reader 'ower', did you mean 'owner'"),
    ],
)
def test_a_change_of_readers_that_cannot_be_is_one_sentence(
    desk: Hetero, command: tuple[str, ...], sentence: str
) -> None:
    before = desk("keys", "list", "--json").json
    assert desk("keys", *command).sentence.startswith(sentence)
    assert desk("keys", "list", "--json").json == before


def test_a_passphrase_is_asked_for_on_a_terminal_only(hetero: Hetero, tmp_path: Path) -> None:
    write_workspace(tmp_path, TOML)
    assert hetero("keys", "init", "--passphrase").sentence == "--passphrase asks on a terminal, and this is none."
    assert not (tmp_path / ".hetero" / "vault" / "keyring.json").exists()


def test_ctrl_c_is_one_sentence(desk: Hetero, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*, modules: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hetero_agents.cli.common.open_app", interrupted)
    done = desk("traces")
    assert (done.code, done.err) == (130, "hetero: Interrupted; what was finished is kept.\n")
