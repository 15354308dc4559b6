"""Labels (step S2): stored inputs without an answer to learn from are answered by a model whose terms allow it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic_ai.exceptions import ModelHTTPError, ModelRetry
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from hetero_agents import ConfigError, DistillError, Slot, slot
from hetero_agents.bindings.lock import exclusive
from hetero_agents.distill.relabel import Relabelled, relabel, unlabelled
from hetero_agents.errors import HeteroError
from hetero_agents.routing import Budget, Ledger
from hetero_agents.slots import App
from hetero_agents.spans import Feedback, SealedVault, SlotCall, calls_of

from .conftest import OpenApp
from .support import NATIVE_JSON, TOML, Hetero, answers, call_span, write_workspace

ID = "relabel.classify"
TERMS = TOML.replace(
    "[models]",
    '[models]\nclosed = "fake:closed"\nopen = { model = "fake:open", train_on_outputs = true, max_tokens = 64, price = { output = 1.0 } }',
)


def classify_slot(**given: Any) -> Slot[[str], Literal["a", "b"]]:
    @slot(name=ID, **given)
    async def classify(text: str) -> Literal["a", "b"]:
        """Classify it."""
        ...

    return classify


def write(app: App, *texts: str, **attributes: Any) -> None:
    """Store a call of each text that `closed` answered "a", or nobody where `output=None`."""
    contract = classify_slot().contract.sha256
    given: dict[str, Any] = {"slot": ID, "contract": contract, "output": '"a"', "binding": "closed", **attributes}
    first = sum(1 for _ in app.vault.read())
    for number, text in enumerate(texts, first):
        span = call_span(f"t{number}", number, None, input=json.dumps({"text": text}), **given)
        if given["output"] is None:
            del span["attributes"]["hetero.output"]
        app.vault.write([span])


def silent(step: str, done: int, total: int) -> None:
    pass


def test_a_slot_is_worked_on_by_one_process_at_a_time(open_app: OpenApp) -> None:
    app = open_app({"fake:closed": answers("a"), "fake:open": answers('{"answer": "b"}')}, TERMS)
    write(app, "x")
    with (
        exclusive(app.workspace.ensure_state_dir() / "distill" / ID / ".flock"),
        pytest.raises(DistillError, match="being distilled or relabelled by another process"),
    ):
        asyncio.run(relabel(app, classify_slot(), "open", progress=silent))


def label(app: App, by: str = "open", budget: Budget | None = None, **given: Any) -> Relabelled:
    with Ledger(budget or Budget()):
        return asyncio.run(relabel(app, classify_slot(**given), by, progress=silent))


def calls(app: App) -> dict[str, SlotCall]:
    return {call.input["text"]: call for call in calls_of(app.vault, ID)}


@dataclass
class Weak:
    """An endpoint that knows neither tools nor schemas, and talks."""

    replies: Sequence[str]
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@contextmanager
def serving(weak: Weak) -> Generator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            weak.requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            text = weak.replies[min(len(weak.requests), len(weak.replies)) - 1]
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
            made = {"id": "1", "object": "chat.completion", "created": 0, "model": "weak", "choices": [choice]}
            body = json.dumps({**made, "usage": usage}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()


MODULE = '''\
from typing import Literal
from hetero_agents import slot

@slot
async def classify(text: str) -> Literal["a", "b"]:
    """Classify it."""
    ...
'''


def test_an_endpoint_that_only_talks_is_asked_in_markdown_and_again_until_the_contract_is_met(
    hetero: Hetero, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    toml = TERMS.replace("fake:open", "openai-chat:weak") + '[app]\nmodules = ["clidesk"]\n'
    write_workspace(tmp_path, toml)
    (tmp_path / "clidesk.py").write_text(MODULE)
    vault = SealedVault(tmp_path / ".hetero" / "vault")
    contract = classify_slot().contract.sha256
    vault.write([call_span("t", 1, slot="clidesk.classify", contract=contract, input='{"text": "a secret"}')])
    vault.close()
    wrong = 'Sure! Here it is:\n```json\n{"answer": "perhaps"}\n```\nAnything else?'
    right = 'You are right, sorry.\n```json\n{"answer": "b"}\n```\nI hope that helps!'
    weak = Weak([wrong, right])
    with serving(weak) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        done = hetero("relabel", "clidesk.classify", "--by", "open", "--json")
        again = hetero("relabel", "clidesk.classify", "--by", "open", "--money", "1", "--json")
    assert (done.json["wanted"], done.json["labelled"], done.json["spent"]["tokens"]) == (1, 1, 120)
    assert again.json["wanted"] == 0, "what has a label is not asked again"
    first, second = weak.requests
    assert not {"tools", "response_format"} & first.keys()
    assert "Classify it." in first["messages"][0]["content"]
    assert '"enum"' in first["messages"][0]["content"], "the schema is said in words"
    assert "a secret" in first["messages"][1]["content"]
    assert "perhaps" in second["messages"][-2]["content"]
    assert "'a' or 'b'" in second["messages"][-1]["content"], "what was wrong is said"
    (call,) = calls_of(vault, "clidesk.classify")
    assert (call.output, call.binding, call.trainable, call.corrected) == ("b", "open", True, False)
    stored = b"".join(path.read_bytes() for path in (tmp_path / ".hetero").rglob("*") if path.is_file())
    assert b"perhaps" not in stored and b"secret" not in stored
    assert "perhaps" not in caplog.text, "answers are content, and are not logged"


def test_a_label_is_learnt_from_in_place_of_an_answer_that_nobody_may_train_on(open_app: OpenApp) -> None:
    app = open_app({"fake:open": answers({"answer": "b"})}, TERMS)
    write(app, "x")
    write(app, "y", train_on_outputs=True)
    assert label(app).labelled == 1
    found = calls(app)
    assert (found["x"].output, found["x"].binding, found["x"].trainable) == ("b", "open", True)
    assert (found["y"].output, found["y"].binding) == ("a", "closed"), "what may be learnt from is not asked for"


def test_calls_that_failed_or_that_no_model_answered_are_labelled_too(open_app: OpenApp) -> None:
    app = open_app({"fake:open": answers({"answer": "b"})}, TERMS)
    write(app, "failed", train_on_outputs=True, outcome="failed")
    write(app, "by a specialist", train_on_outputs=True, specialist="relabel.classify@1")
    write(app, "unanswered", output=None, status="ERROR")
    assert label(app).labelled == 3
    assert {(c.output, c.outcome, c.specialist) for c in calls(app).values()} == {("b", "unknown", None)}


def test_what_another_answer_of_the_same_input_teaches_is_not_asked_for(open_app: OpenApp) -> None:
    app = open_app({}, TERMS)
    write(app, "x", "x")
    write(app, "x", train_on_outputs=True)
    write(app, "y", "y")
    write(app, "z", contract="0" * 64)
    write(app, "h", hci=True)
    every = list(calls_of(app.vault, ID, unanswered=True))
    contract = classify_slot().contract
    assert [call.input["text"] for call in unlabelled(every, contract, hci_allowed=False)] == ["y"]


def test_a_label_is_of_the_person_whose_call_it_is_of_and_forgotten_with_them(open_app: OpenApp) -> None:
    app = open_app({"fake:open": answers({"answer": "b"})}, TERMS)
    write(app, "x", subject="ann")
    label(app)
    assert [said.person for said in app.vault.feedback()] == ["ann"]


@pytest.mark.parametrize("corrected_first", [True, False])
def test_what_a_person_said_comes_before_a_label(open_app: OpenApp, corrected_first: bool) -> None:
    app = open_app({}, TERMS)
    write(app, "x")
    said = [Feedback("t0", "t000", None, "a", True, 1), Feedback("t0", "t000", None, "b", True, 2, model="open")]
    for feedback in said if corrected_first else reversed(said):
        app.vault.say(feedback)
    (call,) = calls_of(app.vault, ID)
    assert (call.output, call.corrected) == ("a", True)


def test_an_answer_that_breaks_a_check_is_mended(open_app: OpenApp) -> None:
    model = answers({"answer": "a"}, {"answer": "b"})
    app = open_app({"fake:open": model}, TERMS)
    write(app, "x")
    classify = classify_slot()

    @classify.check
    async def never_a(answer: str) -> None:
        if answer == "a":
            raise ModelRetry("it is never an a")

    assert asyncio.run(relabel(app, classify, "open", progress=silent)).labelled == 1
    assert model.seen()[-1] == "it is never an a"
    assert calls(app)["x"].output == "b"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"answer": "c"}, "no answer that meets the contract"),
        (ModelHTTPError(400, "fake:open"), "refused by the endpoint (HTTP 400)"),
    ],
)
def test_an_input_that_gets_no_label_is_counted_and_the_others_go_on(open_app: OpenApp, answer: Any, why: str) -> None:
    # By what it is asked itself: both are asked at once, in any order.
    async def reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        given = answer if "odd one" in str(messages) else {"answer": "b"}
        if isinstance(given, Exception):
            raise given
        return ModelResponse(parts=[TextPart(json.dumps(given))])

    app = open_app({"fake:open": FunctionModel(reply, model_name="fake:open", profile=NATIVE_JSON)}, TERMS)
    write(app, "odd one", "y")
    made = label(app)
    assert (made.wanted, made.labelled, made.failed) == (2, 1, {why: 1})


def test_a_budget_ends_the_batch_and_keeps_what_was_answered(open_app: OpenApp) -> None:
    app = open_app({"fake:open": answers({"answer": "b"})}, TERMS)
    write(app, *"uvwxyz")
    made = label(app, budget=Budget(calls=2))
    assert (made.labelled, made.stopped and made.stopped.partition(" leaves")[0]) == (2, "The budget of 2 calls")
    assert label(app, budget=Budget(money=1.0)).wanted == 4, "the same command goes on where it stopped"
    assert all(call.trainable for call in calls(app).values())


def test_a_model_that_cannot_be_asked_ends_the_batch(open_app: OpenApp) -> None:
    app = open_app({"fake:open": answers(ModelHTTPError(401, "fake:open"))}, TERMS)
    write(app, "x")
    made = label(app)
    assert (made.labelled, made.failed) == (0, {})
    assert made.stopped and made.stopped.startswith("open cannot be asked: status_code: 401")


def test_an_interrupted_batch_keeps_what_was_answered(open_app: OpenApp) -> None:
    app = open_app({"fake:open": answers({"answer": "b"})}, TERMS)
    write(app, *map(str, range(20)))

    async def batch() -> None:
        def third(step: str, done: int, total: int) -> None:
            if done == 3:
                asked.cancel()  # as Ctrl-C does

        asked = asyncio.create_task(relabel(app, classify_slot(), "open", progress=third))
        await asked

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(batch())
    assert sum(call.trainable for call in calls(app).values()) >= 3
    assert label(app).wanted <= 17


def refused(open_app: OpenApp, by: str, **given: Any) -> str:
    app = open_app({"fake:open": answers({"answer": "b"}), "fake:closed": answers({"answer": "b"})}, TERMS)
    with pytest.raises(HeteroError) as error:
        label(app, by, **given)
    assert isinstance(error.value, ConfigError | DistillError)
    return str(error.value)


def test_a_model_whose_terms_do_not_allow_it_gives_no_labels(open_app: OpenApp) -> None:
    assert refused(open_app, "closed").startswith("The answers of 'closed' may not be trained on: name a model with")


def test_a_slot_that_talks_to_a_human_gets_no_labels(open_app: OpenApp) -> None:
    assert "talks to a human (hci)" in refused(open_app, "open", hci=True)
