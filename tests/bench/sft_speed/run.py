# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""`python -m tests.bench.sft_speed.run [--slot desk.choose]`: our training against TRL's SFTTrainer in its best setting, in one run.

Needs a finished `make demo`, whose examples it takes; about twenty minutes. Same base, texts, rank, layers, rate, epochs and batch
size, the loss on answers alone in both. TRL's settings (packing, length grouping, bf16) are swept on the first examples; the fastest is
then trained whole, and so are ours; both adapters answer the demo's held-out calls on the same engine. One JSON line:
examples a second of each, scores with their paired difference, and the share of the machine's fp32 matrix peak that our training's useful products are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from examples.tool_desk.demo import FOLDER, RECIPES
from examples.tool_desk.figures import SLOTS, WEIGHTS, by_input, line_of, share
from examples.tool_desk.work import load_items
from hetero_agents.distill import paired_difference
from hetero_agents.distill.base import load_base, prompt_text, safetensors_folder
from hetero_agents.distill.curate import Dataset
from hetero_agents.distill.evaluate import predict
from hetero_agents.distill.recipe import Recipe
from hetero_agents.distill.specialise import job_of
from hetero_agents.distill.train import Job
from hetero_agents.distill.worker import SETTINGS, train_aside
from hetero_agents.engines import SERVER_SLOTS, Endpoint
from hetero_agents.engines.adapter import adapter_to_gguf
from hetero_agents.engines.catalog import fetch_weights, find_weights
from hetero_agents.engines.local import LocalServers, local_model
from hetero_agents.engines.served import fetch_served

PEER = Path(".bench") / "trl"
PACKAGES = [
    *("trl==1.16.0", "datasets==5.2.0", "accelerate==1.15.0", "pyarrow>=24", "pandas>=2.1,<3", "dill<0.4.2"),
    *("xxhash", "multiprocess<0.70.20", "python-dateutil", "pytz", "tzdata", "six"),
]
"""Beside torch, transformers and peft, which are those of this interpreter."""

SWEPT = 96
"""Examples on which TRL's settings are compared."""


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slot", choices=list(SLOTS), default="desk.choose")
    name = parser.parse_args().slot
    if not (FOLDER / "report.json").exists():
        sys.exit("Run `make demo` first: its examples are what is trained on.")
    if not PEER.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(PEER)]
        subprocess.run([*pip, *PACKAGES], check=True)
    print(json.dumps(asyncio.run(measure(name))))


