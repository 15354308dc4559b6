"""What a slot takes, gives and is told: signature + instruction + schema -> `Contract`, with its SHA-256."""

from .contract import WRAPPED, Contract, written
from .hints import Fits, NotSent, OneOf, SlotId
from .schema import JsonSchema, Sha256, canonical_schema, compact_json, json_bytes, schema_text, sha256_of
from .shape import check_shape

__all__ = [
    "WRAPPED",
    "Contract",
    "Fits",
    "JsonSchema",
    "NotSent",
    "OneOf",
    "Sha256",
    "SlotId",
    "canonical_schema",
    "check_shape",
    "compact_json",
    "json_bytes",
    "schema_text",
    "sha256_of",
    "written",
]
