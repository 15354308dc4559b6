# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""One adapter, three ways of asking it: transformers, llama.cpp alone, llama.cpp under mixed traffic.

Used by `test_model.py` on a few calls and by `tests/bench/parity.py` on three hundred.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetero_agents import Slot
from hetero_agents.distill.base import load_base
from hetero_agents.engines import Endpoint
from hetero_agents.engines.catalog import Weights
from hetero_agents.engines.local import LocalModel, LocalServers, local_model
from hetero_agents.engines.served import rewrite
from hetero_agents.routing import BadAnswer, attempt

IN_FLIGHT = 8

MAX_TOKENS = 64
"""More than any of the answers has: a cut answer is no answer."""

NOISE = 3.0
"""Spread of the other adapters' weights, as a multiple of the specialist's: other answers, but not so flat that a batch tips them. One that was taught little needs more."""


@dataclass(frozen=True)
class Parity:
    """Shares of identical answers."""

    n: int
    """Calls of the specialist."""
    transformers: float
    """Alone in llama.cpp against transformers."""
    mixed: float
    """Under mixed traffic against alone, the specialist's calls."""
    others: float
    """Under mixed traffic against alone, the calls of the base and of the other adapters."""
    others_n: int
    distinct: float
    """Share of the other adapters' answers that differ from the specialist's: what a leak would change."""


def measure(
    weights: Weights,
    adapter: Path,
    slot: Slot[..., Any],
    calls: Sequence[dict[str, Any]],
    folder: Path,
    *,
    adapters: int,
    others: int,
    noise: float = NOISE,
) -> Parity:
    """Ask everybody.

    Args:
        weights: the base.
        adapter: the PEFT folder of a baked specialist, with its `adapter.gguf`.
        slot: its slot.
        calls: n bound arguments.
        folder: where the other adapters go.
        adapters: how many specialists there are in all; more than the server has slots.
        others: calls of the base and of each other adapter.
        noise: as `NOISE`.
    """
    rivals = [_noisy(adapter, folder / f"rival{i}", i, noise) for i in range(1, adapters)]
    everyone: list[Path | None] = [None, adapter / "adapter.gguf", *rivals]
    jobs = [(1, i) for i in range(len(calls))]
    # Each of the others gets calls of its own, so that many prompts meet many adapters.
    strangers = [who for who in range(len(everyone)) if who != 1]
    jobs += [(who, (place * others + k) % len(calls)) for place, who in enumerate(strangers) for k in range(others)]

    async def all_answers(in_flight: int, order: Sequence[int]) -> dict[int, str]:
        servers = LocalServers()
        models = [
            Endpoint(
                local_model(servers, weights, path, f"m{i}", baked=path is not None),
                bare_json=True,
                baked=path is not None,
                settings={"max_tokens": MAX_TOKENS},
            )
            for i, path in enumerate(everyone)
        ]
        answers: dict[int, str] = {}
        gate = asyncio.Semaphore(in_flight)
        # All adapters are loaded before the first call that counts.
        for model in models:
            await _answer(model, slot, calls[0])

        async def one(number: int) -> None:
            who, call = jobs[number]
            async with gate:
                answers[number] = await _answer(models[who], slot, calls[call])

        await asyncio.gather(*map(one, order))
        for model in models:
            assert isinstance(model.model, LocalModel)
            await model.model.client.close()
        servers.close()
        return answers

    numbers = list(range(len(jobs)))
    alone = asyncio.run(all_answers(1, numbers))
    shuffled = numbers.copy()
    random.Random(7).shuffle(shuffled)
    mixed = asyncio.run(all_answers(IN_FLIGHT, shuffled))
    reference = transformers_answers(weights, adapter, slot, calls)
    mine, theirs = [i for i in numbers if jobs[i][0] == 1], [i for i in numbers if jobs[i][0] != 1]
    specialist = {jobs[i][1]: alone[i] for i in mine}
    return Parity(
        n=len(mine),
        transformers=sum(alone[i] == reference[jobs[i][1]] for i in mine) / len(mine),
        mixed=sum(alone[i] == mixed[i] for i in mine) / len(mine),
        others=sum(alone[i] == mixed[i] for i in theirs) / len(theirs),
        others_n=len(theirs),
        distinct=sum(alone[i] != specialist[jobs[i][1]] for i in theirs) / len(theirs),
    )


async def _answer(model: Endpoint, slot: Slot[..., Any], arguments: dict[str, Any]) -> str:
    try:
        made = await attempt(model, slot.contract, arguments, retries=0)
    except BadAnswer as error:
        return f"bad: {error}"
    return json.dumps(slot.contract.dump_output(made.output), sort_keys=True)


def transformers_answers(
    weights: Weights, adapter: Path, slot: Slot[..., Any], calls: Sequence[dict[str, Any]]
) -> list[str]:
    """Greedy answers of PEFT on transformers in fp32, held to the options of each call as the grammar holds llama.cpp."""
    import torch
    from peft import PeftModel

    base, tokenizer = load_base(weights)
    model: Any = PeftModel.from_pretrained(base, str(adapter)).eval()
    end = tokenizer.convert_tokens_to_ids(weights.end_of_turn)
    prompts = [slot.contract.baked_text(call) for call in calls]
    forms = [[json.dumps(option, ensure_ascii=False) for option in slot.contract.options(call) or ()] for call in calls]
    words = {tokenizer.decode([number]): number for number in range(len(tokenizer)) if number != end}
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), 16):
        batch = order[start : start + 16]
        tokens = tokenizer([prompts[i] for i in batch], return_tensors="pt", padding=True)
        begin = tokens["input_ids"].shape[1]

        def allowed(row: int, ids: Any, batch: list[int] = batch, begin: int = begin) -> list[int]:
            """Every token that goes on towards one of the options, however it cuts the text; the end after a whole one."""
            text = tokenizer.decode(ids[begin:], skip_special_tokens=True)
            rests = [form[len(text) :] for form in forms[batch[row]] if form.startswith(text)]
            return [words[rest[:k]] for rest in rests for k in range(1, len(rest) + 1) if rest[:k] in words] or [end]

        with torch.inference_mode():
            out = model.generate(
                **tokens,
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=end,
                prefix_allowed_tokens_fn=allowed,
            )
        for row, i in enumerate(batch):
            answers[i] = json.dumps(json.loads(tokenizer.decode(out[row, begin:], skip_special_tokens=True)))
    return answers


def _noisy(adapter: Path, folder: Path, seed: int, spread: float) -> Path:
    """Another adapter: the same shapes, other weights, so that other answers come out."""
    import gguf
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(seed)
    reader = gguf.GGUFReader(adapter / "adapter.gguf")
    noise = {
        tensor.name: (dice.standard_normal(tensor.data.shape) * tensor.data.std() * spread).astype(np.float32)
        for tensor in reader.tensors
    }
    rewrite(reader, folder / "adapter.gguf", lambda tensor: gguf.GGMLQuantizationType(tensor.tensor_type), noise)
    return folder / "adapter.gguf"
