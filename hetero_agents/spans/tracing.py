"""Our private tracer provider: where spans are made, kept whole, and sent to vault and OTLP.

It is private so that a user's own exporter never gets what redaction has not seen, and so that the
user's samplers and limits never thin the vault; it is joined to the user's traces by context.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Tracer
from pydantic_ai.models.instrumented import InstrumentationSettings

from .record import SpanRecord, record_of
from .vault import Vault

Redact = Callable[[SpanRecord], SpanRecord | None]
"""Returns what may be stored of a span; None stores nothing."""

_UNLIMITED = SpanLimits(
    max_span_attributes=SpanLimits.UNSET,
    max_events=SpanLimits.UNSET,
    max_links=SpanLimits.UNSET,
    max_event_attributes=SpanLimits.UNSET,
    max_link_attributes=SpanLimits.UNSET,
    max_attribute_length=SpanLimits.UNSET,
    max_span_attribute_length=SpanLimits.UNSET,
)

_log = logging.getLogger("hetero_agents")


class Tracing:
    """The provider, its instrumentation settings for pydantic-ai, and their end."""

    def __init__(self, vault: Vault, *, redact: Redact | None = None) -> None:
        """Start the exporters' threads.

        Args:
            vault: where spans are stored.
            redact: what each span passes before it is stored. It does not reach OTLP, which is then not used.
        """
        self.provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "hetero_agents")}),
            span_limits=_UNLIMITED,
        )
        self._exporter = _VaultExporter(vault, redact)
        self._lost = 0
        self.provider.add_span_processor(_batch(self._exporter))
        otlp = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        if otlp and redact is not None:
            _log.warning("Spans are not sent to %s: redaction does not reach OTLP.", otlp)
        elif otlp:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            self.provider.add_span_processor(_batch(OTLPSpanExporter()))
        self.tracer: Tracer = self.provider.get_tracer("hetero_agents")
        self.settings = InstrumentationSettings(
            tracer_provider=self.provider,
            version=6,
            # They repeat the contract, which the slot's span names by its hash.
            include_model_request_parameters=False,
        )

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until every finished span is stored and handed to OTLP.

        Returns:
            False if that took longer than `timeout` seconds, or if spans were lost since the last flush.
        """
        # The SDK's processor ignores the timeout that it is given, so it is kept here.
        flushing = threading.Thread(target=self.provider.force_flush, daemon=True)
        flushing.start()
        flushing.join(timeout)
        lost, self._lost = self._exporter.dropped - self._lost, self._exporter.dropped
        return not flushing.is_alive() and not lost

    def close(self) -> None:
        """Flush and stop the exporters' threads."""
        self.provider.shutdown()


def _batch(exporter: SpanExporter) -> BatchSpanProcessor:
    return BatchSpanProcessor(exporter, max_queue_size=65_536, schedule_delay_millis=500, max_export_batch_size=512)


class _VaultExporter(SpanExporter):
    def __init__(self, vault: Vault, redact: Redact | None) -> None:
        self._vault = vault
        self._redact = redact
        self.dropped = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            records = [record_of(span) for span in spans]
            if self._redact is not None:
                records = [kept for record in records if (kept := self._redact(record)) is not None]
            self._vault.write(records)
        except Exception as error:
            # A full disk or a broken redactor must not hurt the agent, and must not be silent either.
            self.dropped += len(spans)
            _log.warning("%d spans could not be stored and are lost (%d so far): %s", len(spans), self.dropped, error)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS
