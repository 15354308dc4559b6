# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
"""Teachers whose token probabilities are learnt: on this machine, on a vLLM server, and those that cannot be one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hetero_agents import DistillError, EngineError
from hetero_agents.bindings import Workspace
from hetero_agents.contract import Contract, Sha256, SlotId
from hetero_agents.distill import Recipe, teacher
from hetero_agents.distill.base import chat_of, load_base, load_tokenizer, safetensors_folder, sample_of
from hetero_agents.distill.curate import Dataset, Example
from hetero_agents.distill.specialise import job_of, teacher_of
from hetero_agents.distill.train import Job, train
from hetero_agents.distill.worker import job_line, read_job
from hetero_agents.engines.catalog import find_weights
from hetero_agents.engines.served import fetch_served
from hetero_agents.engines.vllm import LIKELIEST, VllmServer
from hetero_agents.errors import UserError

WEIGHTS = find_weights("smollm2-135m-instruct")

MODELS = """
[models]
large = { model = "vllm:large", base_url = "http://127.0.0.1:9/v1", train_on_outputs = true }
wary = "vllm:large"
api = { model = "openai:gpt-5.2", train_on_outputs = true }
"""


def named(name: str | None, tmp_path: Path) -> Any:
    (tmp_path / "hetero.toml").write_text(MODELS)
    return teacher_of(Recipe(teacher_model=name), Workspace(tmp_path))


def test_a_teacher_is_a_local_model_or_one_of_models_on_a_vllm_server(tmp_path: Path) -> None:
    assert named(None, tmp_path) is None
    assert named("local:smollm2-135m-instruct", tmp_path) == named("smollm2-135m-instruct", tmp_path) == WEIGHTS
    assert named("large", tmp_path) == VllmServer("large", "http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("api", "'openai:gpt-5.2' can be no teacher_model: its API does not say"),
        ("wary", "What 'wary' says may not be trained on: write train_on_outputs = true"),
        ("vllm:large", "What 'vllm:large' says may not be trained on"),
        ("larg", "There is no teacher_model 'larg', did you mean 'large'"),
    ],
)
def test_who_can_be_no_teacher_is_refused_in_a_sentence(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        named(name, tmp_path)


def test_a_job_has_its_teacher_and_each_call_as_the_teacher_reads_it(tmp_path: Path) -> None:
    async def name(text: str) -> str:
        """Name it."""
        ...

    contract = Contract(name, SlotId("teacher.name"))
    example = Example(Sha256("k"), {"text": "x"}, "y", "big", False, "t", "s")
    data = Dataset({"train": [example], "select": [], "certify": [], "test": []}, "", {}, 0, 0)
    of = VllmServer("large")
    job = job_of(contract, data, WEIGHTS, Recipe(teacher_model="large"), tmp_path, of)
    assert (job.teacher, job.chats) == (of, [chat_of(contract.messages({"text": "x"}))])
    alone = job_of(contract, data, WEIGHTS, Recipe(), tmp_path, None)
    assert (alone.teacher, alone.chats, alone.texts) == (None, (), job.texts)


@pytest.mark.parametrize("of", [WEIGHTS, VllmServer("large", "http://127.0.0.1:9/v1"), None])
def test_a_job_keeps_its_teacher_on_the_way_to_its_process(of: Any, tmp_path: Path) -> None:
    job = Job(WEIGHTS, [("call", "answer")], Recipe(), tmp_path, teacher=of)
    read = read_job(job_line(job))
    assert isinstance(read, Job)
    assert (type(read.teacher), job_line(read)) == (type(of), job_line(job))


@pytest.mark.model
def test_a_teachers_probabilities_are_learnt_beside_the_answers(tmp_path: Path) -> None:
    """The teacher, which is the base, reads more than its student: what that makes of it is what the student learns."""
    import torch
    from peft import PeftModel

    asked = ["Which letter?\n", "Which animal?\n"]
    chats = [
        [{"role": "user", "content": f"Say {word}. Only say {word}: {word}, {word}, {word}."}]
        for word in ("Q", "Tiger")
    ]
    texts: list[Any] = list(zip(asked, ["A", "An old grey elephant."], strict=True)) * 12
    _, tokenizer = load_base(WEIGHTS)

    def said(model: Any, ids: Any) -> Any:
        with torch.no_grad():
            return model(input_ids=ids).logits[0, -1].softmax(-1)

    prompts = [tokenizer(text, return_tensors="pt").input_ids for text in asked]
    base = load_base(WEIGHTS)[0]
    told = [
        tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        for c in chats
    ]
    wanted = [said(base, chat["input_ids"]) for chat in told]
    before = [said(base, ids) for ids in prompts]
    job = Job(WEIGHTS, texts, Recipe(epochs=10, top_layers=0.3, teacher_model="t", teacher_share=1.0), tmp_path)
    train(replace(job, teacher=WEIGHTS, chats=chats * 12), lambda done, total: None)
    taught = PeftModel.from_pretrained(base, tmp_path / "adapter")
    for ids, want, old in zip(prompts, wanted, before, strict=True):
        far, near = (old - want).abs().sum().item() / 2, (said(taught, ids) - want).abs().sum().item() / 2
        assert far > 0.5, "the base says something else to this prompt"
        assert near < 0.5 * far


@pytest.mark.model
def test_a_teacher_with_another_tokenizer_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load_base(WEIGHTS)

    class Other:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    monkeypatch.setattr(teacher, "load_base", lambda weights: (model, tokenizer))  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(DistillError, match="has another tokenizer than the base"):
        teacher.ask_teacher(WEIGHTS, [], [], Other(), "cpu", Path("none.pt"))


class _Vllm(BaseHTTPRequestHandler):
    """vLLM's two requests that a teacher answers, on the real base."""

    model: ClassVar[Any] = None
    tokenizer: ClassVar[Any] = None

    def do_POST(self) -> None:
        import torch

        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["model"] == "base"
        if self.path == "/tokenize" and "messages" in asked:
            assert asked["add_generation_prompt"]
            chat = self.tokenizer.apply_chat_template(asked["messages"], add_generation_prompt=True, return_dict=True)
            self.answer({"tokens": chat["input_ids"]})
        elif self.path == "/tokenize":
            assert asked["add_special_tokens"] is False
            self.answer({"tokens": self.tokenizer(asked["prompt"], add_special_tokens=False).input_ids})
        elif self.path == "/v1/completions":
            ids = asked["prompt"]
            with torch.no_grad():
                said = self.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            places: list[Any] = [None]
            for place, token in zip(said, ids[1:], strict=False):
                best = place.topk(asked["prompt_logprobs"]).indices.tolist()
                places.append({str(i): {"logprob": place[i].item(), "decoded_token": "?"} for i in [token, *best]})
            self.answer({"choices": [{"text": "", "prompt_logprobs": places}]})

    def answer(self, body: Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def vllm() -> Iterator[VllmServer]:
    _Vllm.model, _Vllm.tokenizer = load_base(WEIGHTS)
    server = HTTPServer(("127.0.0.1", 0), _Vllm)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield VllmServer("base", f"http://127.0.0.1:{server.server_port}/v1")
    server.shutdown()
    server.server_close()
    _Vllm.model = _Vllm.tokenizer = None


@pytest.mark.model
def test_a_teacher_on_a_vllm_server_says_what_it_says_here(vllm: VllmServer, tmp_path: Path) -> None:
    import torch

    chats = [[{"role": "user", "content": f"Name {what}."}] for what in ("a letter", "an old animal", "a letter")]
    tokenizer = _Vllm.tokenizer
    samples = [
        sample_of(tokenizer, WEIGHTS, "x\n", said)
        for said in ('"refund"', "An old grey elephant, or something rare: Xqz.", '"refund"')
    ]
    here = teacher.ask_teacher(WEIGHTS, chats, samples, tokenizer, "cpu", tmp_path / "here.pt")
    there = teacher.ask_teacher(vllm, chats, samples, tokenizer, "cpu", tmp_path / "there.pt")
    for mine, theirs, chances, their_chances in zip(
        here.tokens, there.tokens, here.chances, there.chances, strict=True
    ):
        assert theirs.shape == (len(mine), LIKELIEST)
        assert torch.equal(mine[:, 0], theirs[:, 0])
        assert [set(place) for place in mine[:, :LIKELIEST].tolist()] == [set(place) for place in theirs.tolist()]
        kept = chances[:, :LIKELIEST] / chances[:, :LIKELIEST].sum(-1, keepdim=True)
        assert torch.allclose(kept, their_chances, atol=1e-4)
    assert there.tokens[2] is there.tokens[0], "what is repeated is asked once"
    again = teacher.ask_teacher(
        VllmServer("gone", "http://127.0.0.1:9/v1"), [], [], tokenizer, "cpu", tmp_path / "there.pt"
    )
    assert torch.equal(again.tokens[1], there.tokens[1]), "an interrupted training does not ask again"


@pytest.mark.model
def test_a_served_teacher_with_another_tokenizer_is_refused_in_a_sentence(vllm: VllmServer, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(DistillError, match="The teacher base has another tokenizer than the base"):
        teacher.ask_teacher(vllm, [], [], PreTrainedTokenizerFast(tokenizer_object=letters), "cpu", tmp_path / "no.pt")
    assert not (tmp_path / "no.pt").exists()


@pytest.mark.model
@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (404, {"error": "Not Found"}, "refuses a request \\(404"),
        (500, {}, "failed \\(500\\); its log says why"),
        (200, {"choices": [{"text": "x"}]}, "is not vLLM's: it says no probabilities of a given text"),
        (200, {"choices": []}, "is not vLLM's"),
        (200, {"detail": "Sign in"}, "is not vLLM's"),
        (200, "<html>", "is not vLLM's"),
    ],
)
def test_a_server_that_says_no_probabilities_is_named_in_a_sentence(
    status: int, body: Any, sentence: str, monkeypatch: pytest.MonkeyPatch, vllm: VllmServer, tmp_path: Path
) -> None:
    def answers_otherwise(self: _Vllm) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            chat = "messages" in asked
            self.answer(
                {"tokens": [1] if chat else self.tokenizer(asked["prompt"], add_special_tokens=False).input_ids}
            )
        else:
            self.answer(body, status)

    monkeypatch.setattr(_Vllm, "do_POST", answers_otherwise)
    sample = sample_of(_Vllm.tokenizer, WEIGHTS, "x\n", "yes")
    with pytest.raises(EngineError, match=sentence):
        teacher.ask_teacher(
            vllm, [[{"role": "user", "content": "x"}]], [sample], _Vllm.tokenizer, "cpu", tmp_path / "t"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.model
def test_a_server_that_is_not_there_is_named_in_a_sentence(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(safetensors_folder(fetch_served(WEIGHTS)))
    gone = VllmServer("gone", "http://127.0.0.1:9/v1")
    with pytest.raises(EngineError, match="does not answer"):
        teacher.ask_teacher(gone, [], [], tokenizer, "cpu", tmp_path / "t")
