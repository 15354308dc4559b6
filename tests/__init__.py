"""Tests; `tests/bench` holds measurements."""
