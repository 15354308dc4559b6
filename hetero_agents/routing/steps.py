"""What a run does once, also where it is killed and resumed: answers of slots, results of roles, side effects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import asdict, replace
from typing import Any, ParamSpec, Protocol
from uuid import uuid4

from .ledger import Budget, Ledger, Spent

Json = Any
P = ParamSpec("P")


class Steps(Protocol):
    """Keeps what a run has done (`RunSteps`)."""

    async def step(self, name: str, key: Json, function: Callable[[], Awaitable[Json]]) -> Json:
        """Return what the function gave for this key in this place of the run, or call it and keep what it gives."""
        ...

    async def effect(self, name: str, key: Json, function: Callable[[str], Awaitable[Json]], *, safe: bool) -> Json:
        """Do something to the world once."""
        ...


steps_now: ContextVar[Steps | None] = ContextVar("hetero_steps", default=None)
"""What keeps the steps of the run in which a call is made; None where it need not resume."""


_kept_inside: ContextVar[list[Spent]] = ContextVar("hetero_kept_inside")
"""What steps inside the one that is being made have kept, for example of a slot that a check calls: it does not count twice."""


async def paid_step(steps: Steps, name: str, key: Json, function: Callable[[], Awaitable[Json]]) -> Json:
    """Return a step whose model calls count for the run, also when it is resumed.

    Args:
        steps: of the run.
        name: of the slot or agent.
        key: JSON; all that the result depends on.
        function: gives JSON.
    """
    outside = _kept_inside.get(None)

    async def make() -> Json:
        inside: list[Spent] = []
        token = _kept_inside.set(inside)

        async def paid(value: Json) -> Json:
            spent = own.spent
            if outside is not None:
                outside.append(spent)
            return {"value": value, "spent": asdict(replace(spent - sum(inside, Spent()), seconds=0.0))}

        try:
            with Ledger(Budget()) as own:
                try:
                    return await paid(await function())
                except Exception:
                    if own.spent.calls:  # what failed is made again, and was paid for all the same
                        await steps.step(f"{name} failed", uuid4().hex, lambda: paid(None))
                    raise
        finally:
            _kept_inside.reset(token)

    return (await steps.step(name, key, make))["value"]


async def effect(name: str, key: Json, function: Callable[[str], Awaitable[Json]], *, safe: bool = False) -> Json:
    """Do something to the world once in a run that resumes: send a mail, push a commit, pay.

    In a durable run of a crew a finished effect is not done again, and gives what it gave. Where an earlier try began and is not known to have
    finished, whoever resumes is asked; if it has happened, this gives None, since what it gave was not kept. Outside of one it is just done.

    Args:
        name: of the effect; stored in the clear.
        key: JSON; what tells this effect from others of its name in the same role's call. The same again is the same effect.
        function: takes an idempotency key, the same in all tries, and gives JSON.
        safe: it may be repeated with the same idempotency key, so nobody is asked.

    Raises:
        EffectError: it may have happened, and nobody can be asked; the run stops there, whatever its role does after errors.
    """
    steps = steps_now.get()
    if steps is None:
        return await function(uuid4().hex)
    return await steps.effect(name, key, function, safe=safe)
