"""`hetero distill`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..contract import Contract
from ..errors import ConfigError, UserError
from ..slots import App, Slot, registry
from ..slots.recalled import CacheShown
from . import common
from .common import Json

if TYPE_CHECKING:
    from ..bindings import CacheLock
    from ..distill import Distilled, Recipe
    from ..distill.select import BakeOff


def distill(
    slot: Annotated[str, typer.Argument(help="The slot's id.")],
    base: Annotated[str | None, typer.Option(help="A name in [models]; the slm tier's model by default.")] = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            help="Names in [models], or auto for all that [selection] allows: a bake-off on held-out calls chooses the base."
        ),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="A TOML file that says how to train; sensible without.")] = None,
    epochs: Annotated[
        float | None, typer.Option(min=0.01, help="How often each example is seen, before what the recipe says.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=16, help="Tokens of prompt and answer; longer examples are left out."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed and data give the same specialist.")] = None,
    canaries: Annotated[
        int,
        typer.Option(
            min=0,
            help="Secrets with which shadow trainings are tested for what they remember; each twentieth of the data is one more training.",
        ),
    ] = 0,
    cache_only: Annotated[
        bool, typer.Option("--cache-only", help="Train nothing: certify what the slot's cache may answer by meaning.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a slot's spans into a specialist: curate, train, convert, evaluate. Ctrl-C and the same command resume."""
    from ..distill import Recipe
    from ..distill import distill as run
    from ..distill.specialise import base_of, teacher_of
    from ..engines.catalog import Weights, fetch_weights
    from ..report import write_bake_off

    given = {"epochs": epochs, "max_length": max_length, "seed": seed}
    how = Recipe.load(recipe, **{key: value for key, value in given.items() if value is not None})
    app = common.open_app()
    declared = registry.slot(slot)
    if cache_only:
        _cache_only(app, declared, as_json)
        return
    if candidates is not None and base is not None:
        raise UserError("Give --base or --candidates, not both.")
    names, refused = ([], {}) if candidates is None else _candidates(app, declared.contract, candidates, how, canaries)
    with common.fetch_progress() as fetched:
        for name in names or [base]:
            fetch_weights(base_of(app, name).weights, fetched)
        if isinstance(teacher := teacher_of(how, app.workspace), Weights):
            fetch_weights(teacher, fetched)
    with common.step_progress() as progress:
        made = asyncio.run(
            run(app, declared, base=base, candidates=names, recipe=how, canaries=canaries, progress=progress)
        )
    if made.bake_off:
        rounds = [entry.to_json() for entry in made.bake_off.rounds]
        write_bake_off(bake_off_page(app, made), made.specialist.slot, rounds, made.bake_off.why)
    left_out = dict(made.dataset.left_out)
    if made.trained.left_out:
        left_out[f"longer than {how.max_length} tokens (--max-length)"] = made.trained.left_out
    if as_json:
        common.print_json({**values_of(made), "left_out": left_out, "refused": refused})
    else:
        say(app, made, left_out, refused)


def _cache_only(app: App, slot: Slot[..., Any], as_json: bool) -> None:
    from ..distill import certify_cache
    from ..distill.loop import check_cache
    from ..engines.embeddings import fetch_embedder

    check_cache(app, slot)
    with common.fetch_progress() as fetched:
        fetch_embedder(fetched)
    with common.step_progress() as progress:
        made = asyncio.run(certify_cache(app, slot, progress=progress))
    if as_json:
        common.print_json({"caches": [cache.model_dump(mode="json") for cache in made]})
        return
    for cache in made:
        _line(_cache(cache))


def _candidates(
    app: App, contract: Contract, candidates: str, recipe: Recipe, canaries: int
) -> tuple[list[str], dict[str, str]]:
    """The models that a bake-off is among, and why others are not."""
    from ..distill.select import allowed

    asked = [] if candidates == "auto" else [name.strip() for name in candidates.split(",") if name.strip()]
    if candidates != "auto" and not asked:
        raise UserError("--candidates is empty: name models of [models], or auto.")
    names, refused = allowed(app, asked, recipe, contract, canaries)
    if not names:
        why = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ConfigError(f"No model of [models] can be a base{f' ({why})' if why else ''}.")
    return names, refused


def values_of(made: Distilled) -> dict[str, Any]:
    """Return what was made and measured as JSON values."""
    chosen = made.bake_off
    return {
        "specialist": made.specialist_id,
        "reused": made.reused,
        "caches": [cache.model_dump(mode="json") for cache in made.caches],
        "bake_off": chosen and {**asdict(chosen), "rounds": [entry.to_json() for entry in chosen.rounds]},
        "differences": {name: asdict(difference) for name, difference in made.differences.items()},
        "slices": [{**asdict(s), "score": s.score.model_dump()} for s in made.slices],
        "grounded": made.grounded.model_dump(),
        "reliability": list(map(asdict, made.reliability)),
        "asked_again": made.dataset.asked_again,
        "answered_otherwise": made.dataset.answered_otherwise,
        **made.specialist.model_dump(mode="json"),
    }


