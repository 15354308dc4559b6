"""`hetero slots`, `promote`, `rollback`, `lineage`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import to_jsonable_python
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from ..bindings import SpecialistId
from ..bindings.lock import SlotLock, Stage
from ..bindings.workspace import CANARY_SHARE, uncertified
from ..contract import SlotId
from ..errors import ConfigError, IntegrityError, UnknownNameError, UserError
from ..slots import App, Slot, registry
from ..slots.recalled import CacheShown, caches_of
from . import common
from .common import Json
from .keys import open_vault

if TYPE_CHECKING:
    from ..distill.lineage import Lineage

SHOWN = 3
"""Spans of each part that `lineage` draws."""


def slots(as_json: Json = False) -> None:
    """Show every slot: its tier, what fills it now, its error budget, and its specialists."""
    app = common.open_app()
    rows = [_slot_row(app, slot) for slot in registry.slots.values()]
    if as_json:
        common.print_json(rows)
        return
    table = Table("slot", "tier", "filled by", "error budget", "specialists", "note")
    for row in rows:
        budget = "-" if row["error_budget"] is None else f"{row['error_budget']:g}"
        if (kept := row["kept"]) is not None:
            budget += f": keeps {kept['score']:.3f} [{kept['low']:.3f}, {kept['high']:.3f}]"
        notes = [row["note"] or ""]
        for cache in row["caches"]:
            where = f"cache behind {cache['after']}" if cache["after"] else "cache"
            if cache["refused"]:
                notes.append(f"{where} answers nothing by meaning: {cache['refused']}")
            else:
                share, least = cache["certificate"]["share"], cache["likeness"]
                budget += f"\n{where}: gives {share['score']:.3f} [{share['low']:.3f}, {share['high']:.3f}]"
                budget += "" if least is None else f" from a likeness of {least:.3f} on"
        shown = "\n".join(row["specialists"]) or "-"
        table.add_row(
            row["slot"], row["tier"], row["filled_by"], escape(budget), shown, escape("\n".join(filter(None, notes)))
        )
    common.out.print(table)


def _slot_row(app: App, slot: Slot[..., Any]) -> dict[str, Any]:
    lock = app.workspace.lock
    specialists = [
        f"{name} {common.score_text(entry.scores['specialist'])}"
        for name, entry in lock.of_slot(slot.id).items()
        if "specialist" in entry.scores
    ]
    filled, note, kept, caches = "nothing", None, None, list[CacheShown]()
    try:
        binding = app.binding(slot.id, slot.tier, slot.contract.sha256, slot.checks_sha256)
    except ConfigError as error:
        note = str(error)
    else:
        chain = [f"{binding.coming} ({binding.stage})"] if binding.coming else []
        chain += [binding.specialist_id] if binding.specialist_id else []
        filled = " -> ".join([*chain, *(name for name, _ in binding.models)])
        ours = [name for name in (binding.coming, binding.specialist_id) if name]
        stopped = next((f"{name} is stopped: {why}" for name in ours if (why := app.state.stopped(name))), None)
        note = stopped or binding.refused or binding.coming_refused
        answers = binding.coming_entry or binding.specialist
        if answers and answers.certificate and binding.entry.error_budget is not None:
            kept = answers.certificate.share.model_dump()
        caches = caches_of(app, slot)
    return {
        "slot": slot.id,
        "tier": slot.tier,
        "hci": slot.hci,
        "contract": slot.contract.sha256,
        "filled_by": filled,
        "error_budget": app.workspace.slot_config(slot.id).error_budget,
        "kept": kept,
        "caches": to_jsonable_python(caches),
        "specialists": specialists,
        "note": note,
    }


def promote(
    specialist: Annotated[str, typer.Argument(help="A specialist (desk.choose@1), or a slot for its newest.")],
    stage: Annotated[
        Stage,
        typer.Option(help="How far: shadow (compared, never returned), canary (a share of the calls), active."),
    ] = "active",
    share: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="The share of calls that a canary answers; all of them are compared."),
    ] = CANARY_SHARE,
    auto: Annotated[
        bool, typer.Option("--auto", help="Move the slot's specialist one stage on or back, if the evidence says so.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let a specialist fill its slot; running processes see it at their next call."""
    from ..engines.catalog import sha256_of_file

    app = common.open_app()
    lock = app.workspace.lock
    if auto:
        if "@" in specialist or stage != "active" or share != CANARY_SHARE:
            raise UserError("--auto takes a slot, and neither --stage nor --share: the evidence decides.")
        _say_verdict(app, registry.slot(specialist), as_json)
        return
    if "@" not in specialist:
        slot = registry.slot(specialist)
        mine = list(lock.of_slot(slot.id))
        if not mine:
            raise UnknownNameError(
                "specialist of slot", specialist, (), hint=f"make one with `hetero distill {specialist}`"
            )
        specialist = mine[-1]
    name = SpecialistId(specialist)
    if name not in lock.specialists:
        raise UnknownNameError("specialist", specialist, lock.specialists, hint="`hetero slots` lists them")
    entry = lock.specialists[name]
    if entry.withdrawn:
        raise ConfigError(
            f"{name} may not be used any more: {entry.withdrawn}; run `hetero distill {entry.slot}` again."
        )
    declared = registry.slot(entry.slot)
    if declared.contract.sha256 != entry.contract_sha256:
        raise ConfigError(
            f"{name} was trained for another contract of {entry.slot!r} than the code has now; run `hetero distill {entry.slot}` again."
        )
    path = app.workspace.root / entry.served
    if not path.is_file() or sha256_of_file(path) != entry.gguf_sha256:
        raise IntegrityError(
            f"The weights of {name} at {path} are missing or not those that were evaluated; distill it again."
        )
    after = app.workspace.activate(entry.slot, name, stage, share, expected=lock.slots.get(entry.slot, SlotLock()))
    app.state.forget(name)  # what was seen of it, and why it was stopped, is of another time
    _say_slot(entry.slot, after, as_json)
    config = app.workspace.slot_config(entry.slot)
    lacks = uncertified(entry.certificate, config, declared.checks_sha256) if config.error_budget is not None else None
    if lacks and not as_json:
        common.err.print(f"It answers nothing alone for now: {lacks}.", soft_wrap=True, markup=False)


