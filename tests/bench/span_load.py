"""`python -m tests.bench.span_load [--spans 200000] [--content raw|redacted] [--load 100 ...]`: what a span costs, and what many of them do.

- the caller's thread: CPU time of starting and ending a span like a model call's, in our provider with vault, against OpenTelemetry's
  SDK with no processor at all (what pydantic-ai's instrumentation costs by itself), in alternation;
- memory while spans come faster than they are stored;
- time from a span's end to its storing, and what lost its content, at each load that is stated.

With redaction the messages are presidio-evaluator's templates filled by Faker, no two alike: what was redacted before costs nothing.
One JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer

from hetero_agents.bindings import Workspace
from hetero_agents.slots import App
from hetero_agents.spans import Names, SpanRecord
from tests.bench.redaction import filled_templates
from tests.support import TOML, write_workspace

ROUNDS, EACH = 7, 2_000
TEXTS: list[str] = []
"""Messages, where they matter: one a span, in turn."""
SECONDS = 20.0
"""For which the stated load lasts."""


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=200_000)
    parser.add_argument("--content", choices=["raw", "redacted"], default="raw")
    parser.add_argument("--load", type=float, nargs="+", default=[100.0], help="spans a second for the time to storing")
    arguments = parser.parse_args()
    if arguments.content == "redacted":
        texts = [text.text for text in filled_templates(1, 150)]
        random.Random(0).shuffle(texts)
        TEXTS.extend(" ".join(texts[place : place + 5]) for place in range(0, len(texts) - 5, 5))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HETERO_KEYS"] = f"{folder}/keys"
        toml = TOML.replace('content = "raw"', f'content = "{arguments.content}"')
        app = App.of(Workspace(write_workspace(Path(folder), toml)))
        make(app.tracing.tracer, 1)  # starts what is started once
        app.tracing.flush(120)
        result = {
            "content": arguments.content,
            "microseconds_a_span": cost(app),
            "seconds_to_stored": [waits(app, load) for load in arguments.load],
            "memory": memory(app, arguments.spans),
        }
        app.close()
    print(json.dumps(result))


def make(tracer: Tracer, count: int, first: int = 0) -> None:
    """Make spans as a model call's: about a kilobyte of messages."""
    for number in range(first, first + count):
        text = TEXTS[number % len(TEXTS)] if TEXTS else f"{number} Where is my parcel? " * 25
        asked = [{"role": "user", "parts": [{"type": "text", "content": text}]}]
        with tracer.start_as_current_span("chat small") as span:
            span.set_attributes(
                {
                    Names.OPERATION: "chat",
                    Names.REQUEST_MODEL: "small",
                    Names.INPUT_TOKENS: 120,
                    Names.OUTPUT_TOKENS: 12,
                    Names.INPUT_MESSAGES: json.dumps(asked),
                    Names.OUTPUT_MESSAGES: '[{"role":"assistant","parts":[{"type":"text","content":"delivery"}]}]',
                }
            )


def cost(app: App) -> dict[str, list[float]]:
    """CPU time of this thread a span: least, median, most of the rounds; ours, the SDK's, and their difference."""
    bare = TracerProvider().get_tracer("bare")
    times: dict[str, list[float]] = {"ours": [], "sdk": []}
    for _ in range(ROUNDS):
        for name, tracer in (("ours", app.tracing.tracer), ("sdk", bare)):
            started = time.thread_time()
            make(tracer, EACH)
            times[name].append((time.thread_time() - started) / EACH * 1e6)
        app.tracing.flush(600)
    times["more"] = [ours - sdk for ours, sdk in zip(times["ours"], times["sdk"], strict=True)]
    return {name: [round(f(values), 1) for f in (min, statistics.median, max)] for name, values in times.items()}


def waits(app: App, load: float) -> dict[str, float]:
    """Seconds from a span's end to its storing; spans that were dropped, and those stored without their content."""
    found: list[float] = []
    emptied: list[int] = []
    write = app.vault.write

    def timed(records: Sequence[SpanRecord]) -> None:
        write(records)
        now = time.time_ns()
        found.extend((now - record["end"]) / 1e9 for record in records)
        emptied.append(sum(Names.INPUT_MESSAGES not in record["attributes"] for record in records))

    app.vault.write = timed
    lost = app.tracing.lost
    started, made = time.monotonic(), 0
    while (passed := time.monotonic() - started) < SECONDS:
        if made < passed * load:
            make(app.tracing.tracer, 1, made)
            made += 1
        else:
            time.sleep(0.002)
    offered = time.monotonic() - started
    app.tracing.flush(600)
    taken = time.monotonic() - started
    app.vault.write = write
    found.sort()
    p50, p99 = (round(found[int(len(found) * share)], 3) for share in (0.5, 0.99))
    return {
        "spans_a_second": round(made / offered, 1),
        "stored_a_second": round(len(found) / taken, 1),
        "n": len(found),
        "p50": p50,
        "p99": p99,
        "most": round(found[-1], 3),
        "dropped": app.tracing.lost - lost,
        "without_content": sum(emptied),
    }


def memory(app: App, spans: int) -> dict[str, float]:
    """Megabytes of this process after a tenth of the spans and after all, made as fast as they can be; and what was dropped."""
    process = psutil.Process()
    lost = app.tracing.lost
    make(app.tracing.tracer, spans // 10)
    early = process.memory_info().rss / 1e6
    make(app.tracing.tracer, spans - spans // 10, spans // 10)
    late = process.memory_info().rss / 1e6
    app.tracing.flush(600)
    return {"spans": spans, "after_a_tenth": round(early), "after_all": round(late), "dropped": app.tracing.lost - lost}


if __name__ == "__main__":
    main()
