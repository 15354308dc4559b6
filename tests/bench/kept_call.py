"""What the error budget costs a call that is kept: the same slot, model and answer with a certificate, without one, and with one that has a router, in one run.

The model answers at once from a list, with the log-probabilities of twelve tokens and five alternatives each, and the embedding is there at once, so that what is
measured is ours. Beside it: an embedding of a request of fifteen words by the model itself, one at a time.

    python -m tests.bench.kept_call [--calls 2000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel

from hetero_agents import OneOf, slot
from hetero_agents.bindings import Router, SlotLock, SpecialistId, Workspace
from hetero_agents.bindings.lock import Lock, update_lock
from hetero_agents.contract import SlotId
from hetero_agents.engines import EMBEDDER, Engines
from hetero_agents.engines.embeddings import DIMENSIONS
from hetero_agents.slots import App, registry
from hetero_agents.testing import MemoryVault
from tests.support import NATIVE_JSON, TOML, Answers, FakeEngines, lock_entry, write_workspace
from tests.test_budget import certificate

ID = SlotId("kept.choose")
ROUNDS = 7
LOOKS = 200


def main() -> None:
    """Print the time a call without and with a budget, and the difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    calls = parser.parse_args().calls

    @slot(name=ID)
    async def choose(request: str, tools: list[str]) -> Annotated[str, OneOf("tools")]:
        """Choose the tool."""
        ...

    top = [{"token": text, "logprob": -0.01 - n} for n, text in enumerate(("get", "find", "list", "set", "put"))]
    tokens = [{"token": "get", "logprob": -0.01, "top_logprobs": top}] * 12

    def reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart(json.dumps("get_weather"))], provider_details={"logprobs": tokens})

    async def seconds(app: App) -> float:
        registry.use(app)
        started = time.perf_counter()
        for number in range(calls):
            await choose(f"request {number}", ["get_weather", "find_flight", "list_files"])
        return (time.perf_counter() - started) / calls

    one = SpecialistId(f"{ID}@1")
    shown = certificate(0.5, checks_sha256=choose.checks_sha256)
    entry = lock_entry(ID, choose.contract.sha256).model_copy(update={"certificate": shown})
    apps: dict[str, App] = {}
    budget = f'[slots."{ID}"]\nerror_budget = 0.1\naudit = 0\n'
    router = Router(embedder=EMBEDDER, bias=1.0, weights=[0.01] * DIMENSIONS, level=0.5)
    behind = entry.model_copy(update={"certificate": shown.model_copy(update={"router": router})})
    for name, more, specialist in (("without", "", entry), ("with", budget, entry), ("routed", budget, behind)):
        folder = write_workspace(Path(tempfile.mkdtemp()), TOML + more)
        lock = Lock(specialists={one: specialist}, slots={ID: SlotLock(active=one)})
        update_lock(folder / "hetero.lock", lambda _, lock=lock: lock)
        apps[name] = App.of(Workspace(folder), MemoryVault())
        models: dict[str, Answers | Model | Exception] = {one: FunctionModel(reply, profile=NATIVE_JSON)}
        apps[name].engines = FakeEngines(folder, models=models, vector=lambda text: [0.05] * DIMENSIONS)
    found: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(ROUNDS):  # in turn, so that both see the same machine
        for name, app in apps.items():
            found[name].append(asyncio.run(seconds(app)))
    print(f"a call of {calls} in {ROUNDS} rounds: without a budget {1000 * statistics.median(found['without']):.3f} ms")
    for name, before in (("with", "without"), ("routed", "with")):
        over = [1000 * (b - a) for a, b in zip(found[before], found[name], strict=True)]
        print(
            f"{name}: {1000 * statistics.median(found[name]):.3f} ms, over {before} {statistics.median(over):+.3f} ms ({min(over):+.3f} to {max(over):+.3f})"
        )
    for app in apps.values():
        app.close()
    times = sorted(asyncio.run(looks()))
    print(
        f"an embedding: {1000 * statistics.median(times):.1f} ms, 9 of 10 within {1000 * times[int(0.9 * len(times))]:.1f} ms (n = {len(times)})"
    )


async def looks() -> list[float]:
    """Return seconds of embeddings of requests, one at a time."""
    engines, taken = Engines(Path.cwd()), list[float]()
    for number in range(LOOKS + 1):
        text = f"Please find request {number} in the list of open orders and tell me when it will arrive here"
        started = time.perf_counter()
        await engines.embed([text])
        taken.append(time.perf_counter() - started)
    engines.close()
    return taken[1:]  # the first one starts the engine


if __name__ == "__main__":
    main()
