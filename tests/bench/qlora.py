# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""`python -m tests.bench.qlora [--billions 1]`: LoRA and QLoRA on a base of random weights, by the same recipe: seconds a batch and memory.

On a GPU where torch sees one, else on the processor (bases of 1, 3 and 8 billion parameters; without 4 bits the last takes more than 32 GB).
The weights mean nothing, so nothing is said of what is learnt.
The base is written as safetensors: that the first use of a GGUF file takes four bytes a parameter is not measured.
Needs `[distill,qlora]`, and two bytes a parameter on the disk while it runs. One JSON line a method.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from hetero_agents.distill import Recipe
from hetero_agents.distill.base import load_tokenizer, safetensors_folder, torch_device
from hetero_agents.distill.train import Job, train
from hetero_agents.distill.worker import SETTINGS
from hetero_agents.engines.catalog import find_weights
from hetero_agents.engines.served import fetch_served

SHAPES: dict[int, dict[str, Any]] = {
    1: {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 18, "num_key_value_heads": 8},
    3: {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_key_value_heads": 8},
    8: {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 36, "num_key_value_heads": 8},
}
"""Llama's, by billions of parameters."""

BASE = find_weights("smollm2-135m-instruct")
"""Whose tokenizer they have."""


def make(gguf: Path, billions: int) -> int:
    """Write random weights where training looks for those of a GGUF file, and return how many they are."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    gguf.write_text(f"random weights, {billions} B")
    folder, own = safetensors_folder(gguf), safetensors_folder(fetch_served(BASE))
    tokenizer = load_tokenizer(own)
    torch.manual_seed(0)
    heads = SHAPES[billions]["hidden_size"] // 128
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_attention_heads=heads, tie_word_embeddings=True, **SHAPES[billions]
    )
    with torch.device(torch_device()):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def measure(gguf: Path, batches: int, tokens: int, load_in_4bit: bool) -> None:
    """Train a few batches, and print seconds a batch after the first and the most memory after any."""
    import torch

    recipe = Recipe(batch_size=4, epochs=1.0, max_length=tokens + 64, patience=0, load_in_4bit=load_in_4bit)
    texts = [(f"{n}: {'so it goes and ' * (tokens // 4)}\n", f"answer {n}") for n in range(4 * batches)]
    weights = replace(BASE, name="random", source=str(gguf), file="", sha256=None, serve_as=None)
    ended, anonymous = list[float](), list[int]()

    def progress(done: int, total: int) -> None:
        ended.append(time.perf_counter())
        anonymous.append(psutil.Process().memory_full_info().uss)

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        train(Job(weights, texts, recipe, Path(folder)), progress)
    said = {
        "method": "QLoRA" if load_in_4bit else "LoRA",
        "device": torch.cuda.get_device_name() if torch_device() == "cuda" else "cpu",
        "batches": batches,
        "seconds_until_first": round(ended[0] - started, 1),
        "seconds_a_batch": round((ended[-1] - ended[0]) / (len(ended) - 1), 2),
        "memory_gb": round(max(anonymous) / 2**30, 2),
        # Pages of the mapped file count in it, which the system takes back when it needs them.
        "most_gb_while_loading": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    if torch_device() == "cuda":
        said["gpu_memory_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    print(json.dumps(said), flush=True)


def main() -> None:
    """Make the base, and measure each method in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--billions", type=int, choices=list(SHAPES), default=1)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128, help="of an example, about")
    parser.add_argument("--methods", nargs="+", choices=("lora", "qlora"), default=["lora", "qlora"])
    parser.add_argument("--measure", metavar="GGUF", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--in-4bit", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.measure, asked.batches, asked.tokens, asked.in_4bit)
        return
    with tempfile.TemporaryDirectory(dir=".") as folder:
        gguf = Path(folder).resolve() / "random.gguf"
        print(json.dumps({"parameters": make(gguf, asked.billions)}), flush=True)
        for method in asked.methods:
            command = [sys.executable, "-m", "tests.bench.qlora", "--measure", str(gguf)]
            if method == "qlora":
                command.append("--in-4bit")
            options = [f"--batches={asked.batches}", f"--tokens={asked.tokens}"]
            subprocess.run([*command, *options], check=True, env=os.environ | SETTINGS)


if __name__ == "__main__":
    main()
