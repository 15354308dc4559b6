"""`python -m tests.bench.baking`: a baked specialist against an unbaked one, on a slot whose prompt is mostly the same in every call.

Needs a finished `python -m examples.loan_clerk.study`, whose sentences it takes; about half an hour. The slot is the clerk's `entities` with
five examples in its instruction. Both are trained by one recipe on the same calls and answer the same held-out calls on the same engine.
One JSON line: input tokens a call and how many of them are the same in every call, the time to the first token with an empty prompt cache
and with one that has the constant part, right answers and entity F1 with the paired difference.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from examples.loan_clerk import clerk
from examples.loan_clerk.study import FOLDER
from examples.loan_clerk.work import entity_f1
from hetero_agents.contract import Contract
from hetero_agents.distill import Recipe, paired_difference, wilson
from hetero_agents.distill.base import call_text, load_base, prompt_tokens
from hetero_agents.distill.curate import Dataset, Example
from hetero_agents.distill.evaluate import predict, same
from hetero_agents.distill.specialise import job_of
from hetero_agents.distill.worker import train_aside
from hetero_agents.engines import SERVER_SLOTS, Endpoint
from hetero_agents.engines.adapter import adapter_to_gguf
from hetero_agents.engines.catalog import fetch_weights, find_weights
from hetero_agents.engines.local import LocalServers, local_model

WEIGHTS = find_weights("smollm2-135m-instruct")
WORK = Path(".bench") / "baking"
TIMED = 20
"""Calls whose first token is timed, in each of four ways."""


def main() -> None:
    """Measure and print one JSON line."""
    stored = (FOLDER / ".hetero" / "distill" / clerk.entities.id).glob("*/dataset.json")
    found = sorted(stored, key=lambda path: path.stat().st_mtime, reverse=True)
    if not found:
        sys.exit("Run `python -m examples.loan_clerk.study` first: its sentences are what is trained on.")
    print(json.dumps(asyncio.run(measure(Dataset.from_json(found[0].read_text())))))


async def measure(data: Dataset) -> dict[str, Any]:
    """Train both, answer, time, compare."""
    plain = clerk.entities.contract
    shown = data.parts["train"][:5]
    lines = [
        f"Sentence: {e.input['sentence']}\nAnswer: {plain.answer_text(e.output, plain.load(e.input))}" for e in shown
    ]
    instructions = "\n\n".join([plain.instructions, "Examples:", *lines])
    contract = Contract(clerk.entities.function, clerk.entities.id, instructions)
    _, tokenizer = load_base(WEIGHTS)
    test = data.parts["test"]
    result: dict[str, Any] = {"n": len(test)}
    right: dict[str, list[bool]] = {}
    for name, bake in (("unbaked", False), ("baked", True)):
        recipe = Recipe(epochs=2.0, max_length=1024, bake=bake, patience=0)
        folder = WORK / name
        shutil.rmtree(folder, ignore_errors=True)  # a checkpoint of an earlier run would be gone on from
        folder.mkdir(parents=True)
        trained = await train_aside(job_of(contract, data, WEIGHTS, recipe, folder, None), lambda done, total: None)
        adapter_to_gguf(folder / "adapter", fetch_weights(WEIGHTS), folder / "adapter.gguf")
        servers = LocalServers()
        model = local_model(servers, WEIGHTS, folder / "adapter.gguf", name, baked=bake)
        endpoint = Endpoint(model, bare_json=True, baked=bake, settings={"max_tokens": trained.longest_answer + 16})
        answers: dict[str, Any] = {}
        async for p in predict("specialist", endpoint, contract, test, at_once=SERVER_SLOTS):
            answers[p.key] = p.output or []
        outputs, true = [answers[e.key] for e in test], [e.output for e in test]
        right[name] = [same(a, b) for a, b in zip(outputs, true, strict=True)]
        prompts = [prompt_tokens(tokenizer, call_text(contract, contract.load(e.input), bake)) for e in test]
        result[name] = {
            "train_seconds": round(trained.seconds, 1),
            "right": wilson(sum(right[name]), len(test)).model_dump(),
            "entity_f1": round(entity_f1(outputs, true), 3),
            "input_tokens": round(statistics.fmean(map(len, prompts)), 1),
            "constant_tokens": constant(prompts),
            "first_token_seconds": await first_tokens(servers, folder / "adapter.gguf", contract, test[:TIMED], bake),
        }
        servers.close()
    result["difference"] = paired_difference(right["baked"], right["unbaked"])
    return result


def constant(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens with which all prompts begin or end."""

    def common(lists: Sequence[Sequence[int]]) -> int:
        return next((i for i, tokens in enumerate(zip(*lists, strict=False)) if len(set(tokens)) > 1), 0)

    return common(prompts) + common([list(reversed(prompt)) for prompt in prompts])


async def first_tokens(
    servers: LocalServers, adapter: Path, contract: Contract, examples: Sequence[Example], bake: bool
) -> dict[str, float]:
    """Median seconds to the first token of an answer: nothing of the prompt was read before, and its constant part was."""
    server = servers.take(WEIGHTS, adapter)
    client = AsyncOpenAI(base_url=server.url, api_key=server.key, max_retries=0)

    async def ask(example: Example, cached: bool) -> float:
        call = call_text(contract, contract.load(example.input), bake)
        messages: Any = [{"role": "user", "content": call}] if isinstance(call, str) else call
        body: Mapping[str, Any] = {
            "lora": [{"id": server.adapters.index(adapter), "scale": 1.0}],
            "cache_prompt": cached,
            "id_slot": 0,
            **({"chat_template_kwargs": {"hetero_baked": True}} if bake else {}),
        }
        began = time.perf_counter()
        stream = await client.chat.completions.create(
            model="m", messages=messages, max_tokens=4, temperature=0.0, stream=True, extra_body=body
        )
        first = 0.0
        async for chunk in stream:
            if not first and chunk.choices and chunk.choices[0].delta.content:
                first = time.perf_counter() - began
        return first

    await ask(examples[0], True)
    cold = [await ask(example, False) for example in examples]
    await ask(examples[0], True)
    warm = [await ask(example, True) for example in examples[1:]]
    await client.close()
    servers.give_back(server)
    return {"cold": round(statistics.median(cold), 3), "warm": round(statistics.median(warm), 3)}


if __name__ == "__main__":
    main()
