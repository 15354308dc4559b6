"""Compare what one typed structured call, or one step of a crew, costs in CPU time in hetero_agents and in other frameworks.

    python tests/bench/call_cost/run.py [--crews] [--peers a,b] [--calls 300] [--rounds 5] [--json FILE]

Each contestant runs in a virtual environment of its own under `.bench/`, made at the first run; what stands on our
own dependencies runs in the current interpreter. The rounds go round robin, and ratios are taken within a round, so
that a machine that slows down slows all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from endpoint_process import HERE, MockEndpoint, mock_endpoint
from rich.console import Console
from rich.table import Table

ENVIRONMENTS = HERE.parents[2] / ".bench"
WARM_UP = 20
"""As in `peers/measure.py`."""


@dataclass(frozen=True)
class Peer:
    """A contestant."""

    script: str
    packages: tuple[str, ...] = ()
    """Pinned requirements of its own environment; the current interpreter where there are none."""
    alone: tuple[str, ...] = ()
    """Requirements that are installed without what they ask for, because not all of that is to be had any more."""
    arguments: tuple[str, ...] = ()
    baseline: str = "openai"
    """The bare client that asks the same API."""
    steps: int = 1
    """Model calls of one call of the script."""
    variables: tuple[tuple[str, str], ...] = ()
    """What else stands in its environment."""

    @property
    def environment(self) -> str:
        """The folder of its virtual environment; those who need the same packages share one."""
        return (*self.alone, *self.packages)[0].partition("==")[0]


LANGGRAPH = ("langgraph==1.2.22", "langchain-openai==1.7.3")
CREWAI = ("crewai==1.15.30",)
AUTOGEN = ("autogen-agentchat==0.7.5", "autogen-ext[openai]==0.7.5")
METAGPT = tuple((HERE / "metagpt.txt").read_text().split())
"""What `import metagpt` reads, with its own pins: lancedb 0.4.0, which it asks for too, is not on PyPI any more."""

PEERS: dict[str, Peer] = {
    "openai": Peer("peer_openai.py"),
    "openai_responses": Peer("peer_openai_responses.py", baseline="openai_responses"),
    "hetero_slot": Peer("peer_hetero_slot.py"),
    "hetero_slot_responses": Peer("peer_hetero_slot.py", arguments=("openai",), baseline="openai_responses"),
    "pydantic_ai_direct": Peer("peer_pydantic_ai_direct.py"),
    "pydantic_ai_agent": Peer("peer_pydantic_ai_agent.py"),
    "instructor": Peer("peer_instructor.py", ("instructor==1.17.0",)),
    "dspy": Peer("peer_dspy.py", ("dspy==3.4.1",)),
    "langgraph": Peer("peer_langgraph.py", LANGGRAPH),
    "openai_agents": Peer("peer_openai_agents.py", ("openai-agents==0.24.0",)),
    "crewai": Peer("peer_crewai.py", CREWAI),
}


def crew(
    script: str,
    packages: tuple[str, ...] = (),
    *,
    alone: tuple[str, ...] = (),
    arguments: tuple[str, ...] = (),
    baseline: str = "crew_openai",
    variables: tuple[tuple[str, str], ...] = (),
) -> Peer:
    """Return a contestant whose script runs a whole crew, as `crew_pattern.py` says."""
    return Peer(script, packages, alone, arguments, baseline, 10, variables)


CREWS: dict[str, Peer] = {
    "crew_openai": crew("crew_openai.py"),
    "crew_hetero": crew("crew_hetero.py"),
    "crew_hetero_redacted": crew("crew_hetero.py", arguments=("redacted",)),
    "crew_hetero_no_spans": crew("crew_hetero.py", variables=(("OTEL_SDK_DISABLED", "true"),)),
    "crew_langgraph_client": crew("crew_openai.py", LANGGRAPH, baseline="crew_langgraph_client"),
    "crew_langgraph": crew("crew_langgraph.py", LANGGRAPH, baseline="crew_langgraph_client"),
    "crew_autogen_core": crew("crew_autogen_core.py", AUTOGEN),
    "crew_autogen": crew("crew_autogen.py", AUTOGEN),
    "crew_metagpt": crew("crew_metagpt.py", METAGPT, alone=("metagpt==0.8.2",)),
    "crew_crewai": crew("crew_crewai.py", CREWAI),
}

NO_TELEMETRY = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}
FOREIGN = ("proxy", "otel_", "openai_", "pythonpath", "pydantic_ai_")
"""Beginnings (for proxies the ends) of variables of the user's that would change what is measured."""


@dataclass(frozen=True)
class Result:
    """One run of one contestant."""

    peer: str
    version: str
    client: str
    """The OpenAI client that stands below it."""
    round: int
    caller_ms: float
    """CPU time of the calling thread, for one call, or one step of a crew."""
    process_ms: float
    """CPU time of the whole process, with what was left to do at the end."""
    wall_ms: float
    requests: float
    """Requests that reached the endpoint."""
    called_home: list[str]
    """Hosts that the contestant tried to reach."""


class PeerError(Exception):
    """A contestant cannot be installed or run; the message says why."""


def python_of(peer: Peer) -> Path:
    """Return a contestant's interpreter, installing its packages where they are not there yet.

    Raises:
        PeerError: pip could not install them.
    """
    if not peer.packages:
        return Path(sys.executable)
    folder = ENVIRONMENTS / peer.environment
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join((f"python {sys.version_info.major}.{sys.version_info.minor}", *peer.packages, *peer.alone))
    if not done.is_file() or done.read_text() != wanted:
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [*install, *peer.packages],
            *([[*install, "--no-deps", *peer.alone]] if peer.alone else []),
        ):
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                raise PeerError(f"cannot be installed: {_last_line(made.stderr)}")
        done.write_text(wanted)
    return python


def run_peer(name: str, peer: Peer, python: Path, endpoint: MockEndpoint, calls: int, round_: int) -> Result:
    """Run a contestant once.

    Raises:
        PeerError: it failed.
    """
    endpoint.counts()
    command = [str(python), str(HERE / "peers" / peer.script), endpoint.base_url, str(calls), *peer.arguments]
    with tempfile.TemporaryDirectory() as home:  # what they cache or note there is not the user's
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=home,
            env=_environment(home) | dict(peer.variables),
        )
    lines = [line for line in ran.stdout.splitlines() if line.startswith('{"peer"')]
    if ran.returncode or not lines:
        raise PeerError(f"failed: {_last_line(ran.stderr)}")
    requests, _ = endpoint.counts()
    told: dict[str, Any] = json.loads(lines[-1]) | {"peer": name, "round": round_}
    told |= {clock: told[clock] / peer.steps for clock in ("caller_ms", "process_ms", "wall_ms")}
    return Result(requests=requests / (calls + WARM_UP) / peer.steps, **told)


def _environment(home: str) -> dict[str, str]:
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.lower().startswith(FOREIGN) and not key.lower().endswith(FOREIGN)
    }
    folders = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DSPY_CACHEDIR"), home)
    return {**kept, **folders, **NO_TELEMETRY, "CREWAI_STORAGE_DIR": "bench", "OPENAI_API_KEY": "x"}


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def compare(
    peers: Mapping[str, Peer], calls: int, rounds: int, console: Console, results: list[Result], missing: dict[str, str]
) -> None:
    """Run the contestants in alternation, adding to `results`, and to `missing` why a contestant is not there."""
    pythons: dict[str, Path] = {}
    for name in peers:
        try:
            with console.status(f"environment of {name}"):
                pythons[name] = python_of(peers[name])
        except PeerError as error:
            missing[name] = str(error)
    with mock_endpoint() as endpoint:
        for round_ in range(1, rounds + 1):
            for name in [name for name in pythons if name not in missing]:
                try:
                    with console.status(f"round {round_} of {rounds}: {name}"):
                        results.append(run_peer(name, peers[name], pythons[name], endpoint, calls, round_))
                except PeerError as error:
                    missing[name] = str(error)


def ratios(results: Sequence[Result], name: str, of: Callable[[Result], float]) -> list[float]:
    """Return a contestant's ratios to its bare client, each within one round."""
    by_round = {(result.peer, result.round): of(result) for result in results}
    base = (PEERS | CREWS)[name].baseline
    rounds = [result.round for result in results if result.peer == name]
    return [by_round[name, round_] / by_round[base, round_] for round_ in rounds if (base, round_) in by_round]


def table_of(results: Sequence[Result]) -> Table:
    """Return medians with their range, cheapest process first."""
    table = Table(
        title="CPU time of one structured call, or of one step of a crew, ms: median, least to most",
        caption="x: ratio to the bare client on the same API, within a round",
        show_lines=True,
    )
    table.add_column("peer", no_wrap=True)
    for title in ("calling thread", "x", "whole process", "x", "wall"):
        table.add_column(title, justify="right", no_wrap=True)
    by_peer: dict[str, list[Result]] = {}
    for result in results:
        by_peer.setdefault(result.peer, []).append(result)
    for name, mine in sorted(by_peer.items(), key=lambda item: statistics.median(r.process_ms for r in item[1])):
        table.add_row(
            f"{name}\n{mine[0].version}",
            _spread([r.caller_ms for r in mine]),
            _spread(ratios(results, name, lambda r: r.caller_ms)),
            _spread([r.process_ms for r in mine]),
            _spread(ratios(results, name, lambda r: r.process_ms)),
            _spread([r.wall_ms for r in mine]),
        )
    return table


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}\n{min(values):.2f}–{max(values):.2f}" if values else "–"


def report(results: Sequence[Result], missing: Mapping[str, str], console: Console) -> None:
    """Print the table, who is missing, and who did something else than one request for each call."""
    if results:
        console.print(table_of(results))
    notes = [f"{name} {why}" for name, why in missing.items()]
    notes += sorted(
        {f"{r.peer} made {r.requests:.3g} requests for a call or step." for r in results if r.requests != 1}
    )
    notes += sorted({f"{r.peer} tried to reach {host}; it was refused." for r in results for host in r.called_home})
    for note in notes:
        console.print(note, style="yellow", markup=False, soft_wrap=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU time of one typed structured call, by framework.")
    parser.add_argument("--crews", action="store_true", help="steps of crews in place of single calls")
    parser.add_argument(
        "--peers", default="", help=f"which, by comma (of calls: {', '.join(PEERS)}; of crews: {', '.join(CREWS)})"
    )
    parser.add_argument(
        "--calls", type=int, default=300, help="calls, or runs of a crew, of one run, after the warm-up"
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contestant")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single result there")
    options = parser.parse_args()
    group = CREWS if options.crews else PEERS
    names = [name.strip() for name in options.peers.split(",") if name.strip()] or list(group)
    if unknown := [name for name in names if name not in group]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(group)}")
    if min(options.calls, options.rounds) < 1:
        parser.error("--calls and --rounds are at least 1")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, so that no child is left behind
    console = Console(width=max(Console().width, 100))
    results: list[Result] = []
    missing: dict[str, str] = {}
    stopped = False
    try:
        compare({name: group[name] for name in names}, options.calls, options.rounds, console, results, missing)
    except KeyboardInterrupt:
        stopped = True
        console.print("Stopped; what was measured until then:")
    report(results, missing, console)
    if options.json:
        told = {"calls": options.calls, "results": [asdict(result) for result in results], "missing": missing}
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    return 130 if stopped else 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
