"""Our tracer provider: private, joined by context, thinned by nobody, and the way out over OTLP."""

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from hetero_agents import Slot, slot
from hetero_agents.bindings import Workspace
from hetero_agents.slots import App, registry
from hetero_agents.spans import SealedVault, SpanRecord, Tracing
from hetero_agents.testing import MemoryVault

from .conftest import OpenApp
from .support import TOML, Collected, FakeEngines, answers, collecting, in_processes, write_workspace


def echo_slot() -> Slot[[str], str]:
    @slot(name="spans.echo")
    async def echo(message: str) -> str: ...

    return echo


def spans_of(app: App) -> dict[str, SpanRecord]:
    """Return the vault's spans by name."""
    app.tracing.flush()
    return {span["name"]: span for span in app.vault.read()}


@pytest.fixture
def users() -> Generator[tuple[TracerProvider, InMemorySpanExporter]]:
    """A user's own provider with the exporter that it sends to."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


# -- nobody thins the vault ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "5"),
        ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "5"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "1"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "1"),
    ],
)
def test_limits_and_samplers_of_the_environment_do_not_thin_the_vault(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    app = open_app({"fake:big": answers("y" * 300)})
    asyncio.run(echo_slot()("x" * 5000))
    attributes = spans_of(app)["slot spans.echo"]["attributes"]
    assert attributes["hetero.input"] == '{"message":"' + "x" * 5000 + '"}'
    assert attributes["hetero.output"] == '"' + "y" * 300 + '"'


def test_a_trace_that_its_user_does_not_sample_is_in_the_vault_all_the_same(open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("y")})
    unsampled = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(0)))
    with trace.use_span(unsampled):
        asyncio.run(echo_slot()("x"))
    assert spans_of(app)["slot spans.echo"]["trace_id"] == f"{0xABC:032x}"


def test_the_chat_span_holds_the_messages(open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("y")})
    asyncio.run(echo_slot()("Where is it?"))
    chat = spans_of(app)["chat fake:big"]["attributes"]
    assert "Where is it?" in chat["gen_ai.input.messages"]
    assert "gen_ai.output.messages" in chat


# -- joined to the user's traces, and apart from them ----------------------------------------------


def test_a_users_span_is_the_parent_of_ours(
    open_app: OpenApp, users: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    app = open_app({"fake:big": answers("y")})
    with users[0].get_tracer("theirs").start_as_current_span("request") as theirs:
        asyncio.run(echo_slot()("x"))
    ours, parent = spans_of(app)["slot spans.echo"], theirs.get_span_context()
    assert (ours["trace_id"], ours["parent_id"]) == (f"{parent.trace_id:032x}", f"{parent.span_id:016x}")


def test_the_users_global_provider_gets_none_of_our_spans(
    open_app: OpenApp, users: tuple[TracerProvider, InMemorySpanExporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", users[0])
    app = open_app({"fake:big": answers("y")})
    with trace.get_tracer("theirs").start_as_current_span("request"):
        asyncio.run(echo_slot()("x"))
    assert set(spans_of(app)) == {"slot spans.echo", "chat fake:big"}
    assert [span.name for span in users[1].get_finished_spans()] == ["request"]


# -- out over OTLP ---------------------------------------------------------------------------------


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Generator[Collected]:
    """An OTLP collector that the environment names."""
    with collecting() as (collected, url):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        yield collected


def test_spans_reach_the_collector_that_the_environment_names(collector: Collected, open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("y")})
    asyncio.run(echo_slot()("x"))
    assert app.tracing.flush()
    assert sorted(collector.names) == ["chat fake:big", "slot spans.echo"]


def test_structure_alone_leaves_unless_content_is_asked_for(collector: Collected, open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("an answer")})
    asyncio.run(echo_slot()("a question"))
    assert app.tracing.flush()
    assert b"a question" not in collector.bytes
    assert b"an answer" not in collector.bytes
    assert b"spans.echo" in collector.bytes
    app = open_app({"fake:big": answers("an answer")}, TOML + "otlp_content = true\n")
    asyncio.run(echo_slot()("a question"))
    assert app.tracing.flush()
    assert b"a question" in collector.bytes
    assert b"an answer" in collector.bytes


def test_without_a_collector_in_the_environment_nothing_leaves(
    open_app: OpenApp, collector: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    app = open_app({"fake:big": answers("y")})
    asyncio.run(echo_slot()("x"))
    assert app.tracing.flush()
    assert collector.names == []


# -- redaction -------------------------------------------------------------------------------------


def test_what_redaction_gives_is_stored_and_nothing_else() -> None:
    def redact(records: Sequence[SpanRecord], *, strict: bool = False) -> list[SpanRecord]:
        return [{**record, "attributes": {}} for record in records if record["name"] != "secret"]

    vault = MemoryVault()
    tracing = Tracing(vault, redact=redact)
    for name in ("secret", "open"):
        tracing.tracer.start_span(name, attributes={"person": "Ada"}).end()
    tracing.close()
    assert [(span["name"], span["attributes"]) for span in vault.spans] == [("open", {})]


def test_every_span_passes_redaction() -> None:
    seen: list[str] = []

    def redact(records: Sequence[SpanRecord], *, strict: bool = False) -> Sequence[SpanRecord]:
        seen.extend(record["name"] for record in records)
        return records

    tracing = Tracing(MemoryVault(), redact=redact)
    for number in range(1000):
        tracing.tracer.start_span(str(number)).end()
    tracing.close()
    assert seen == [str(number) for number in range(1000)]


def test_what_leaves_over_otlp_has_passed_redaction_too(collector: Collected) -> None:
    def redact(records: Sequence[SpanRecord], *, strict: bool = False) -> list[SpanRecord]:
        return [{**record, "attributes": {"who": "somebody"}} for record in records if record["name"] != "secret"]

    tracing = Tracing(MemoryVault(), redact=redact, otlp_content=True)
    for name in ("secret", "open"):
        tracing.tracer.start_span(name, attributes={"who": "Ada"}).end()
    tracing.close()
    assert collector.names == ["open"]
    assert b"somebody" in collector.bytes
    assert b"Ada" not in collector.bytes


def test_a_redaction_that_fails_stores_nothing_unredacted(caplog: pytest.LogCaptureFixture) -> None:
    def redact(records: Sequence[SpanRecord], *, strict: bool = False) -> list[SpanRecord]:
        raise RuntimeError("no model for Grace Hopper")

    vault = MemoryVault()
    tracing = Tracing(vault, redact=redact)
    tracing.tracer.start_span("secret").end()
    tracing.close()
    assert vault.spans == []
    assert "RuntimeError" in caplog.text and "Hopper" not in caplog.text


# -- a vault that cannot be written ----------------------------------------------------------------


def test_a_vault_that_cannot_be_written_loses_spans_aloud_and_the_slot_still_answers(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    (workspace.root / "file").write_text("")
    app = App.of(workspace, SealedVault(workspace.root / "file" / "vault"))
    app.engines = FakeEngines(workspace.root, models={"fake:big": answers("y")})
    registry.use(app)
    with caplog.at_level(logging.WARNING, "hetero_agents"):
        assert asyncio.run(echo_slot()("x")) == "y"
        app.close()
    assert "2 spans could not be stored and are lost (2 so far): The vault" in caplog.text


def test_a_full_disk_is_said_with_what_was_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(MemoryVault):
        def write(self, records: Any) -> None:
            raise OSError("the disk is full")

    tracing = Tracing(Full())
    tracing.tracer.start_span("lost").end()
    tracing.close()
    assert "1 spans could not be stored and are lost (1 so far): the disk is full" in caplog.text


class Nonsense(BaseHTTPRequestHandler):
    """Answers everything in a way that OTLP does not know."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(400)
        self.send_header("content-length", "4")
        self.end_headers()
        self.wfile.write(b"what")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize("how", ["down", "nonsense"])
