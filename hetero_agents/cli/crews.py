"""What `hetero run` does with a crew."""

from __future__ import annotations

import sys
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from ..contract import compact_json
from ..crew import Crew, CrewRun
from ..crew.durable import Confirm, new_id
from ..crew.human import ask_line, said
from ..errors import UserError
from ..routing import Budget
from ..slots import registry
from . import common


async def run_crew(crew: Crew, value: str | None, budget: Budget | None, resume: str | None) -> CrewRun[Any]:
    """Run a crew until one of its results is there, or until nobody has work. It can be resumed where DBOS is installed.

    Args:
        crew: the crew.
        value: the message to begin with: JSON, or text for its only field.
        budget: what the run may spend.
        resume: id of the run that goes on, or `last`.

    Raises:
        UserError: the value is no message that the crew begins with.
    """
    until = crew.gives or None
    if resume is not None:
        if value is not None:
            raise UserError("A run that is resumed begins with what it began with; leave VALUE out.")
        if resume == "last":
            if not (known := await registry.app.runs.known(crew.id)):
                raise UserError(f"There is no run of crew {crew.id!r} to resume; runs are kept for a week.")
            resume = known[0]
        return await crew.run(until=until, budget=budget, resume=resume, confirm=_confirm())
    kinds = crew.entries
    if not kinds:
        raise UserError(f"Crew {crew.id!r} waits for no message from outside; run it from Python.")
    try:
        message = said(value or "", kinds)
    except UserError as error:
        raise UserError(
            f"{str(error)[:-1]}; crew {crew.id!r} begins with {' or '.join(k.__name__ for k in kinds)}."
        ) from error
    if find_spec("dbos") is None:
        common.err.print("This run cannot be resumed: pip install 'hetero_agents[durable]'.", markup=False)
        return await crew.run(message, until=until, budget=budget)
    run_id = new_id()
    common.err.print(f"run {run_id}")  # now: whoever kills it knows what to resume
    return await crew.run(message, until=until, budget=budget, durable=run_id, confirm=_confirm())


def _confirm() -> Confirm | None:
    """Ask on the terminal whether an effect has happened; None where there is none."""
    if not sys.stdin.isatty():
        return None

    async def ask(name: str, key: Any) -> bool:
        question = f"{name} {compact_json(key)} began before the run stopped. Has it happened? [yes/no] "
        while (said := (await ask_line(question)).strip().lower()) not in ("yes", "no"):
            pass
        return said == "yes"

    return ask


def print_run(run: CrewRun[Any], *, as_json: bool) -> bool:
    """Print the result of a run, or all that there is where it did not get there; return whether it did."""
    done = run.ended == ("until" if run.until else "idle")
    messages = [
        {
            "id": message.id,
            "type": message.kind.__name__,
            "role": message.role,
            "round": message.round,
            "caused_by": message.caused_by,
            "content": common.plain(message.content),
        }
        for message in run.messages
    ]
    if as_json:
        output = common.plain(run.output) if run.ended == "until" else None
        common.print_json(
            {
                "output": output,
                "ended": run.ended,
                "why": run.why,
                "run": run.id,
                "rounds": run.rounds,
                "spent": asdict(run.spent),
                "failures": [asdict(failure) for failure in run.failures],
                "messages": messages,
                "trace": run.trace_id,
            }
        )
        return done
    if run.ended == "until":
        common.out.print_json(data=common.plain(run.output), indent=2)
    else:
        for message in messages:
            common.out.print(f"{message['type']}#{message['id']} by {message['role'] or 'you'}", markup=False)
    for failure in run.failures:
        common.err.print(f"{failure.role} failed: {failure.error}", markup=False, soft_wrap=True)
    spent = run.spent
    money = f", ${spent.money:.4f}" if spent.money else ""
    unpriced = f" ({spent.unpriced} calls have no known price)" if spent.unpriced else ""
    common.err.print(
        f"{run.rounds} rounds, {spent.calls} model calls, {spent.tokens} tokens{money}{unpriced}, {spent.seconds:.1f} s: {run.why}",
        markup=False,
        soft_wrap=True,
    )
    common.err.print(f"trace {run.trace_id}")
    return done


def budget_of(money: float | None, tokens: int | None, calls: int | None, seconds: float | None) -> Budget | None:
    """Return what the options say; None where they say nothing."""
    said_so = (money, tokens, calls, seconds)
    return None if said_so == (None,) * 4 else Budget(*said_so)
