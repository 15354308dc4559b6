"""Redaction at capture (step S1): detection, surrogates, and the process that both run in."""

from .redactor import Detector, Found, Redactor
from .surrogates import Surrogates
from .worker import RedactionSettings, RedactionWorker, redaction_is_installed

__all__ = [
    "Detector",
    "Found",
    "RedactionSettings",
    "RedactionWorker",
    "Redactor",
    "Surrogates",
    "redaction_is_installed",
]
