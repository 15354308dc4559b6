"""Writing spans sealed and synced to the vault, against the OTel SDK's encoder writing OTLP-JSON lines to a file.

The same spans, batches and machine, in alternation; both sync each batch. One JSON line: spans a second and their ratio.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from google.protobuf.json_format import MessageToJson
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hetero_agents.spans import Names, SealedVault, record_of

BATCHES, BATCH, ROUNDS = 8, 512, 5


def main() -> None:
    """Measure and print one JSON line."""
    batches = _spans()
    rates: dict[str, list[float]] = {"sealed": [], "otlp_json": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HETERO_KEYS"] = f"{folder}/keys"
        vault = SealedVault(Path(folder) / "vault")
        vault.write([record_of(batches[0][0])])  # makes the keys
        with (Path(folder) / "spans.jsonl").open("w") as file:

            def otlp_json(batch: Sequence[ReadableSpan]) -> None:
                file.write(MessageToJson(encode_spans(batch), indent=None) + "\n")
                file.flush()
                os.fsync(file.fileno())

            def sealed(batch: Sequence[ReadableSpan]) -> None:
                vault.write([record_of(span) for span in batch])

            ways: dict[str, Callable[[Sequence[ReadableSpan]], None]] = {"sealed": sealed, "otlp_json": otlp_json}
            for _ in range(ROUNDS):
                for name, write in ways.items():
                    started = time.perf_counter()
                    for batch in batches:
                        write(batch)
                    rates[name].append(BATCHES * BATCH / (time.perf_counter() - started))
    ratios = [ours / theirs for ours, theirs in zip(rates["sealed"], rates["otlp_json"], strict=True)]
    middle = {name: round(statistics.median(values)) for name, values in rates.items()}
    print(json.dumps({"spans_a_second": middle, "ratio": [round(ratio, 2) for ratio in sorted(ratios)]}))


def _spans() -> list[list[ReadableSpan]]:
    """Spans as a slot's call makes them: about two kilobytes of content each."""
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("hetero_agents")
    for number in range(BATCHES * BATCH):
        text = f"{number} Where is my parcel? " * 30
        messages = json.dumps([{"role": "user", "parts": [{"type": "text", "content": text}]}])
        tracer.start_span(
            "chat smollm2-135m-instruct",
            attributes={
                Names.OPERATION: "chat",
                Names.REQUEST_MODEL: "smollm2-135m-instruct",
                Names.INPUT_TOKENS: 120,
                Names.OUTPUT_TOKENS: 12,
                Names.INPUT_MESSAGES: messages,
                Names.OUTPUT_MESSAGES: messages[:300],
            },
        ).end()
    spans = list(kept.get_finished_spans())
    return [spans[i : i + BATCH] for i in range(0, len(spans), BATCH)]


if __name__ == "__main__":
    main()
