"""The shop's work: `product-matching` and `invoices` of the package evals (MIT), each call with its answer."""

from __future__ import annotations

import json
import re
from typing import Any

from hetero_agents.contract import Sha256
from hetero_agents.engines.catalog import Progress, fetch

SOURCE = "pypi:evals==3.0.1.post1"
PRODUCTS = (
    "product-matching/zeroshot/samples.jsonl",
    Sha256("236ae03ba52eaf8d9b47811e4b4cce9b11d681f088bd6823e825ccdf2989990b"),
)
INVOICES = ("invoices/match.jsonl", Sha256("c11d5a80ffcdeab7d10af5d4c1244b5903dbe3d1ad0e168782492c24238a5475"))

Call = tuple[dict[str, Any], Any]
"""The arguments of a call and its answer."""


def product_calls(progress: Progress | None = None) -> list[Call]:
    """Return pairs of titles and whether they are of one product."""
    calls: list[Call] = []
    for sample in _samples(PRODUCTS, progress):
        titles = re.findall(r"Product \d: 'Title: (.*)'$", sample["input"][0]["content"], flags=re.M)
        calls.append(({"first": titles[0], "second": titles[1]}, sample["ideal"] == "Yes"))
    return calls


def invoice_calls(progress: Progress | None = None) -> list[Call]:
    """Return emails with a question each and the sum that they name."""
    calls: list[Call] = []
    for sample in _samples(INVOICES, progress):
        email = sample["input"][0]["content"].partition("EMAIL")[2]
        question = sample["input"][1]["content"].removeprefix("Q: ")
        calls.append(({"email": " ".join(email.split()), "question": question}, sample["ideal"]))
    return calls


def _samples(file: tuple[str, Sha256], progress: Progress | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fetch(SOURCE, *file, progress).read_text("utf-8").splitlines()]
