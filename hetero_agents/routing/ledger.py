"""What a run may spend: the worst case of each model call is reserved before it begins, and settled after."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, fields, replace
from typing import Self

import httpx2
from genai_prices import Usage, calc_price
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from ..bindings.config import ModelConfig, Price
from ..errors import BudgetError, ConfigError, EngineError, UserError

_SERVED_HERE = ("local", "vllm", "replay")
"""Engines whose models have no list price, whatever their names are."""


@dataclass(frozen=True)
class Budget:
    """The most that a run may spend; what is None has no limit."""

    money: float | None = None
    """US dollars, as list prices are; your own prices in `hetero.toml` are taken to be in the same."""
    tokens: int | None = None
    """Input and output together."""
    calls: int | None = None
    """Requests to models, retries of an answer included."""
    seconds: float | None = None
    """Since the ledger was opened."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None and not value > 0:
                raise UserError(f"A budget has the limit {limit.name}={value:g}; it takes a number above 0.")


@dataclass(frozen=True)
class Spent:
    """What calls took."""

    money: float = 0.0
    """US dollars of the calls whose price is known."""
    tokens: int = 0
    calls: int = 0
    seconds: float = 0.0
    unpriced: int = 0
    """Calls whose price is not known; none under a budget of money."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Terms:
    """What a model costs, and what bounds a call of it."""

    label: str
    """Name in `[models]`, or the specialist's id."""
    price: Price | None = None
    """What `hetero.toml` says; the list price where None."""
    listed: bool = True
    """Its provider may have a list price for it."""
    max_tokens: int | None = None
    timeout: float | None = None
    """Seconds for one call."""

    @classmethod
    def of(cls, label: str, config: ModelConfig, timeout: float | None) -> Terms:
        """Return the terms of an entry of `[models]`."""
        return cls(label, config.price, config.model.partition(":")[0] not in _SERVED_HERE, config.max_tokens, timeout)


@dataclass(eq=False)
class Ledger:
    """Keeps a budget: inside `with Ledger(Budget(calls=10)):` no call begins that might break it.

    Slots and agents with `Slots()` are counted, from parallel tasks and `asyncio.to_thread` too; a thread that you start yourself needs
    `contextvars.copy_context().run`. A ledger inside another one
    spends from both. What is asked beside a call to compare it (shadow, audit) is nobody's.
    """

    budget: Budget
    earlier: Spent = Spent()
    """What was spent before, by a run that goes on."""
    _spent: Spent = field(default=Spent(), init=False)
    _held: Spent = field(default=Spent(), init=False)
    _began: float = field(default_factory=time.monotonic, init=False)
    _above: Ledger | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _token: Token[Ledger | None] | None = field(default=None, init=False, repr=False)
    refused: str | None = field(default=None, init=False)
    """Why a call was not made, once one was not."""

    def __enter__(self) -> Self:
        if self._token is not None:
            raise UserError("This ledger is open already; open another one inside it.")
        self._began = time.monotonic()
        self._above = ledger_now.get()
        self._token = ledger_now.set(self)
        return self

    def __exit__(self, *of: object) -> None:
        assert self._token is not None
        ledger_now.reset(self._token)
        self._token = None

    @property
    def spent(self) -> Spent:
        """What was spent until now, earlier parts of the run included."""
        with self._lock:
            return self.earlier + self._spent + Spent(seconds=time.monotonic() - self._began)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the nearest limit of this ledger and those around it; None without one."""
        own = None if self.budget.seconds is None else max(0.0, self.budget.seconds - self.spent.seconds)
        left = [each for each in (own, self._above.seconds_left if self._above else None) if each is not None]
        return min(left, default=None)

    def limits(self, name: str) -> bool:
        """Return whether this ledger or one around it limits `money` or `tokens`."""
        return getattr(self.budget, name) is not None or (self._above is not None and self._above.limits(name))

    def reserve(self, worst: Spent) -> None:
        """Hold the worst case of a call.

        Raises:
            BudgetError: it might break the budget; nothing is held.
        """
        with self._lock:
            if why := self._breaks(worst):
                self.refused = self.refused or why
                raise BudgetError(why)
            self._held += worst
        if self._above is not None:
            try:
                self._above.reserve(worst)
            except BudgetError as error:
                with self._lock:
                    self._held -= worst
                    self.refused = self.refused or str(error)
                raise

    def settle(self, worst: Spent, used: Spent) -> None:
        """Write what a call took in place of its worst case."""
        with self._lock:
            self._held -= worst
            self._spent += used
        if self._above is not None:
            self._above.settle(worst, used)

    def _breaks(self, worst: Spent) -> str | None:
        now = self.earlier + self._spent + self._held + Spent(seconds=time.monotonic() - self._began)
        for name, unit in (("money", "$"), ("tokens", "tokens"), ("calls", "calls")):
            limit = getattr(self.budget, name)
            if limit is not None and getattr(now + worst, name) > limit:
                done, more = getattr(now, name), getattr(worst, name)
                return (
                    f"The budget of {limit:g} {unit} leaves no room for another call: {done:.4g} are spent or reserved, "
                    f"and the call may take {more:.4g}; give more to go on."
                )
        if self.budget.seconds is not None and now.seconds >= self.budget.seconds:
            return f"The budget of {self.budget.seconds:g} seconds is spent; give more to go on."
        return None


ledger_now: ContextVar[Ledger | None] = ContextVar("hetero_ledger", default=None)
"""The ledger that a call spends from."""

Settle = Callable[[RequestUsage], None]
"""Takes what a request used."""


@contextmanager
def spending(
    terms: Terms,
    model: Model,
    messages: Sequence[ModelMessage],
    settings: ModelSettings | None,
    parameters: ModelRequestParameters,
) -> Generator[Settle]:
    """Reserve the worst case of a request, and settle it; without a ledger, nothing.

    The worst case: a token for each byte that is sent, `max_tokens` in the answer, and the whole timeout in seconds. A request
    that the server refused, or that never reached it, costs nothing but counts as a call; one that was cut off costs its
    worst case, for nobody knows what it took.

    Args:
        terms: what the model costs.
        model: whose list price counts where terms give no price.
        messages: what is sent.
        settings: of the request.
        parameters: of the request.

    Raises:
        BudgetError: it might break the budget.
        ConfigError: its worst case is not known.
    """
    ledger = ledger_now.get()
    if ledger is None:
        yield lambda usage: None
        return
    worst = _worst(ledger, terms, model, messages, settings, parameters)
    ledger.reserve(worst)
    began, used = time.monotonic(), worst

    def settle(usage: RequestUsage) -> None:
        nonlocal used
        used = _used(terms, model, usage, time.monotonic() - began)
        if used.unpriced and worst.money:  # its price is known, and this usage has none
            used = replace(used, money=worst.money, unpriced=0)

    try:
        yield settle
    except (ModelAPIError, EngineError) as error:
        if _refused(error):
            used = Spent(calls=1)
        raise
    finally:
        ledger.settle(worst, used)


def _refused(error: ModelAPIError | EngineError) -> bool:
    """Whether no model can have worked on a request."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
        if isinstance(cause, ModelHTTPError):
            return cause.status_code < 500
        cause = cause.__cause__
    return cause is not None


def _worst(
    ledger: Ledger,
    terms: Terms,
    model: Model,
    messages: Sequence[ModelMessage],
    settings: ModelSettings | None,
    parameters: ModelRequestParameters,
) -> Spent:
    if not (ledger.limits("tokens") or ledger.limits("money")):
        return Spent(calls=1)
    written = (settings or {}).get("max_tokens") or terms.max_tokens
    if written is None:
        raise ConfigError(
            f"The worst case of a call of {terms.label} is not known: say in [models] how much it may write, for example max_tokens = 2048."
        )
    if parameters.native_tools or any(_holds_media(message) for message in messages):
        raise ConfigError(
            f"The worst case of a call of {terms.label} is not known: it sends media, or uses tools of the provider's; give the run a budget of calls instead."
        )
    read = len(ModelMessagesTypeAdapter.dump_json(list(messages)))
    for tool in (*parameters.function_tools, *parameters.output_tools):
        read += len(json.dumps(tool.parameters_json_schema)) + len(tool.description or "") + len(tool.name)
    if parameters.output_object is not None:
        read += len(json.dumps(parameters.output_object.json_schema))
    if not ledger.limits("money"):
        return Spent(tokens=read + written, calls=1)
    seconds = min((s for s in (terms.timeout, ledger.seconds_left) if s is not None), default=None)
    if seconds is None and terms.price and terms.price.by_time:
        raise ConfigError(
            f"{terms.label} costs by the hour, so the worst case of a call is not known: give its slot a timeout, or the run a budget of seconds."
        )
    price = price_of(terms, model, RequestUsage(input_tokens=read, output_tokens=written), seconds or 0.0)
    if price is None:
        raise ConfigError(
            f"The price of {terms.label} is not known: say it in [models], for example price = {{ input = 1.25, output = 10 }} in dollars a million tokens, or {{ hour = 0.4 }}."
        )
    return Spent(money=price, tokens=read + written, calls=1)


def _holds_media(message: ModelMessage) -> bool:
    """Whether a message holds what is counted otherwise than as text."""
    return any(
        isinstance(part, UserPromptPart)
        and not isinstance(part.content, str)
        and not all(isinstance(c, str) for c in part.content)
        for part in message.parts
    )


def _used(terms: Terms, model: Model, usage: RequestUsage, seconds: float) -> Spent:
    price = price_of(terms, model, usage, seconds)
    return Spent(price or 0.0, usage.input_tokens + usage.output_tokens, 1, unpriced=int(price is None))


def price_of(terms: Terms, model: Model, usage: RequestUsage, seconds: float) -> float | None:
    """Return the US dollars of a request; None where nobody knows.

    Args:
        terms: what its model costs.
        model: whose list price counts where terms give no price.
        usage: tokens.
        seconds: that it took.
    """
    if terms.price is not None:
        return terms.price.of(usage.input_tokens, usage.output_tokens, seconds)
    if not terms.listed:
        return None
    try:
        return float(calc_price(Usage.from_raw(usage), model.model_name, provider_id=model.system).total_price)
    except (LookupError, ValueError):  # nobody knows it, or its usage cannot be: more tokens cached than read
        return None