def test_a_collector_that_is_of_no_use_costs_no_span(
    how: str, monkeypatch: pytest.MonkeyPatch, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Nonsense) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        port = server.server_port if how == "nonsense" else 9
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        app = App.of(workspace)
        app.engines = FakeEngines(workspace.root, models={"fake:big": answers("y")})
        registry.use(app)
        assert asyncio.run(echo_slot()("x")) == "y"
        app.close()
        server.shutdown()
    assert len(list(SealedVault(workspace.state_dir / "vault").read())) == 2
    assert "Failed to export" in caplog.text, "it is said"


def test_closing_twice_does_no_harm(open_app: OpenApp) -> None:
    app = open_app({})
    app.close()
    app.close()
    assert list(app.vault.read()) == []


def test_a_flush_says_whether_spans_were_lost_since_the_last_one() -> None:
    class Full(MemoryVault):
        full = True

        def write(self, records: Sequence[SpanRecord]) -> None:
            if self.full:
                raise OSError("no space left on device")
            super().write(records)

    vault = Full()
    tracing = Tracing(vault)
    tracing.tracer.start_span("lost").end()
    assert not tracing.flush()
    vault.full = False
    tracing.tracer.start_span("kept").end()
    assert tracing.flush()
    assert [span["name"] for span in vault.spans] == ["kept"]
    tracing.close()