async def measure(name: str) -> dict[str, Any]:
    """Sweep, train both, answer, compare."""
    contract, weights, work = SLOTS[name].contract, find_weights(WEIGHTS), Path(".bench") / "sft_speed" / name
    shutil.rmtree(work, ignore_errors=True)  # a checkpoint of an earlier run would be gone on from
    work.mkdir(parents=True)
    data = Dataset.from_json(
        max((FOLDER / ".hetero" / "distill" / name).glob("*/dataset.json"), key=lambda p: p.stat().st_mtime).read_text()
    )
    recipe = Recipe(epochs=RECIPES[name].epochs, max_length=RECIPES[name].max_length, patience=0)
    job = job_of(contract, data, weights, recipe, work / "ours", None)
    job = Job(weights, job.texts, recipe, work / "ours")
    model, tokenizer = load_base(weights)
    end = weights.end_of_turn or tokenizer.eos_token
    texts = [(prompt_text(tokenizer, call), answer + end) for call, answer in job.texts]

    def peer(setting: dict[str, bool], some: list[tuple[str, str]], epochs: float, out: Path | None) -> float:
        """Examples a second of one training by TRL."""
        layers: int = model.config.num_hidden_layers
        how = {key: getattr(recipe, key) for key in ("r", "lora_alpha", "batch_size", "max_length", "seed")}
        how |= {"learning_rate": recipe.rate(model.num_parameters()), "epochs": epochs}
        how |= {"layers": list(range(layers - layers // 2, layers))}
        given = {"base": str(safetensors_folder(fetch_served(weights))), "texts": some, "recipe": how}
        path = work / "job.json"
        path.write_text(json.dumps(given | {"setting": setting, "out": str(out) if out else None}))
        script = Path(__file__).with_name("peer.py")
        environment = os.environ | SETTINGS | {"PYTHONPATH": str(PEER.resolve()), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, str(script), str(path)], capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        return len(some) * epochs / json.loads(done.stdout.splitlines()[-1])["seconds"]

    sweep = [
        {"packing": packing, "grouped": grouped, "bf16": bf16}
        for packing, grouped in ((False, False), (False, True), (True, False))
        for bf16 in (False, True)
    ]
    # Every sixth, so that what is swept is like the whole.
    some = texts[:: max(1, len(texts) // SWEPT)][:SWEPT]
    swept = [{**setting, "examples_a_second": round(peer(setting, some, 1.0, None), 2)} for setting in sweep]
    # Packing without flash attention lets examples see each other: it is in the sweep, but trains something else.
    fair = [entry for entry in swept if not entry["packing"]]
    best = max(fair, key=lambda entry: entry["examples_a_second"])
    setting = {key: bool(best[key]) for key in ("packing", "grouped", "bf16")}
    theirs = peer(setting, texts, recipe.epochs, work / "trl" / "adapter")
    (work / "ours").mkdir(exist_ok=True)
    began = time.perf_counter()
    trained = await train_aside(job, lambda done, total: None)
    whole = time.perf_counter() - began
    ours = (len(texts) - trained.left_out) * recipe.epochs / trained.seconds
    right = {who: await answers(name, work / who, data, trained.longest_answer) for who in ("ours", "trl")}
    return {
        "slot": name,
        "examples": len(texts),
        "epochs": recipe.epochs,
        "trl_sweep": swept,
        "trl_best": setting,
        "examples_a_second": {"ours": round(ours, 2), "trl": round(theirs, 2), "times": round(ours / theirs, 2)},
        "our_seconds": {"training": round(trained.seconds, 1), "with_start": round(whole, 1)},
        "right": {who: share(list(found.values())) for who, found in right.items()},
        "difference": paired_difference(*(list(found.values()) for found in right.values())),
        **peak_share(model, tokenizer, texts, recipe, trained.seconds),
    }


async def answers(name: str, folder: Path, data: Dataset, longest: int) -> dict[str, bool]:
    """Whether an adapter is right, by held-out item."""
    contract, weights, known = SLOTS[name].contract, find_weights(WEIGHTS), by_input(name, load_items())
    gguf = folder / "adapter.gguf"
    adapter_to_gguf(folder / "adapter", fetch_weights(weights), gguf)
    servers = LocalServers()
    model = local_model(servers, weights, gguf, f"{name} {folder.name}", baked=True)
    endpoint = Endpoint(model, bare_json=True, baked=True, settings={"max_tokens": longest + 16})
    right: dict[str, bool] = {}
    async for prediction in predict("specialist", endpoint, contract, data.parts["test"], at_once=SERVER_SLOTS):
        line = line_of(name, prediction, known)
        right[line["item"]] = line["right"]
    servers.close()
    return dict(sorted(right.items()))


def peak_share(
    model: Any, tokenizer: Any, texts: list[tuple[str, str]], recipe: Recipe, seconds: float
) -> dict[str, float]:
    """Products of the examples alone, forward in all layers and backward in the upper ones, against a large fp32 product of this machine.

    What shared beginnings and kept lower layers spare is not counted off: it is how the time is saved.
    """
    import torch

    matrices = sum(p.numel() for n, p in model.named_parameters() if ".layers." in n and p.ndim == 2)
    head, size = model.get_output_embeddings().weight.numel(), 4096
    tokens = sum(len(tokenizer(prompt + answer).input_ids) for prompt, answer in texts) * recipe.epochs
    answered = sum(len(tokenizer(answer).input_ids) for _, answer in texts) * recipe.epochs
    done = 2 * tokens * matrices * (1 + recipe.top_layers) + 4 * answered * head
    a, b = torch.randn(size, size), torch.randn(size, size)
    rates: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        torch.matmul(a, b)
        rates.append(2 * size**3 / (time.perf_counter() - began))
    return {
        "gflops": round(done / seconds / 1e9, 1),
        "fp32_peak_gflops": round(max(rates) / 1e9, 1),
        "share_of_fp32_peak": round(done / seconds / max(rates), 3),
    }


if __name__ == "__main__":
    main()
