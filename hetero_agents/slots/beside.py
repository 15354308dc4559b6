"""What is asked beside a call, when nobody waits: a specialist on its way, or the model below one that answered alone.

Both are compared with the answer that was given. Their answers are spans below the call's own, and never returned.
"""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanKind, get_current_span

from ..bindings import Binding
from ..contract import compact_json
from ..routing import Answer, Attempt, BadAnswer, Link, Seen, Watched, agrees, alone, attempt
from ..spans import Names

if TYPE_CHECKING:
    from .app import App
    from .slot import Slot


def compare_later(
    app: App, slot: Slot[..., Any], binding: Binding, arguments: Mapping[str, Any], answer: Answer
) -> None:
    """Ask beside a call what its stage and its share of audits ask for."""
    name, entry = answer.route.specialist, binding.entry
    if answer.route.decision == "cached":
        return
    if binding.coming and binding.coming_entry and binding.stage == "shadow":
        link = app.link(binding.coming, binding.coming_entry, binding)
        app.aside.add(lambda: _shadow(app, slot, binding, arguments, answer, link))
    elif name is not None:
        stage: Watched = "canary" if name == binding.coming else "active"
        audited = entry.audit if entry.error_budget is not None else 0.0
        below = next((link for link in app.chain(binding) if link.label != name), None)
        if below is not None and (stage == "canary" or random.random() < audited):
            app.aside.add(lambda: _audit(app, slot, binding, arguments, answer, below, stage))


async def _shadow(
    app: App, slot: Slot[..., Any], binding: Binding, arguments: Mapping[str, Any], answer: Answer, link: Link
) -> None:
    """A specialist on its way answers a call that has its answer."""
    assert link.specialist is not None
    started = time.perf_counter()
    with _span(app, slot, link):
        made, unsure = await _asked(app, slot, arguments, link)
        wrong = made is None or not await same(slot, binding, made.output, answer.attempt.output, arguments)
        _tell(app, slot, made, link)
    seen = Seen(made is not None and unsure is None, wrong, time.perf_counter() - started)
    app.state.saw(link.specialist, "shadow", seen, binding.entry.error_budget)


async def _audit(
    app: App,
    slot: Slot[..., Any],
    binding: Binding,
    arguments: Mapping[str, Any],
    answer: Answer,
    below: Link,
    stage: Watched,
) -> None:
    """The next model answers a call that a specialist has answered alone."""
    assert answer.route.specialist is not None
    with _span(app, slot, below):
        made, unsure = await _asked(app, slot, arguments, below)
        _tell(app, slot, made, below)
    if made is None or unsure is not None:  # nothing to compare with
        return
    wrong = not await same(slot, binding, answer.attempt.output, made.output, arguments)
    app.state.saw(answer.route.specialist, stage, Seen(True, wrong, answer.attempt.seconds), binding.entry.error_budget)


async def _asked(
    app: App, slot: Slot[..., Any], arguments: Mapping[str, Any], link: Link
) -> tuple[Attempt | None, str | None]:
    """Ask one link as a call would; None where its answer does not hold, and why it may not be given alone."""
    endpoint = await link.open()
    given = (endpoint, slot.contract, arguments)
    try:
        if link.certificate:
            return await alone(*given, slot.checks, app.tracing.settings, link.certificate)
        return await attempt(*given, checks=slot.checks, instrument=app.tracing.settings), None
    except BadAnswer as error:
        return None, str(error)


async def same(slot: Slot[..., Any], binding: Binding, first: Any, second: Any, arguments: Mapping[str, Any]) -> bool:
    """Return whether two typed outputs are the same answer: as the slot's own comparison says, else by their JSON.

    A judge and F1 of fields are for `hetero distill`: here they are equal or not, which is stricter.
    """
    if slot.comparison is not None:
        said = slot.comparison(first, second)
        return float(await said if inspect.isawaitable(said) else said) >= 1.0
    entry, contract = binding.entry, slot.contract
    one, other = (contract.canonical(contract.dump_output(value), arguments) for value in (first, second))
    return agrees(one, other, tolerance=entry.tolerance, unordered=entry.compare == "unordered")


def _span(app: App, slot: Slot[..., Any], link: Link) -> Any:
    attributes: dict[str, Any] = {Names.DECISION: "shadow", Names.BINDING: link.label, Names.TRAINABLE: link.trainable}
    if link.specialist:
        attributes[Names.SPECIALIST] = link.specialist
    return app.tracing.tracer.start_as_current_span(f"beside {slot.id}", attributes=attributes, kind=SpanKind.INTERNAL)


def _tell(app: App, slot: Slot[..., Any], made: Attempt | None, link: Link) -> None:
    if made is not None:
        told = {Names.OUTPUT: compact_json(slot.contract.dump_output(made.output)), Names.CONFIDENCE: made.confidence}
        get_current_span().set_attributes({key: value for key, value in told.items() if value is not None})
