"""`hetero import` and `collect`: the way in for programs that do not know this framework."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..errors import HeteroError, UserError
from ..spans import SpanRecord
from ..spans.foreign import model_call_of
from ..spans.imports import CutShort, fetch_jaeger, read_spans
from . import common
from .common import Json

TOKEN_VARIABLE = "HETERO_COLLECT_TOKEN"

BATCH = 512
"""Spans that are redacted and stored together; a run of more stays in one piece."""

MOST_SITES = 1000
"""Sites that are counted apart."""

GATHERED = 20_000
"""Spans that are held at a time, so that the spans of a run come together although a file mixes runs."""


def import_(
    files: Annotated[
        list[Path] | None, typer.Argument(help="OTLP's JSON, whole or a request a line, or what Jaeger's page saves.")
    ] = None,
    jaeger: Annotated[
        str | None, typer.Option(help="Address of Jaeger's page, for example http://localhost:16686.")
    ] = None,
    service: Annotated[str | None, typer.Option(help="With --jaeger: the service whose traces are fetched.")] = None,
    hours: Annotated[float, typer.Option(min=0.01, help="With --jaeger: how far back.")] = 24.0,
    limit: Annotated[int, typer.Option(min=1, help="With --jaeger: how many traces, newest first.")] = 1000,
    as_json: Json = False,
) -> None:
    """Take spans of other programs into the vault, redacted like our own. Taking the same ones again changes nothing."""
    if bool(files) == bool(jaeger):
        raise UserError("Give files, or --jaeger with --service.")
    if bool(jaeger) != bool(service):
        raise UserError("--jaeger and --service go together.")
    for path in files or ():
        if not path.is_file():
            raise UserError(f"There is no file {path}.")
    store = common.open_app(modules=False).tracing.store
    counted = _Counted()
    cut: list[str] = []
    with common.step_progress() as progress:
        sources: list[Iterable[SpanRecord]] = [_from_file(path, counted, cut, progress) for path in files or ()]
        if jaeger and service:
            fetched, counted.refused = fetch_jaeger(jaeger, service, hours=hours, limit=limit)
            sources.append(fetched)
        for spans in sources:
            for batch in _batches(spans):
                counted.count(store(batch))
    counted.say(as_json)
    if cut:
        raise HeteroError(" ".join(cut))


def collect(
    host: Annotated[str, typer.Option(help=f"Address to listen on; others than loopback need {TOKEN_VARIABLE}.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="For OTLP over HTTP; 0 takes a free one.")] = 4318,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="For OTLP over gRPC; 0 takes a free one.")] = 4317,
    as_json: Json = False,
) -> None:
    """Listen for spans of other programs (OTLP) and take them into the vault, redacted like our own, until Ctrl-C."""
    from ..spans.receiver import Receiver

    app = common.open_app(modules=False)
    app.tracing.prepare()
    counted, counting = _Counted(), threading.Lock()

    def store(records: Iterable[SpanRecord]) -> None:
        for batch in _batches(records):
            stored = app.tracing.store(batch)
            with counting:
                counted.count(stored)

    ended = threading.Event()
    receiver = Receiver(store, host=host, port=port, grpc_port=grpc_port, token=os.environ.get(TOKEN_VARIABLE))

    def end(number: int, frame: object) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        grpc = (
            f"gRPC on {receiver.grpc_address}"
            if receiver.grpc_address
            else "not over gRPC, which needs pip install 'hetero_agents[collect]'"
        )
        common.err.print(
            f"OTLP over HTTP on {receiver.url}, {grpc}; spans go to {app.workspace.state_dir / 'vault'}. Ctrl-C ends.",
            soft_wrap=True,
            markup=False,
        )
        with common.err.status("waiting for spans") as status:
            while not ended.wait(0.5):
                if receiver.stored or receiver.refused:
                    status.update(f"{receiver.stored} spans stored, {receiver.refused} refused")
    finally:
        receiver.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    counted.refused = receiver.refused
    counted.say(as_json)


class _Counted:
    """What came in: spans, runs, and the sites that called models."""

    def __init__(self) -> None:
        self.spans = 0
        self.refused = 0
        self.runs = 0
        self.calls = Counter[tuple[str, str]]()

    def count(self, records: Iterable[SpanRecord]) -> None:
        """Count a batch that was stored."""
        spans = {record["span_id"]: record for record in records}
        self.spans += len(spans)
        for span in spans.values():
            self.runs += span["parent_id"] is None
            if (call := model_call_of(span, spans)) is not None:
                key = call.site or "-", call.model
                if key in self.calls or len(self.calls) < MOST_SITES:  # a program may put an id into each name
                    self.calls[key] += 1

    def say(self, as_json: bool) -> None:
        """Print it."""
        rows = [{"site": site, "model": model, "calls": n} for (site, model), n in self.calls.most_common()]
        if as_json:
            values: dict[str, Any] = {"spans": self.spans, "runs": self.runs, "refused": self.refused}
            common.print_json({**values, "model_calls": rows})
            return
        refused = f", {self.refused} spans refused" if self.refused else ""
        common.out.print(f"{self.spans} spans of {self.runs} runs are in the vault{refused}.")
        if rows:
            table = Table("site", "model", "calls")
            for row in rows:
                table.add_row(str(row["site"]), str(row["model"]), str(row["calls"]))
            common.out.print(table)
            common.out.print(
                'A slot learns from a site with imported_from = ["SITE"] under [slots."..."] in hetero.toml.',
                soft_wrap=True,
                markup=False,
            )


def _batches(spans: Iterable[SpanRecord]) -> Iterator[list[SpanRecord]]:
    """Runs in one piece as far as they are held together, several in a batch."""
    held: list[SpanRecord] = []

    def emptied() -> Iterator[list[SpanRecord]]:
        batch: list[SpanRecord] = []
        for _, run in groupby(sorted(held, key=lambda span: span["trace_id"]), key=lambda span: span["trace_id"]):
            if len(batch) >= BATCH:
                yield batch
                batch = []
            batch += run
        if batch:
            yield batch
        held.clear()

    for span in spans:
        held.append(span)
        if len(held) >= GATHERED:
            yield from emptied()
    yield from emptied()


def _from_file(path: Path, counted: _Counted, cut: list[str], progress: Any) -> Iterator[SpanRecord]:
    size = path.stat().st_size
    try:
        for spans, refused, read in read_spans(path):
            counted.refused += refused
            progress(f"import {path.name}", read, size)
            yield from spans
    except CutShort as error:
        cut.append(str(error))
