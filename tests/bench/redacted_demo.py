"""`python -m tests.bench.redacted_demo`: what redaction costs the demo's specialists. Needs a finished `make demo`; about ten minutes.

The desk runs on the answer key again, this time into a vault with redaction. Specialists are trained on the redacted calls of the
items that the demo trained on, with the demo's recipes, and answer the demo's held-out requests as users wrote them. One JSON line:
shares of right answers side by side, their paired difference, and the seconds that redaction added.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from opentelemetry.trace import get_current_span

from examples.tool_desk import desk
from examples.tool_desk.demo import AT_ONCE, FOLDER, RECIPES
from examples.tool_desk.figures import SLOTS, WEIGHTS, by_input, line_of, share
from examples.tool_desk.work import Item, load_items
from hetero_agents import HeteroError, code_agent, flush, workflow_outcome
from hetero_agents.bindings import Workspace
from hetero_agents.contract import compact_json
from hetero_agents.distill import paired_difference
from hetero_agents.distill.base import Text, call_text
from hetero_agents.distill.curate import Dataset, Example, curate
from hetero_agents.distill.evaluate import predict
from hetero_agents.distill.train import Job
from hetero_agents.distill.worker import train_aside
from hetero_agents.engines import SERVER_SLOTS, Endpoint
from hetero_agents.engines.adapter import adapter_to_gguf
from hetero_agents.engines.catalog import fetch_weights, find_weights
from hetero_agents.engines.local import LocalServers, local_model
from hetero_agents.slots import App, registry
from hetero_agents.spans import calls_of

REDACTED = FOLDER.with_name("demo-redacted")

ITEM_OF: dict[str, str] = {}
"""Item by the trace of its run: the redacted request does not say whose it is."""


@code_agent(name="desk.redacted")
async def one_run(item: Item) -> None:
    """Serve one item, and note its trace."""
    ITEM_OF[f"{get_current_span().get_span_context().trace_id:032x}"] = item.id
    call = await desk.desk(item.request, item.tools)
    workflow_outcome(ok=call.tool == item.tool and item.accepts(call.arguments))


def main() -> None:
    """Measure and print one JSON line."""
    if not (FOLDER / "report.json").exists():
        sys.exit("Run `make demo` first: its specialists are what is compared with.")
    print(json.dumps(asyncio.run(measure())))


async def measure() -> dict[str, Any]:
    """Run, train, answer, compare."""
    items = load_items()
    report = json.loads((FOLDER / "report.json").read_text())
    seconds = await run([item for item in items if not item.unseen])
    lines = [json.loads(line) for line in (FOLDER / "predictions.jsonl").read_text().splitlines()]
    slots: dict[str, Any] = {}
    for name in SLOTS:
        raw = {p["item"]: p["right"] for p in lines if p["slot"] == name and p["phase"] == "specialist"}
        redacted, about = await trained_on_redacted(name, items)
        first, second = [redacted[item] for item in raw], list(raw.values())
        slots[name] = {
            "raw": share(second),
            "redacted": share(first),
            "difference": paired_difference(first, second),
            **about,
            "train_seconds_raw": report["slots"][name]["train_seconds"],
        }
    return {"slots": slots, "run_seconds": {"raw": report["seconds"]["llm_run"], "redacted": seconds}}


async def run(items: list[Item]) -> float:
    """Run the desk on items into a vault with redaction; return the seconds until everything is stored."""
    shutil.rmtree(REDACTED, ignore_errors=True)
    REDACTED.mkdir(parents=True)
    toml = (FOLDER / "hetero.toml").read_text().replace('content = "raw"', 'content = "redacted"')
    assert '"redacted"' in toml
    # The tools on offer and their descriptions are code: nothing personal stands in them.
    for name, parameter in (("desk.choose", "tools"), ("desk.fill", "parameters")):
        toml = toml.replace(f'[slots."{name}"]', f'[slots."{name}"]\nunredacted = ["{parameter}"]')
    (REDACTED / "hetero.toml").write_text(toml)
    for name in ("desk.py", "answers.jsonl"):
        shutil.copyfile(FOLDER / name, REDACTED / name)
    registry.use(App.of(Workspace(REDACTED)))
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> None:
        async with gate:
            try:
                await one_run(item)
            except HeteroError as error:
                print(item.id, error, file=sys.stderr)

    started = time.perf_counter()
    await asyncio.gather(*map(one, items))
    assert flush(600)
    return time.perf_counter() - started


async def trained_on_redacted(name: str, items: list[Item]) -> tuple[dict[str, bool], dict[str, Any]]:
    """Return whether a specialist trained on redacted calls is right, by held-out item, and what it was trained on."""
    contract, known = SLOTS[name].contract, by_input(name, items)
    (data,) = (FOLDER / ".hetero" / "distill" / name).glob("*/dataset.json")
    raw = Dataset.from_json(data.read_text())
    curated = curate(calls_of(registry.app.vault, name), contract, split_by="request")
    redacted = {ITEM_OF[example.trace_id]: example for part in curated.parts.values() for example in part}
    train = [known[compact_json(example.input)].id for example in raw.parts["train"]]
    texts: list[Text] = []
    changed = 0
    for item, before in zip(train, raw.parts["train"], strict=True):
        if (example := redacted.get(item)) is not None:
            arguments = contract.load(example.input)
            texts.append((call_text(contract, arguments, True), contract.answer_text(example.output, arguments)))
            changed += _differs(example, before)
    weights, folder = find_weights(WEIGHTS), REDACTED / "trained" / name
    folder.mkdir(parents=True)
    trained = await train_aside(Job(weights, texts, RECIPES[name], folder), lambda done, total: None)
    gguf = folder / "adapter" / "adapter.gguf"
    adapter_to_gguf(folder / "adapter", fetch_weights(weights), gguf)
    servers = LocalServers()
    model = local_model(servers, weights, gguf, f"{name} redacted", baked=True)
    endpoint = Endpoint(model, bare_json=True, baked=True, settings={"max_tokens": trained.longest_answer + 16})
    right: dict[str, bool] = {}
    async for prediction in predict("specialist", endpoint, contract, raw.parts["test"], at_once=SERVER_SLOTS):
        line = line_of(name, prediction, known)
        right[line["item"]] = line["right"]
    servers.close()
    about = {
        "examples": len(texts),
        "examples_raw": len(train),
        "with_surrogates": changed,
        "left_out": curated.left_out,
        "train_seconds": round(trained.seconds, 1),
    }
    return right, about


def _differs(redacted: Example, raw: Example) -> bool:
    return (redacted.input, redacted.output) != (raw.input, raw.output)


if __name__ == "__main__":
    assert Path("pyproject.toml").exists(), "run it from the project's folder"
    main()
