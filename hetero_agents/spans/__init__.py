"""The logger of step S1: OpenTelemetry spans, a sealed vault for them, and the way out over OTLP.

Spans go one way: tracer -> record -> redaction -> vault, and -> OTLP where asked. The hot path only ends a span; everything else happens on
the exporter's thread.
"""

from .names import Names
from .reader import SlotCall, Trace, calls_of, read_traces
from .record import SpanRecord, record_of, without_content
from .sealed import SealedVault
from .segments import Keep
from .tracing import Redact, Tracing, subject_now
from .vault import Feedback, Vault

__all__ = [
    "Feedback",
    "Keep",
    "Names",
    "Redact",
    "SealedVault",
    "SlotCall",
    "SpanRecord",
    "Trace",
    "Tracing",
    "Vault",
    "calls_of",
    "read_traces",
    "record_of",
    "subject_now",
    "without_content",
]
