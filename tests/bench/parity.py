"""Whether one adapter gives the same greedy answers in transformers, alone in llama.cpp, and under mixed traffic.

Needs a specialist of `desk.choose` in `.hetero/demo` (`make demo`). 300 calls of the specialist; base and
eleven other adapters around it on four server slots, eight calls in flight. About ten minutes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from examples.tool_desk.demo import FOLDER
from examples.tool_desk.desk import choose
from examples.tool_desk.work import load_items
from hetero_agents.bindings import Workspace
from hetero_agents.engines.catalog import find_weights
from tests.parity import measure

CALLS = 300


def main() -> None:
    """Measure and print one JSON line."""
    lock = Workspace(FOLDER).lock
    active = lock.slots[choose.id].active if choose.id in lock.slots else None
    if active is None:
        sys.exit("Run `make demo` first: the measurement needs its specialist of desk.choose.")
    calls = [choose.contract.bind((item.request, list(item.tools)), {}) for item in load_items()[:CALLS]]
    with tempfile.TemporaryDirectory() as folder:
        parity = measure(
            find_weights("smollm2-135m-instruct"),
            FOLDER / lock.specialists[active].adapter,
            choose,
            calls,
            Path(folder),
            adapters=12,
            others=12,
        )
    print(json.dumps(asdict(parity)))


if __name__ == "__main__":
    main()