def say(app: App, made: Distilled, left_out: Mapping[str, int], refused: Mapping[str, str]) -> None:
    """Print what was made and measured.

    Args:
        app: the workspace.
        made: what distill gave.
        left_out: calls that were not used, by reason.
        refused: why models were no candidates, by name.
    """
    from ..distill.evaluate import PLAIN_CODE
    from ..distill.matcher import MATCHER
    from ..engines import EMBEDDER

    parts = ", ".join(f"{len(examples)} {part}" for part, examples in made.dataset.parts.items())
    already = " (already made from this data)" if made.reused else ""
    _line(f"{made.specialist_id}{already}: {parts}; split by {made.dataset.split_key}")
    if left_out:
        _line("left out: " + ", ".join(f"{n} {why}" for why, n in left_out.items()))
    for name, reason in refused.items():
        _line(f"{name} was no candidate: {reason}.")
    if made.bake_off:
        common.out.print(_rounds_table(made.specialist.slot, made.bake_off))
        _line(f"{made.bake_off.why} Quality against cost: {bake_off_page(app, made)}")
    common.out.print(_scores_table(made))
    if rivals := [name for name in PLAIN_CODE if name in made.differences and made.differences[name].low <= 0]:
        _line(f"Not shown to be better than plain code ({', '.join(rivals)}): what code can answer needs no model.")
    if MATCHER in made.differences and made.differences[MATCHER].low <= 0:
        _line(
            f'Not shown to be better than a matcher, which trains in seconds and answers in milliseconds: give [models] one ("local:{EMBEDDER}"), and name it with --base.'
        )
    if weak := [f"{s.kind} {s.name}: {common.score_text(s.score)}" for s in made.slices if s.weak]:
        _line(f"Weak corners: {'; '.join(weak)}")
    if made.grounded.n:
        _line(f"Texts that are to be copied from the input and are: {common.score_text(made.grounded)}")
    _line(_noise(made))
    _line(_exposure(made))
    if made.specialist.certificate:
        _line(common.certificate_text(made.specialist.certificate))
    for cache in made.caches:
        _line(_cache(cache))
    _line(f"Next: hetero promote {made.specialist_id}")


def bake_off_page(app: App, made: Distilled) -> Path:
    """Return where the page of a slot's last bake-off is."""
    return app.workspace.state_dir / "distill" / made.specialist.slot / "bake-off.html"


def _line(text: str) -> None:
    common.out.print(text, markup=False, soft_wrap=True)


def _scores_table(made: Distilled) -> Table:
    title = f"Held-out calls, answered by {made.specialist.base}; right: {made.specialist.compared_by}"
    table = Table(
        *("contestant", "right (95 %)", "specialist has more (95 %)", "p"), title=escape(title), title_justify="left"
    )
    for name, score in made.specialist.scores.items():
        over = made.differences.get(name)
        more = f"{over.difference:+.3f} [{over.low:+.3f}, {over.high:+.3f}]" if over else ""
        table.add_row(escape(name), common.score_text(score), more, _p(over.p) if over else "")
    return table


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def _rounds_table(slot: str, chosen: BakeOff) -> Table:
    table = Table(
        *("round", "candidate", "right (95 %)", "s a call", "GB", "training", ""),
        title=f"Bake-off for {slot}, on held-out calls of the select part",
        title_justify="left",
    )
    for entry in chosen.rounds:
        trained = f"{entry.train_seconds:.0f} s" if entry.train_seconds else "-"
        went = "goes on" if entry.kept else "dropped"
        values = common.score_text(entry.score), f"{entry.seconds:.2f}", f"{entry.gb:.2f}", trained, went
        table.add_row(entry.round, escape(entry.name), *values)
    return table


def _noise(made: Distilled) -> str:
    """What repeated inputs say of the noise in the teacher's answers: nobody can agree with it more often than it does itself."""
    from ..distill import wilson

    again, otherwise = made.dataset.asked_again, made.dataset.answered_otherwise
    if not again:
        return "Noise in the teacher's answers: unknown, no input was asked twice."
    share = common.score_text(wilson(otherwise, again))
    return f"Noise in the teacher's answers: asked again, it said something else for {share} of the inputs."


def _cache(cache: CacheLock) -> str:
    return common.cache_text(CacheShown(cache.after, cache.likeness, cache.certificate, None))


def _exposure(made: Distilled) -> str:
    """What attacks on shadows say of secrets in the weights."""
    found = made.specialist.exposure
    if found is None:
        return "Secrets in the weights: not tested (--canaries N)."
    beside = f", {found['in_inputs']:.0f} more stood in inputs alone" if found.get("in_inputs") else ""
    return (
        f"Secrets in the weights: {found['extracted']:.0f} of {found['canaries']:.0f} planted ones could be read out "
        f"(at most {found['upper_bound']:.1%}), exposure {found['bits']:.2f} bits [{found['low']:.2f}, {found['high']:.2f}]{beside}; "
        f"{found['seconds']:.0f} s of shadow trainings."
    )
