"""Our private tracer provider: where spans are made, kept whole, and sent to vault and OTLP.

It is private so that a user's own exporter never gets what redaction has not seen, and so that the
user's samplers and limits never thin the vault; it is joined to the user's traces by context.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Tracer
from pydantic_ai.models.instrumented import InstrumentationSettings

from ..errors import HeteroError
from .names import Names
from .queue import SpanQueue
from .record import SpanRecord, foreign_record, readable_of, record_of, without_content
from .vault import Vault


class Redact(Protocol):
    """What spans pass before they are stored."""

    def __call__(self, records: Sequence[SpanRecord], *, strict: bool = False) -> Sequence[SpanRecord]:
        """Return spans as they may be stored; one that is left out is not.

        Args:
            records: the spans.
            strict: raise where redaction fails, because somebody else still has them; else they lose their content.

        Raises:
            HeteroError: redaction failed, and `strict` was asked for.
        """
        ...


_UNLIMITED = SpanLimits(
    max_span_attributes=SpanLimits.UNSET,
    max_events=SpanLimits.UNSET,
    max_links=SpanLimits.UNSET,
    max_event_attributes=SpanLimits.UNSET,
    max_link_attributes=SpanLimits.UNSET,
    max_attribute_length=SpanLimits.UNSET,
    max_span_attribute_length=SpanLimits.UNSET,
)

subject_now: ContextVar[str | None] = ContextVar("hetero_subject", default=None)
"""Whose data is worked on, as `subject()` says."""

_FOR_EVER = 10**9
"""Milliseconds; whoever waits keeps the time."""

_log = logging.getLogger("hetero_agents")


class Tracing:
    """The provider, its instrumentation settings for pydantic-ai, and their end."""

    def __init__(
        self,
        vault: Vault,
        *,
        redact: Redact | None = None,
        otlp_content: bool = False,
        queue: int = 8192,
        block: bool = False,
    ) -> None:
        """Start the exporters' threads.

        Args:
            vault: where spans are stored.
            redact: what each span passes before it is stored or sent anywhere.
            otlp_content: send content over OTLP too, as it is stored; else structure alone.
            queue: finished spans that wait in memory at most.
            block: let a thread that ends a span wait for room; else the span is dropped and counted.
        """
        self.provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "hetero_agents")}),
            span_limits=_UNLIMITED,
        )
        self._otlp: BatchSpanProcessor | None = None
        if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            self._otlp = BatchSpanProcessor(
                OTLPSpanExporter(), max_queue_size=queue, max_export_batch_size=min(queue, 512)
            )
        self._vault, self._redact, self._otlp_content = vault, redact, otlp_content
        self._queue = SpanQueue(self._export, size=queue, block=block)
        self._unstored = self._lost = 0
        self.provider.add_span_processor(_SaysSubject())
        self.provider.add_span_processor(self._queue)
        self.tracer: Tracer = self.provider.get_tracer("hetero_agents")
        self.settings = InstrumentationSettings(
            tracer_provider=self.provider,
            version=6,
            # They repeat the contract, which the slot's span names by its hash.
            include_model_request_parameters=False,
            # Pictures and sound cannot be redacted.
            include_binary_content=redact is None,
        )

    def prepare(self) -> None:
        """Start what `store` needs, so that the first sender does not wait for it.

        Raises:
            HeteroError: nothing could be taken, because it cannot be redacted.
        """
        if self._redact:
            self._redact([], strict=True)

    def store(self, records: Sequence[SpanRecord]) -> Sequence[SpanRecord]:
        """Redact and store spans that were made elsewhere; they are on the disk when this returns, and do not go on to OTLP.

        Nothing that they say makes them ours: our own attributes are left out, and all the rest is content.

        Returns:
            The spans as they were stored.

        Raises:
            HeteroError: they cannot be redacted, or the vault cannot be written; nothing was stored.
        """
        foreign = [foreign_record(record) for record in records]
        stored = self._redact(foreign, strict=True) if self._redact else foreign
        self._vault.write(stored)
        return stored

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until every finished span is stored and handed to OTLP.

        Returns:
            False if that took longer than `timeout` seconds, or if spans were lost since the last flush.
        """
        # The SDK's processor ignores the timeout that it is given, so it is kept here.
        flushing = threading.Thread(target=self._flush, daemon=True)
        flushing.start()
        flushing.join(timeout)
        lost, self._lost = self.lost - self._lost, self.lost
        return not flushing.is_alive() and not lost

    @property
    def lost(self) -> int:
        """Spans that were dropped or could not be stored so far."""
        return self._queue.dropped + self._unstored

    def close(self) -> None:
        """Flush and stop the exporters' threads."""
        self._flush()  # shutting down waits half a minute only, and then loses the rest without a word
        self.provider.shutdown()
        if self._otlp:
            self._otlp.shutdown()

    def _flush(self) -> None:
        self._queue.force_flush(_FOR_EVER)
        if self._otlp:
            self._otlp.force_flush()

    def _export(self, spans: Sequence[ReadableSpan]) -> None:
        """Redact, store, and hand on to OTLP what was stored: nothing reaches either but through here."""
        try:
            records: Sequence[SpanRecord] = [record_of(span) for span in spans]
            if self._redact is not None:
                records = self._redact(records)
            if self._otlp is not None:  # before the vault, whose disk may be full
                for record in records:
                    self._otlp.on_end(readable_of(record if self._otlp_content else without_content(record)))
            self._vault.write(records)
        except Exception as error:
            # A full disk or a broken redactor must not hurt the agent, and must not be silent either.
            self._unstored += len(spans)
            # What other errors say may hold what was read.
            reason = str(error) if isinstance(error, HeteroError | OSError) else type(error).__name__
            _log.warning(
                "%d spans could not be stored and are lost (%d so far): %s", len(spans), self._unstored, reason
            )


class _SaysSubject(SpanProcessor):
    """Writes on every span whose data it holds, so that all spans of a run are redacted alike, whichever ends first."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if (person := subject_now.get()) is not None:
            span.set_attribute(Names.SUBJECT, person)
