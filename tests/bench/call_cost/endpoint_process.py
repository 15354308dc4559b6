"""The mock endpoint as a child process: started, asked for its counts, and stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class MockEndpoint:
    """A running mock endpoint."""

    url: str

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes."""
        return f"{self.url}/v1"

    def counts(self) -> tuple[int, int]:
        """Return how many requests came, and how many were in flight at most, since the last time."""
        with urllib.request.urlopen(f"{self.url}/count", timeout=10) as answer:
            counts = json.load(answer)
        return counts["requests"], counts["peak"]


@contextmanager
def mock_endpoint(delay: float = 0.0) -> Generator[MockEndpoint]:
    """Run the mock endpoint until the block ends."""
    command = [sys.executable, str(HERE / "mock_endpoint.py"), "--delay", str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield MockEndpoint(process.stdout.readline().strip())
        finally:
            process.terminate()