def _say_verdict(app: App, slot: Slot[..., Any], as_json: bool) -> None:
    from ..rollout import step

    found = step(app, slot)
    after = app.workspace.lock.slots[slot.id]
    if as_json:
        common.print_json({**asdict(found), "now": after.model_dump(mode="json")})
    else:
        moved = {"forward": "goes on", "back": "goes back", "stay": "stays"}[found.move]
        p95 = "" if found.p95_seconds is None else f"; 95 of 100 took at most {found.p95_seconds:.2f} s"
        common.out.print(f"{found.specialist}, {found.stage}, {moved}: {found.why}{p95}.", soft_wrap=True, markup=False)
        _say_slot(slot.id, after, as_json)


def rollback(
    slot: Annotated[str, typer.Argument(help="The slot's id.")],
    as_json: Json = False,
) -> None:
    """Put back what the slot's specialist replaced; running processes see it at their next call."""
    app = common.open_app(modules=False)
    known = {*app.workspace.lock.slots, *registry.slots}
    if SlotId(slot) not in app.workspace.lock.slots:
        raise UnknownNameError("slot with a specialist", slot, known)
    out = app.workspace.lock.slots[SlotId(slot)].active
    after = app.workspace.restore(SlotId(slot))
    if out is not None:  # for `hetero iterate`, which would try it again
        app.state.stop(out, "it was rolled back by hand")
    _say_slot(SlotId(slot), after, as_json)


