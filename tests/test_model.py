# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
"""The loop on the real small model: trained, converted, served, promoted and rolled back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from pydantic_ai.direct import model_request

from examples.tool_desk.desk import choose, fill
from examples.tool_desk.work import Item, answer_lines, load_items
from hetero_agents import DistillError, EngineError, IntegrityError, SlotResult
from hetero_agents.bindings import Certificate, ModelConfig, Workspace
from hetero_agents.bindings.lock import exclusive, update_lock
from hetero_agents.cli.distill import say, values_of
from hetero_agents.distill import Distilled, Recipe, distill, select
from hetero_agents.distill.base import chat_of, load_base, sample_of
from hetero_agents.distill.certify import FURTHER
from hetero_agents.distill.loop import comparator_of
from hetero_agents.distill.lower import LowerLayers
from hetero_agents.distill.rehearse import Rehearsal, Way, certified
from hetero_agents.distill.rows import Examples, Sample
from hetero_agents.distill.train import Job, answer_logits, train
from hetero_agents.distill.worker import train_aside
from hetero_agents.engines import probe as probes
from hetero_agents.engines.adapter import CHANGED, adapter_to_gguf, whole_to_gguf
from hetero_agents.engines.catalog import fetch_weights, find_weights, sha256_of_file
from hetero_agents.engines.local import LocalServers
from hetero_agents.engines.served import fetch_served, rewrite
from hetero_agents.routing import Aside
from hetero_agents.slots import App, registry
from hetero_agents.spans import Feedback
from tests.parity import measure

pytestmark = pytest.mark.model

WEIGHTS = find_weights("smollm2-135m-instruct")
RECIPE = Recipe(epochs=1.6)
TOML = """
[app]
modules = ["desk"]
[models]
big = { model = "replay:answers.jsonl", train_on_outputs = true }
small = "local:smollm2-135m-instruct"
matcher = "local:all-minilm-l6-v2"
[tiers]
llm = { model = "big" }
slm = { model = "small", fallback = ["big"] }
[slots."desk.choose"]
split_by = "request"
[privacy]
content = "raw"
"""


@dataclass
class Loop:
    """A workspace after one trip through the loop."""

    app: App
    made: Distilled
    items: list[Item]


def _loss(model: Any, lower: LowerLayers | None, rows: Any, pad: int) -> float:
    import torch

    logits, labels = answer_logits(model, lower, rows, pad, "cpu")
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()


def silent(step: str, done: int, total: int) -> None:
    pass


def movie_items() -> list[Item]:
    """Items whose tools recur often, so that a short training shows."""
    return [item for item in load_items() if item.tool.startswith(("Movies", "Events", "Music", "Media"))][:145]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Generator[Loop]:
    root = tmp_path_factory.mktemp("loop")
    items = movie_items()
    (root / "hetero.toml").write_text(TOML)
    (root / "desk.py").write_text((Path(__file__).parents[1] / "examples" / "tool_desk" / "desk.py").read_text())
    (root / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answer_lines(items)))
    app = App.of(Workspace(root))
    before = registry.use(app)

    async def trip() -> Distilled:
        for item in items:
            await choose(item.request, list(item.tools))
        return await distill(app, choose, recipe=RECIPE, progress=silent)

    try:
        yield Loop(app, asyncio.run(trip()), items)
    finally:
        registry.use(before)
        app.close()


def test_a_specialist_beats_its_base_under_the_same_grammar_on_held_out_requests(loop: Loop) -> None:
    scores = loop.made.specialist.scores
    assert scores["specialist"].n >= 30
    assert scores["specialist"].score > scores["base_grammar"].score
    assert scores["specialist"].score > scores["base_five_shot"].score
    assert scores["teacher"].score == 1.0
    assert {"word_overlap", "most_frequent"} <= scores.keys()


def test_the_items_that_are_left_for_final_checks_are_nobodys_work() -> None:
    numbers = {int(item.id.split("_")[2].split("-")[0]) for item in load_items()}
    assert numbers == set(range(800))


def test_parts_share_no_request(loop: Loop) -> None:
    parts = loop.made.dataset.parts
    requests = {name: {e.input["request"] for e in examples} for name, examples in parts.items()}
    assert all(requests.values())
    for first in requests:
        for second in requests:
            assert first == second or not requests[first] & requests[second]


def test_the_lock_holds_the_hashes_of_base_adapter_data_and_contract(loop: Loop) -> None:
    entry = loop.app.workspace.lock.specialists[loop.made.specialist_id]
    assert entry.base_sha256 == WEIGHTS.sha256
    assert entry.contract_sha256 == choose.contract.sha256
    assert entry.dataset_sha256 == loop.made.dataset.sha256
    assert len(entry.adapter_sha256) == len(entry.gguf_sha256) == 64


def test_the_same_data_and_recipe_are_not_distilled_twice(loop: Loop) -> None:
    served = loop.app.workspace.root / loop.made.specialist.served
    served.unlink()
    again = asyncio.run(distill(loop.app, choose, recipe=RECIPE, progress=silent))
    assert again.reused
    assert again.specialist_id == loop.made.specialist_id
    assert sha256_of_file(served) == loop.made.specialist.gguf_sha256, "what is missing is there again"


def test_a_slot_is_distilled_by_one_process_at_a_time(loop: Loop) -> None:
    folder = loop.app.workspace.state_dir / "distill" / choose.id
    with (
        exclusive(folder / ".flock"),
        pytest.raises(DistillError, match="is being distilled or relabelled by another process"),
    ):
        asyncio.run(distill(loop.app, choose, progress=silent))


@pytest.mark.parametrize("lowest", [0, 20])
def test_examples_in_one_row_have_the_loss_that_they_have_alone(lowest: int) -> None:
    """Three share a beginning, one stands alone; with and without lower layers that are computed once."""
    import torch

    model, tokenizer = load_base(WEIGHTS)
    begin = list(range(50, 80))
    alike = [Sample([*begin, *range(300, 300 + n)], [900, 901, 902 + n]) for n in (3, 9, 1)]
    samples = [*alike, Sample(list(range(400, 417)), [900, 77])]
    alone = 0.0
    for sample in samples:
        ids = torch.tensor([sample.tokens])
        labels = torch.tensor([[-100] * len(sample.prompt) + sample.answer])
        with torch.no_grad():
            alone += model(input_ids=ids, labels=labels).loss.item() * len(sample.answer)

    examples = Examples(samples, share=True)
    everything = examples.rows(range(4))
    assert [row.shared for row in everything] == [30, 0]
    lower = LowerLayers(model, lowest, everything, 64) if lowest else None
    # All at once, and in batches that are not the rows of the lower layers.
    for batches in ([[0, 1, 2, 3]], [[0, 3], [2], [1]]):
        with torch.no_grad():
            losses = [_loss(model, lower, examples.rows(batch), tokenizer.pad_token_id) for batch in batches]
        assert sum(losses) == pytest.approx(alone, rel=1e-4)


def test_a_promote_in_another_process_is_seen_by_the_next_call_and_a_rollback_too(loop: Loop) -> None:
    item = loop.items[0]

    def hetero(*arguments: str) -> str:
        command = [sys.executable, "-c", "from hetero_agents.cli import main; main()", *arguments]
        done = subprocess.run(command, cwd=loop.app.workspace.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def who() -> str | None:
        return (await choose.run(item.request, list(item.tools))).route.specialist

    async def calls() -> list[str | None]:
        answered = [await who()]
        await asyncio.to_thread(hetero, "promote", "desk.choose")
        answered.append(await who())
        await asyncio.to_thread(hetero, "rollback", "desk.choose")
        return [*answered, await who()]

    assert asyncio.run(calls()) == [None, "desk.choose@1", None]
    assert loop.app.state.stopped(loop.made.specialist_id) == "it was rolled back by hand"
    loop.app.state.forget(loop.made.specialist_id)  # as `hetero promote` does


def test_under_an_error_budget_the_real_model_gives_what_it_is_sure_of_and_the_llm_the_rest(loop: Loop) -> None:
    app, name, parts = loop.app, loop.made.specialist_id, loop.made.dataset.parts
    held = [*parts["test"], *parts["certify"]]
    data = replace(
        loop.made.dataset,
        parts={**parts, "select": held[:15], "certify": held[15:40], "test": [*held[40:], *parts["select"]]},
    )
    (folder,) = {path.parent for path in (app.workspace.state_dir / "distill" / choose.id).glob("*/dataset.json")}
    toml, lock = app.workspace.config_path, app.workspace.lock
    toml.write_text(TOML.replace('split_by = "request"', 'split_by = "request"\nerror_budget = 0.4\naudit = 1.0'))
    base = ModelConfig(model=loop.made.specialist.base)
    ask = Rehearsal(app, choose, base, name, loop.made.specialist, folder, silent)

    async def trip() -> tuple[Certificate, list[SlotResult[str]]]:
        compare = await comparator_of(app, choose)
        shown, bins = await certified(ask, data, compare, await ask.answers(data.parts["test"], Way()))
        assert sum(b.n for b in bins) == len(data.parts["test"])
        app.workspace.add_specialist(name, loop.made.specialist.model_copy(update={"certificate": shown}))
        app.workspace.activate(choose.id, name)
        return shown, [await choose.run(**e.input) for e in parts["test"][:20]]

    try:
        shown, results = asyncio.run(trip())
        assert shown.threshold is not None, shown.missing
        assert {"text", "choice"} <= shown.calibrator.weights.keys() <= {"text", "choice", *FURTHER}
        kept = [r for r in results if r.route.specialist]
        assert len(kept) > 0
        assert all((r.confidence or 0) >= shown.threshold for r in kept)
        assert all("sure by" in (r.route.reason or "") for r in results if r not in kept)
        app.aside.close(60)
        assert len(app.state.evidence(name, "active")) == len(kept), "each kept answer was compared with the LLM's"
    finally:
        app.aside = Aside()
        toml.write_text(TOML)
        update_lock(app.workspace.lock_path, lambda _: lock)


def test_weights_that_are_not_those_evaluated_are_never_served(loop: Loop) -> None:
    app, name = loop.app, loop.made.specialist_id
    item = loop.items[1]
    app.workspace.activate(choose.id, name)
    true = app.workspace.lock
    wrong = loop.made.specialist.model_copy(update={"gguf_sha256": "0" * 64})
    update_lock(app.workspace.lock_path, lambda lock: lock.model_copy(update={"specialists": {name: wrong}}))
    try:
        result = asyncio.run(choose.run(item.request, list(item.tools)))
        assert result.route.decision == "escalated"
        assert "SHA-256 differs" in (result.route.reason or "")
        with pytest.raises(IntegrityError, match="not what was evaluated"):
            asyncio.run(app.engines.specialist(name, wrong, ModelConfig(model=wrong.base)))
    finally:
        update_lock(app.workspace.lock_path, lambda lock: true)
        app.workspace.restore(choose.id)


def test_the_same_adapter_answers_alike_in_transformers_alone_and_under_mixed_traffic(
    loop: Loop, tmp_path: Path
) -> None:
    calls = [choose.contract.bind((i.request, list(i.tools)), {}) for i in loop.items[:24]]
    folder = loop.app.workspace.root / loop.made.specialist.adapter
    parity = measure(WEIGHTS, folder, choose, calls, tmp_path, adapters=6, others=3, noise=6.0)
    assert parity.distinct > 0.1, "the other adapters must answer differently, or a leak would not show"
    # Bounds for n = 24; tests/bench/parity.py measures on 300.
    assert parity.transformers >= 0.95
    assert parity.mixed >= 0.95
    assert parity.others >= 0.9


def test_an_adapter_for_another_base_is_refused_in_a_sentence(loop: Loop, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    source = loop.app.workspace.root / loop.made.specialist.adapter
    tensors = {
        k: torch.zeros(t.shape[0], t.shape[1] + 8) if "lora_A" in k else t
        for k, t in load_file(source / "adapter_model.safetensors").items()
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text((source / "adapter_config.json").read_text())
    with pytest.raises(EngineError, match="it is for another base"):
        adapter_to_gguf(tmp_path, fetch_weights(WEIGHTS), tmp_path / "adapter.gguf")
    assert not (tmp_path / "adapter.gguf").exists()


def test_a_token_weighs_the_same_in_a_batch_of_short_and_of_long_answers(tmp_path: Path) -> None:
    """Half of the answers to one question are empty: a balanced objective learns about a half of each."""
    import torch
    from peft import PeftModel

    chat, names = [{"role": "user", "content": "Who?"}], "Ada Byron, Charles Babbage, George Boole, Mary Somerville, "
    # Answers of one length come in one batch.
    texts = [(chat, "No one.")] * 40 + [(chat, "Names: " + names * 2)] * 40
    train(Job(WEIGHTS, texts, Recipe(epochs=3, top_layers=0.1), tmp_path), lambda done, total: None)
    model, tokenizer = load_base(WEIGHTS)
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        after = PeftModel.from_pretrained(model, tmp_path / "adapter")(**prompt).logits[0, -1].softmax(-1)
    empty, named = (after[tokenizer(word).input_ids[0]].item() for word in ("No", "Names"))
    assert empty + named > 0.9
    assert 0.25 < empty < 0.75


def test_a_probe_measures_the_model_and_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = tmp_path / "probes.json"
    monkeypatch.setattr(probes, "_path", lambda: kept)
    assert probes.probed(WEIGHTS.name) is None
    found = probes.probe(WEIGHTS)
    assert probes.probed(WEIGHTS.name) == found
    assert 0 < found.first_token_warm < found.first_token_cold
    assert 1 < found.tokens_a_second < 10_000
    assert 150 < found.rss_mb < found.memory_mb, "weights of 135 MB and more"
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(EngineError, match=r"could not be measured: llama.cpp cannot load broken.gguf"):
        probes.probe(find_weights(str(broken)))


def test_a_base_is_asked_as_its_own_chat_template_says() -> None:
    """Wrapped in ours, which is for baked specialists, it gives the same prompt; and ours gives the text alone."""
    _, tokenizer = load_base(WEIGHTS)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    servers = LocalServers()
    server = servers.take(WEIGHTS, None)

    def prompt(**more: Any) -> str:
        root, headers = server.url.removesuffix("/v1"), {"Authorization": f"Bearer {server.key}"}
        return httpx2.post(f"{root}/apply-template", headers=headers, json={"messages": chat, **more}).json()["prompt"]

    try:
        assert prompt() == tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert prompt(chat_template_kwargs={"hetero_baked": True}) == "Be brief."
    finally:
        servers.give_back(server)
        servers.close()


def test_a_training_that_runs_away_says_so_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    texts = [(f"Say {n}.\n", str(n)) for n in range(16)]
    recipe = Recipe(epochs=8, top_layers=0.1, learning_rate=1e30)
    with pytest.raises(DistillError, match=r"The loss is not a number after \d+ of 32 batches; lower learning_rate"):
        train(Job(WEIGHTS, texts, recipe, tmp_path, checkpoint_seconds=0.0), lambda done, total: None)
    assert not list(tmp_path.iterdir())


def test_of_each_example_an_epoch_learns_one_form_and_one_that_is_too_long_in_a_form_is_left_out(
    tmp_path: Path,
) -> None:
    forms = [
        [(f"Say {word} {n}{' please' * 40 * (n == 3 and word == 'now')}.\n", f"{n}") for n in range(8)]
        for word in ("it", "now")
    ]
    recipe = Recipe(epochs=2, top_layers=0.1, max_length=32)
    made = train(Job(WEIGHTS, [*forms[0], *forms[1]], recipe, tmp_path, forms=2), lambda done, total: None)
    assert (made.examples, made.left_out) == (7, 1)
    assert made.losses[-1][0] == 14


@pytest.mark.parametrize(("begin", "kept"), [("The tools are a lamp, a saw, a rope and a jar.", True), ("", False)])
def test_lower_layers_are_kept_for_one_pass_where_prompts_begin_alike(
    begin: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[LowerLayers] = []

    class Noted(LowerLayers):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr("hetero_agents.distill.train.LowerLayers", Noted)
    texts = [
        (f"{begin} {word} is asked for.\n", word) for word in ("A saw", "Its rope", "One jar", "Lamps", "No", "We")
    ]
    train(Job(WEIGHTS, texts, Recipe(epochs=1, batch_size=2, top_layers=0.1), tmp_path), lambda done, total: None)
    assert bool(made) == kept


def test_training_ends_when_the_select_part_gets_worse_and_keeps_what_was_best(tmp_path: Path) -> None:
    from peft import PeftModel

    texts = [(f"Say {n}.\n", f"It is {n}.") for n in range(24)]
    held = [(f"Say {n}.\n", f"No, never {n}, not at all.") for n in range(30, 38)]
    recipe = Recipe(epochs=10, top_layers=0.1, patience=2, learning_rate=5e-3)
    made = train(Job(WEIGHTS, texts, recipe, tmp_path, held), lambda done, total: None)
    losses = [loss for _, loss in made.looks]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + recipe.patience < 20, "it ended after two looks without a lower loss"
    model, tokenizer = load_base(WEIGHTS)
    rows = Examples([sample_of(tokenizer, WEIGHTS, *text) for text in held], share=False).rows(range(len(held)))
    tuned = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    tokens = sum(len(sample.answer) for row in rows for sample in row.samples)
    found = _loss(tuned, None, rows, tokenizer.pad_token_id) / tokens
    assert found == pytest.approx(min(losses), rel=0.02)  # bf16 then, fp32 now
    assert abs(found - losses[-1]) > 0.05


@pytest.mark.parametrize("how", [{"method": "full", "learning_rate": 5e-4}, {"use_dora": True, "learning_rate": 5e-3}])
def test_a_whole_model_says_on_its_engine_what_it_learnt(tmp_path: Path, how: dict[str, Any]) -> None:
    answers = {
        "Who?\n": "Zorblax the seventh.",
        "When?\n": "On a Tuesday in autumn.",
        "Where?\n": "Below the old bridge.",
    }
    recipe = Recipe(epochs=30, top_layers=0.2, batch_size=3, **how)
    train(Job(WEIGHTS, list(answers.items()), recipe, tmp_path), lambda done, total: None)
    whole = tmp_path / "whole.gguf"
    whole_to_gguf(tmp_path / "adapter" / CHANGED, fetch_served(WEIGHTS), whole)
    servers = LocalServers()
    server = servers.take(replace(WEIGHTS, name="own", source=str(whole), file="", serve_as=None), None)
    base = servers.take(WEIGHTS, None)

    def said(server: Any, text: str) -> str:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": 20, "temperature": 0.0}
        body["chat_template_kwargs"] = {"hetero_baked": True}
        headers = {"Authorization": f"Bearer {server.key}"}
        answer = httpx2.post(f"{server.url}/chat/completions", headers=headers, json=body, timeout=60).json()
        return answer["choices"][0]["message"]["content"]

    try:
        assert {text: said(server, text) for text in answers} == answers
        assert said(base, "Who?\n") != answers["Who?\n"]
    finally:
        servers.give_back(server)
        servers.give_back(base)
        servers.close()


def test_an_adapter_that_was_trained_on_a_base_in_4_bits_fits_the_base_that_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    loaded: list[Any] = []

    def load(*arguments: Any, **options: Any) -> tuple[Any, Any]:
        loaded.append(load_base(*arguments, **options))
        return loaded[-1]

    monkeypatch.setattr("hetero_agents.distill.train.load_base", load)
    answers = [("Who?\n", "Zorblax the seventh."), ("When?\n", "On a Tuesday."), ("Where?\n", "Below the bridge.")]
    recipe = Recipe(epochs=16, top_layers=0.2, batch_size=3, learning_rate=5e-3, load_in_4bit=True)
    train(Job(WEIGHTS, answers, recipe, tmp_path), lambda done, total: None)
    trained = [module for name, module in loaded[0][0].named_modules() if name.endswith("_proj.base_layer")]
    assert {type(module).__name__ for module in trained} == {"Linear4bit"}
    assert {module.weight.quant_type for module in trained} == {"nf4"}

    model, tokenizer = load_base(WEIGHTS)
    samples = [sample_of(tokenizer, WEIGHTS, *text) for text in answers]
    rows = Examples(samples, share=False).rows(range(len(samples)))
    tokens = sum(len(sample.answer) for sample in samples)
    before = _loss(model, None, rows, tokenizer.pad_token_id) / tokens
    tuned = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    assert _loss(tuned, None, rows, tokenizer.pad_token_id) / tokens < 0.3 < 3 < before


def test_a_matrix_of_another_base_makes_no_whole_model(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    changed = tmp_path / CHANGED
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4)}, changed)
    with pytest.raises(EngineError, match="it is for another base"):
        whole_to_gguf(changed, fetch_served(WEIGHTS), tmp_path / "whole.gguf")
    assert not (tmp_path / "whole.gguf").exists()


def test_a_matcher_is_fitted_measured_and_served_as_a_specialist_is(loop: Loop) -> None:
    app, steps, before = loop.app, list[str](), loop.app.workspace.lock
    try:
        made = asyncio.run(distill(app, choose, base="matcher", progress=lambda step, done, total: steps.append(step)))
        scores = made.specialist.scores
        assert scores["specialist"].score >= max(scores["base_untaught"].score, scores["most_frequent"].score)
        assert {"train", "evaluate specialist", "evaluate base_untaught"} <= set(steps)
        (held, *_) = made.dataset.parts["test"]
        given = next(p for p in made.predictions if p.phase == "specialist" and p.key == held.key)
        app.workspace.activate(choose.id, made.specialist_id)
        answered = asyncio.run(choose.run(held.input["request"], held.input["tools"]))
    finally:
        update_lock(app.workspace.lock_path, lambda _: before)
    assert (answered.output, answered.model, answered.route.decision) == (given.output, made.specialist_id, "kept")
    assert "matcher" in loop.made.specialist.scores, "it stands beside the one that writes, too"


def test_a_distillation_that_ends_before_its_end_leaves_nothing_beside_the_lock(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise EngineError("It died.")

    shipped = loop.app.workspace.root / "specialists"
    before = set(shipped.iterdir())
    monkeypatch.setattr("hetero_agents.distill.loop.contest", broken)
    monkeypatch.setattr("hetero_agents.distill.specialise.HOW", {"another": "way"})  # a matcher that is not there yet
    with pytest.raises(EngineError, match="It died"):
        asyncio.run(distill(loop.app, choose, base="matcher", progress=silent))
    assert set(shipped.iterdir()) == before


def test_a_bake_off_drops_what_is_worst_and_trains_the_others(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gguf
    import numpy as np

    root, served, before = loop.app.workspace.root, fetch_served(WEIGHTS), loop.app.workspace.lock
    reader = gguf.GGUFReader(served)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    damaged: dict[str, Any] = {}
    for tensor in reader.tensors:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        if "ffn_down" in tensor.name:  # pyright: ignore[reportUnknownMemberType]
            damaged[tensor.name] = np.zeros([int(n) for n in tensor.shape[::-1]], np.float32)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportUnknownArgumentType]
    rewrite(reader, root / "damaged.gguf", lambda tensor: gguf.GGMLQuantizationType(tensor.tensor_type), damaged)
    (root / "hetero.toml").write_text(TOML.replace("[tiers]", 'damaged = "local:damaged.gguf"\n[tiers]'))
    monkeypatch.setattr(select, "FEWEST", 5)
    names = ["damaged", "small", "matcher"]
    try:
        made = asyncio.run(distill(loop.app, choose, candidates=names, recipe=RECIPE, progress=silent))
    finally:
        (root / "hetero.toml").write_text(TOML)
        update_lock(loop.app.workspace.lock_path, lambda _: before)
    assert made.bake_off is not None
    first, second = made.bake_off.rounds[:3], made.bake_off.rounds[3:]
    assert {(r.name, r.round, r.train_seconds) for r in first} == {(name, "five examples", 0.0) for name in names}
    assert [r.name for r in first if not r.kept] == ["damaged"]
    assert {(r.name, r.round) for r in second} == {(name, "0.4 epochs") for name in names[1:]}
    assert all(r.train_seconds > 0 for r in second)
    (winner,) = (r.name for r in second if r.kept)
    assert winner == made.bake_off.winner
    assert made.specialist.matcher == (winner == "matcher")
    assert f"{winner} was right for" in made.bake_off.why
    assert json.loads(json.dumps(values_of(made)))["bake_off"]["rounds"][0]["score"]["n"] >= 5
    say(loop.app, made, {"of a failed run": 1}, {"other": "its licence is not known"})
    printed = capsys.readouterr().out
    for said in (
        "Bake-off for desk.choose",
        "other was no candidate",
        "Weak corners" if any(s.weak for s in made.slices) else "Next:",
    ):
        assert said in printed


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    items = movie_items()[:12]
    texts = [
        (chat_of(choose.contract.messages(a)), choose.contract.answer_text(i.tool, a))
        for i in items
        for a in [choose.contract.bind((i.request, list(i.tools)), {})]
    ]
    recipe = Recipe(epochs=2, batch_size=2, top_layers=0.1)
    seen: list[int] = []

    async def training(name: str, end: Callable[[], object], at: int = 0) -> None:
        def progress(done: int, total: int) -> None:
            seen.append(done)
            if done == at:
                end()

        await train_aside(Job(WEIGHTS, texts, recipe, tmp_path / name, checkpoint_seconds=0.0), progress)

    def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    def kill() -> None:
        for child in psutil.Process().children():
            child.kill()

    adapter = Path("adapter", "adapter_model.safetensors")
    for name in ("whole", "ended"):
        (tmp_path / name).mkdir()
    train(Job(WEIGHTS, texts, recipe, tmp_path / "whole"), lambda done, total: None)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(training("ended", cancel, at=4))
    seen.clear()
    with pytest.raises(DistillError):
        asyncio.run(training("ended", kill, at=8))
    assert seen[0] > 1, "it went on where it was cancelled"
    seen.clear()
    asyncio.run(training("ended", lambda: None))
    assert seen[0] > 5, "it went on where it was killed"
    assert (tmp_path / "ended" / adapter).read_bytes() == (tmp_path / "whole" / adapter).read_bytes()


def test_the_grammar_lets_through_exactly_the_form_that_is_trained(loop: Loop) -> None:
    """Objects with optional and nested parts come out in the order and with the spaces of `answer_text`."""
    item = next(i for i in load_items() if i.tool == "Events_3_FindEvents")
    arguments = fill.contract.bind((item.request, item.tools[item.tool]), {})

    async def answer() -> str:
        endpoint = await loop.app.engines.endpoint(ModelConfig(model="local:smollm2-135m-instruct"), fill.id)
        parameters = fill.contract.request_parameters(arguments, mode="native", bare_json=endpoint.bare_json)
        messages = fill.contract.messages(arguments)
        return (await model_request(endpoint.model, messages, model_request_parameters=parameters)).text or ""

    text = asyncio.run(answer())
    assert text.startswith('{"event_type": "')
    assert text == fill.contract.answer_text(json.loads(text), arguments)


def test_a_slot_whose_answers_may_not_be_trained_on_stops_with_what_to_do(tmp_path: Path) -> None:
    items = movie_items()[:60]
    (tmp_path / "hetero.toml").write_text(TOML.replace("train_on_outputs = true", "train_on_outputs = false"))
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answer_lines(items)))
    app = App.of(Workspace(tmp_path))
    before = registry.use(app)

    async def trip() -> None:
        for item in items:
            await choose(item.request, list(item.tools))
        await distill(app, choose, progress=silent)

    try:
        with pytest.raises(DistillError, match="train_on_outputs = true"):
            asyncio.run(trip())
    finally:
        registry.use(before)
        app.close()


def test_a_corrected_held_out_answer_is_measured_again_without_a_training(loop: Loop) -> None:
    # Last of those that use the loop: it adds a second specialist.
    call = next(iter(loop.made.dataset.parts["test"]))
    other = next(tool for tool in call.input["tools"] if tool != call.output)
    loop.app.vault.say(Feedback(call.trace_id, call.span_id, None, other, True, 1))
    steps: list[str] = []
    made = asyncio.run(distill(loop.app, choose, recipe=RECIPE, progress=lambda step, done, total: steps.append(step)))
    assert "train" not in steps
    assert made.specialist_id != loop.made.specialist_id
    assert made.specialist.adapter_sha256 == loop.made.specialist.adapter_sha256
    assert made.specialist.dataset_sha256 != loop.made.specialist.dataset_sha256
    assert {p.target for p in made.predictions if p.key == call.key} == {other}
