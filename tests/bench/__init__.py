"""Measurements, each a comparison in one run; never part of `make test`."""
