"""What a model costs on this machine (step S4): the paper calls a model small where it fits the device and is fast enough for one user."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from ..bindings.lock import write_atomically
from ..errors import EngineError
from .catalog import Weights, cache_dir
from .served import fetch_served

READING: Final = 6.0
"""Tokens a second that a person reads: 240 words a minute (Brysbaert 2019) of one and a half tokens; slower answers are waited for."""

PATIENCE: Final = 1.0
"""Seconds to the first token within which a person's thought is not interrupted (Nielsen 1993)."""

ROOM: Final = 0.8
"""Part of the memory that a model may take: weights that do not fit are read from the disk again and again, and fill all of it."""

PROMPT_TOKENS: Final = 256
ANSWER_TOKENS: Final = 64


@dataclass(frozen=True)
class Probe:
    """One measurement of a model on this machine.

    Attributes:
        model: as in `local:NAME`.
        context: tokens of prompt and answer that a request may have.
        start: seconds from nothing to a server that answers, the weights being in the cache.
        first_token_cold: seconds to the first token of an answer to a new prompt of about 256 tokens.
        first_token_warm: the same where the prompt was read before.
        tokens_a_second: of the answer, one request at a time.
        rss_mb: most memory that the process with the model had, in MB.
        memory_mb: the machine's, or what a container may have of it, in MB.
        cores: that the process may use.
        machine: processor and system.
        created: ISO 8601, UTC.
    """

    model: str
    context: int
    start: float
    first_token_cold: float
    first_token_warm: float
    tokens_a_second: float
    rss_mb: float
    memory_mb: float
    cores: int
    machine: str
    created: str

    @property
    def small(self) -> bool:
        """Whether it is a small language model here: fits the memory, and is fast enough for one user (the paper, section 2)."""
        fits = self.rss_mb < ROOM * self.memory_mb
        return fits and self.tokens_a_second >= READING and self.first_token_cold <= PATIENCE


def probe(weights: Weights) -> Probe:
    """Measure a model in a process of its own, and keep the result in the cache folder.

    Raises:
        EngineError: it cannot be fetched or run.
    """
    fetch_served(weights)
    program = f"from {__name__} import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        input=json.dumps(asdict(weights)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        reason = last.removeprefix(f"{EngineError.__module__}.{EngineError.__name__}: ")
        raise EngineError(f"{weights.name} could not be measured: {reason}")
    found = Probe(**json.loads(done.stdout.splitlines()[-1]))
    try:
        write_atomically(_path(), json.dumps({**_kept(), weights.name: asdict(found)}, indent=1).encode())
    except OSError as error:
        raise EngineError(f"The measurement cannot be kept in {_path()} ({error.strerror}).") from error
    return found


def probed(name: str) -> Probe | None:
    """Return the last measurement of a model on this machine."""
    try:
        return Probe(**_kept()[name])
    except (KeyError, TypeError):  # none, or one of another version
        return None


def _path() -> Path:
    return cache_dir() / "probes.json"


def _kept() -> dict[str, Any]:
    try:
        kept = json.loads(_path().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", kept) if isinstance(kept, dict) else {}


def main() -> int:
    """Measure the weights on standard input, and print the result as JSON."""
    values: dict[str, Any] = json.load(sys.stdin)
    print(json.dumps(asdict(asyncio.run(_measure(Weights(**values))))))
    return 0


async def _measure(weights: Weights) -> Probe:
    from openai import AsyncOpenAI

    from .local import CONTEXT_A_SLOT, LocalServers, cores

    servers, began = LocalServers(), time.perf_counter()
    server = servers.take(weights, None)
    start = time.perf_counter() - began
    client = AsyncOpenAI(base_url=server.url, api_key=server.key, max_retries=0)

    async def ask(text: str) -> tuple[float, float]:
        """Seconds to the first token, and tokens a second after it."""
        asked, first, count = time.perf_counter(), 0.0, 0
        stream = await client.chat.completions.create(
            model=weights.name,
            messages=[{"role": "user", "content": text}],
            max_tokens=ANSWER_TOKENS,
            temperature=0.0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async for chunk in stream:
            delta = chunk.choices[0].delta if chunk.choices else None
            if delta and (delta.content or getattr(delta, "reasoning_content", None)):
                count += 1
                first = first or time.perf_counter()
        if count < 2:
            raise EngineError(f"{weights.name} answers nothing.")
        return first - asked, (count - 1) / (time.perf_counter() - first)

    await ask("Hello.")  # what the first request alone sets up
    text = " ".join(f"word{number}" for number in range(PROMPT_TOKENS // 3))  # three tokens each
    cold, rate = await ask(text)
    warm, again = await ask(text)
    rss = _most_memory()
    await client.close()
    servers.give_back(server)
    servers.close()
    return Probe(
        model=weights.name,
        context=min(CONTEXT_A_SLOT, weights.context),
        start=round(start, 2),
        first_token_cold=round(cold, 3),
        first_token_warm=round(warm, 3),
        tokens_a_second=round(max(rate, again), 1),
        rss_mb=round(rss),
        memory_mb=round(_memory()),
        cores=cores(),
        machine=f"{platform.machine()} {platform.system()}, {os.cpu_count()} processors",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _most_memory() -> float:
    """Most memory that this process had, in MB."""
    with suppress(OSError):  # what getrusage says on Linux begins with the peak of the process that started this one
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _memory() -> float:
    """The machine's memory, or what a container may have of it, in MB."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    with suppress(OSError, ValueError):  # "max" where there is no limit
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()) / 1e6)
    return machine