def test_a_flush_ends_at_its_timeout() -> None:
    freed = threading.Event()

    class Slow(MemoryVault):
        def write(self, records: Sequence[SpanRecord]) -> None:
            freed.wait(30)

    tracing = Tracing(Slow())
    tracing.tracer.start_span("slow").end()
    began = time.monotonic()
    assert not tracing.flush(timeout=0.2)
    assert time.monotonic() - began < 10
    freed.set()
    tracing.close()


# -- under load ------------------------------------------------------------------------------------


class SlowVault(MemoryVault):
    """Stores nothing until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.let = threading.Event(), threading.Event()

    def write(self, records: Sequence[SpanRecord]) -> None:
        self.begun.set()
        self.let.wait(30)
        super().write(records)


def ended(tracing: Tracing, count: int) -> None:
    for number in range(count):
        tracing.tracer.start_span(f"span {number}").end()


def test_more_spans_than_may_wait_are_dropped_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    vault = SlowVault()
    tracing = Tracing(vault, queue=8)
    ended(tracing, 1)
    assert vault.begun.wait(10)
    ended(tracing, 20)
    vault.let.set()
    assert not tracing.flush(), "spans were lost"
    assert (len(vault.spans), tracing.lost) == (9, 12)
    assert [span["name"] for span in vault.spans[1:]] == [f"span {number}" for number in range(8)]
    assert caplog.text.count("spans were dropped so far, the last because 8 others wait to be stored") == 1, (
        "said once, not for each"
    )
    ended(tracing, 1)
    assert tracing.flush()
    tracing.close()


def test_a_flush_waits_for_what_ended_before_it_and_no_longer() -> None:
    class Steady(MemoryVault):
        def write(self, records: Sequence[SpanRecord]) -> None:
            time.sleep(0.05)
            super().write(records)

    vault, over = Steady(), threading.Event()
    tracing = Tracing(vault)

    def go_on() -> None:
        while not over.wait(0.005):
            ended(tracing, 1)

    working = threading.Thread(target=go_on)
    working.start()
    try:
        tracing.tracer.start_span("before").end()
        assert tracing.flush(10)
        assert "before" in {span["name"] for span in vault.spans}
    finally:
        over.set()
        working.join()
    tracing.close()


def test_what_ends_after_the_end_is_counted_and_nothing_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    tracing = Tracing(MemoryVault())
    tracing.close()
    ended(tracing, 2)
    assert tracing.lost == 2 and "it ended after the end" in caplog.text
    tracing.close()


def test_a_thread_waits_for_room_where_it_is_told_to() -> None:
    vault = SlowVault()
    tracing = Tracing(vault, queue=8, block=True)
    ended(tracing, 1)
    assert vault.begun.wait(10)
    working = threading.Thread(target=ended, args=(tracing, 20))
    working.start()
    working.join(0.3)
    assert working.is_alive(), "it waits"
    vault.let.set()
    working.join(10)
    assert tracing.flush()
    assert (len(vault.spans), tracing.lost) == (21, 0)
    tracing.close()


def test_a_span_waits_a_moment_only() -> None:
    vault = MemoryVault()
    tracing = Tracing(vault)
    started = time.monotonic()
    ended(tracing, 1)
    while not vault.spans:
        assert time.monotonic() - started < 5
        time.sleep(0.01)
    tracing.close()


INHERITED: list[App] = []


def flush_in_a_child(folder: str) -> None:
    (app,) = INHERITED
    app.tracing.tracer.start_span("child").end()
    assert app.tracing.flush()


def test_spans_that_wait_are_stored_once_when_a_process_forks(tmp_path: Path) -> None:
    app = App.of(Workspace(write_workspace(tmp_path)))
    INHERITED[:] = [app]
    ended(app.tracing, 3)  # they wait
    in_processes(flush_in_a_child, ("",), ("",))
    assert app.tracing.flush()
    assert sorted(span["name"] for span in app.vault.read()) == ["child", "child", "span 0", "span 1", "span 2"]
    INHERITED.clear()
    app.close()


PROGRAM = """
import asyncio, sys
from hetero_agents import code_agent, registry

@code_agent
async def work(number: int) -> int:
    return number

async def main():
    for number in range(3):
        await work(number)
    print("done", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_a_program_that_is_told_to_end_stores_its_spans(tmp_path: Path) -> None:
    write_workspace(tmp_path)
    (tmp_path / "work.py").write_text(PROGRAM)
    running = subprocess.Popen(
        [sys.executable, "work.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout and running.stdout.readline() == b"done\n"
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=30)
    assert running.returncode == 128 + signal.SIGTERM
    assert len(SealedVault(tmp_path / ".hetero" / "vault").traces(9)) == 3