def lineage(
    what: Annotated[
        str | None,
        typer.Argument(help="A specialist (desk.choose@1); or a trace, or TRACE:SPAN, to see what it went into."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="A person, as `subject()` was told: what the person's spans went into.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a specialist was made from, back to its spans; or what a span, a run or a person went into."""
    from ..distill.forget import examples_of
    from ..distill.lineage import examples_of_run, lineage_of, route_of, stored_datasets, uses_of

    if (what is None) == (subject is None) or what == "" or (what or "").startswith(":"):
        raise UserError("Name one thing: a specialist, a trace, TRACE:SPAN, or --subject ID.")
    app, vault = open_vault()
    root, lock = app.workspace.root, app.workspace.lock
    if what is not None and "@" in what:
        found = lineage_of(app.workspace, what)
        if as_json:
            values = found.specialist.model_dump(mode="json")
            where = found.dataset and str(found.dataset.relative_to(root))
            spans = [asdict(origin) for origin in found.origins]
            common.print_json({"specialist": what, "route": found.route, **values, "dataset": where, "spans": spans})
        else:
            common.out.print(_lineage_tree(found, root))
        return
    matches = examples_of(vault, subject) if subject is not None else examples_of_run(*(what or "").split(":", 1))
    # A bake-off keeps a data set once for each of its trainings.
    every = {use.dataset_sha256: use for use in uses_of(lock, stored_datasets(app.workspace), matches)}
    uses = list(every.values())
    if as_json:
        common.print_json([{**asdict(use), "dataset": str(use.dataset.relative_to(root))} for use in uses])
        return
    tree = Tree(escape(subject or what or ""))
    for use in uses:
        parts = Counter(origin.part for origin in use.origins)
        counted = ", ".join(f"{n} in {part}" for part, n in parts.items())
        branch = tree.add(escape(f"data set of {use.slot}: {counted} ({use.dataset.relative_to(root)})"))
        for name in use.specialists:
            branch.add(escape(f"{name}, {route_of(lock, name)}"))
    common.out.print(tree if uses else "No data set that lies here has an example from it.")


def _lineage_tree(found: Lineage, root: Path) -> Tree:
    entry = found.specialist
    tree = Tree(escape(f"{found.specialist_id}, {found.route}{f': {entry.withdrawn}' if entry.withdrawn else ''}"))
    scores = tree.add("scores on the test part")
    for name, score in entry.scores.items():
        scores.add(f"{name} {common.score_text(score)}")
    tree.add(escape(f"adapter {entry.adapter}, safetensors {entry.adapter_sha256[:12]}, gguf {entry.gguf_sha256[:12]}"))
    tree.add(escape(f"base {entry.base}, {entry.base_sha256[:12]}"))
    tree.add(escape("recipe " + ", ".join(f"{key}={value}" for key, value in entry.recipe.items())))
    tree.add(f"contract {entry.contract_sha256[:12]}")
    where = found.dataset.relative_to(root) if found.dataset else "not on this machine"
    data = tree.add(escape(f"data set {entry.dataset_sha256[:12]} ({where}), answers of {entry.teacher}"))
    policy = ", ".join(f"{key}={value}" for key, value in entry.privacy.items())
    data.add(escape(f"[privacy] at distillation: {policy or 'not recorded'}"))
    for part, n in Counter(origin.part for origin in found.origins).items():
        mine = [origin for origin in found.origins if origin.part == part]
        corrected = sum(origin.corrected for origin in mine)
        runs = len({origin.trace_id for origin in mine})
        branch = data.add(f"{part}: {n} calls of {runs} runs, {corrected} corrected")
        for origin in mine[:SHOWN]:
            branch.add(f"{origin.trace_id}:{origin.span_id}")
        if n > SHOWN:
            branch.add(f"and {n - SHOWN} more (--json has all)")
    return tree


def _say_slot(slot: SlotId, state: SlotLock, as_json: bool) -> None:
    if as_json:
        common.print_json({"slot": slot, **state.model_dump(mode="json")})
    else:
        by = state.active or "the model that hetero.toml names"
        text = f"{slot} is filled by {by}."
        if state.stage != "active":
            before = (state.replaced[-1] if state.replaced else None) or "the model that hetero.toml names"
            how = (
                "is compared with it in the shadow"
                if state.stage == "shadow"
                else f"answers {state.share or 0:.0%} of the calls"
            )
            text = f"{slot} is filled by {before}; {by} {how}."
        common.out.print(text, soft_wrap=True)
