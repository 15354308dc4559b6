"""Redaction at capture (step S1): detection, surrogates, and the process that both run in.

An agent's process loads the worker's client alone; `redactor`, `surrogates` and `presidio` are loaded by the worker.
"""

from .worker import RedactionSettings, RedactionWorker, redaction_is_installed

__all__ = ["RedactionSettings", "RedactionWorker", "redaction_is_installed"]
