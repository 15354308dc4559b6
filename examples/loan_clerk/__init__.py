"""Entities from sentences of loan agreements."""
