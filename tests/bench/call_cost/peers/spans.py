# pyright: basic, reportMissingImports=false
"""OpenTelemetry as an application would set it up: an SDK provider that keeps finished spans in memory."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic_ai.models.instrumented import InstrumentationSettings

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
settings = InstrumentationSettings(tracer_provider=provider)
