"""What a run may spend: reserved before each call, settled after."""

import asyncio
import threading
from contextvars import copy_context

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ImageUrl, ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from hetero_agents import Budget, BudgetError, ConfigError, Ledger, Slots, UserError, slot
from hetero_agents.bindings.config import Price
from hetero_agents.routing import Spent
from hetero_agents.testing import scripted

from .conftest import OpenApp
from .support import answers

pytestmark = pytest.mark.anyio

BOUNDED = 'big = { model = "fake:big", max_tokens = 100, price = { input = 1, output = 10 } }'


def toml(big: str = BOUNDED, slots: str = "", fallback: str = "") -> str:
    """Return a workspace whose slots are filled by `big`."""
    return (
        f'[models]\n{big}\nsmall = {{ model = "fake:small", max_tokens = 5, price = {{ input = 0 }} }}\n'
        f'[tiers]\nllm = {{ model = "big"{fallback} }}\n[privacy]\ncontent = "raw"\n{slots}'
    )


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@slot(name="ledger.name")
async def name(text: str) -> str:
    """Name it."""
    ...


async def test_a_call_that_might_break_the_budget_is_not_made(open_app: OpenApp) -> None:
    big = answers("a", "b", "c")
    open_app({"fake:big": big}, toml())
    with Ledger(Budget(calls=2)) as ledger:
        await name("x")
        await name("y")
        with pytest.raises(BudgetError, match="The budget of 2 calls leaves no room for another call: 2 are spent or"):
            await name("z")
    assert (len(big.asked), ledger.spent.calls) == (2, 2)
    assert await name("after it") == "c"


async def test_parallel_calls_do_not_pass_the_budget_together(open_app: OpenApp) -> None:
    big = answers("a")
    open_app({"fake:big": big}, toml())
    with Ledger(Budget(calls=5)):
        done = await asyncio.gather(*(name(str(n)) for n in range(50)), return_exceptions=True)
    assert (len(big.asked), sum(isinstance(each, BudgetError) for each in done)) == (5, 45)


async def test_the_worst_case_is_held_while_a_call_goes_on_and_what_it_took_afterwards(open_app: OpenApp) -> None:
    ledger = Ledger(Budget(tokens=1000))
    held: list[int] = []

    def look() -> str:
        with pytest.raises(BudgetError) as error:
            ledger.reserve(Spent(tokens=1000))
        held.append(int(float(str(error.value).partition("call: ")[2].split()[0])))
        ledger.refused = None
        return "a"

    open_app({"fake:big": answers(look)}, toml())
    with ledger:
        await name("x")
    assert held[0] > 100  # every byte that is sent, and `max_tokens`
    assert 0 < ledger.spent.tokens < held[0]


async def test_a_refused_answer_that_is_shown_to_be_repaired_is_reserved_too(open_app: OpenApp) -> None:
    async def held(repair: str) -> int:
        ledger = Ledger(Budget(tokens=10_000))
        held: list[int] = []

        def look() -> str:
            held.append(ledger._held.tokens)  # pyright: ignore[reportPrivateUsage]
            return "b"

        models = {"fake:big": answers(["x" * 300]), "fake:small": answers(look)}
        open_app(models, toml(slots=f'[slots."ledger.name"]\nrepair = {repair}\n', fallback=', fallback = ["small"]'))
        with ledger:
            await name("x")
        return held[0]

    assert await held("true") - await held("false") > 300


async def test_money_is_reserved_by_the_price_of_hetero_toml(open_app: OpenApp) -> None:
    open_app({"fake:big": answers("a")}, toml())
    with Ledger(Budget(money=0.01)) as ledger:
        await name("x")
    used = ledger.spent
    assert used.money == pytest.approx((used.tokens - 3) * 1e-6 + 3 * 10e-6, rel=0.5)
    with Ledger(Budget(money=0.0009)), pytest.raises(BudgetError, match=r"and the call may take 0\.001"):
        await name("x")


def test_hardware_costs_by_the_hour_and_by_its_energy() -> None:
    assert Price(hour=3.6).of(100, 100, 10.0) == pytest.approx(0.01)
    assert Price(watts=500, kwh=0.36).of(0, 0, 3600.0) == pytest.approx(0.18)


@pytest.mark.parametrize(
    ("big", "budget", "sentence"),
    [
        ('big = "fake:big"', Budget(tokens=1000), "The worst case of a call of big is not known: say in [models]"),
        ('big = { model = "fake:big", max_tokens = 9 }', Budget(money=1), "The price of big is not known: say it in"),
        (
            'big = { model = "fake:big", max_tokens = 9, price = { hour = 1 } }',
            Budget(money=1),
            "big costs by the hour, so the worst case of a call is not known: give its slot a timeout",
        ),
    ],
)
async def test_a_worst_case_that_is_not_known_is_an_error_and_never_nothing(
    open_app: OpenApp, big: str, budget: Budget, sentence: str
) -> None:
    model = answers("a")
    open_app({"fake:big": model}, toml(big))
    with Ledger(budget), pytest.raises(ConfigError) as error:
        await name("x")
    assert str(error.value).startswith(sentence)
    assert model.asked == []


async def test_an_hour_of_hardware_is_bounded_by_the_timeout_or_by_the_seconds_that_are_left(open_app: OpenApp) -> None:
    by_hour = 'big = { model = "fake:big", max_tokens = 9, price = { hour = 3600 } }'
    open_app({"fake:big": answers("a")}, toml(by_hour, '[slots."ledger.name"]\ntimeout = 2'))
    with Ledger(Budget(money=1.9)), pytest.raises(BudgetError, match="may take 2;"):
        await name("x")
    with Ledger(Budget(money=0.9, seconds=1)), pytest.raises(BudgetError, match=r"may take (1|0\.9\d*);"):
        await name("x")


async def test_a_list_price_counts_where_hetero_toml_gives_none(open_app: OpenApp) -> None:
    open_app({}, toml())

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart("x")])

    class Listed(FunctionModel):
        @property
        def system(self) -> str:
            return "openai"

    agent = Agent(Listed(answer, model_name="gpt-4o"), capabilities=[Slots()], model_settings={"max_tokens": 1000})
    with Ledger(Budget(money=0.009)), pytest.raises(BudgetError, match=r"may take 0\.01\d*;"):
        await agent.run("hello")


async def test_what_the_server_refused_costs_a_call_and_nothing_else(open_app: OpenApp) -> None:
    ledger = Ledger(Budget(tokens=100_000))
    open_app(
        {"fake:big": answers(ModelHTTPError(429, "big")), "fake:small": answers("a")},
        toml(fallback=', fallback = ["small"]'),
    )
    with ledger:
        await name("x")
    alone = Ledger(Budget(tokens=100_000))
    open_app({"fake:big": answers("a")}, toml())
    with alone:
        await name("x")
    assert (ledger.spent.calls, ledger.spent.tokens) == (2, alone.spent.tokens)


async def test_what_was_cut_off_costs_its_worst_case(open_app: OpenApp) -> None:
    open_app({"fake:big": answers(lambda: (_ for _ in ()).throw(TimeoutError()))}, toml())
    with Ledger(Budget(tokens=100_000)) as ledger, pytest.raises(Exception, match="No model answered"):
        await name("x")
    assert ledger.spent.tokens > 100


async def test_no_call_begins_after_the_seconds_are_over(open_app: OpenApp) -> None:
    big = answers("a")
    open_app({"fake:big": big}, toml())
    ledger = Ledger(Budget(seconds=5), earlier=Spent(seconds=5))
    with ledger, pytest.raises(BudgetError, match="The budget of 5 seconds is spent; give more to go on"):
        await name("x")
    assert big.asked == []


async def test_a_ledger_inside_another_spends_from_both(open_app: OpenApp) -> None:
    open_app({"fake:big": answers("a")}, toml())
    with Ledger(Budget(calls=3)) as outer:
        with Ledger(Budget(calls=2)):
            await name("x")
            await name("x")
        with Ledger(Budget(calls=2)) as inner:
            await name("x")
            with pytest.raises(BudgetError, match="The budget of 3 calls"):
                await name("x")
    assert (outer.spent.calls, inner.spent.calls) == (3, 1)


def test_calls_from_threads_with_its_context_do_not_pass_the_budget_together(open_app: OpenApp) -> None:
    open_app({"fake:big": answers("a")}, toml())
    ledger, refused = Ledger(Budget(calls=3)), list[Exception]()

    def work() -> None:
        try:
            name.sync("x")
        except BudgetError as error:
            refused.append(error)

    with ledger:
        threads = [threading.Thread(target=copy_context().run, args=(work,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (ledger.spent.calls, len(refused)) == (3, 5)


async def test_an_answer_from_the_cache_costs_nothing(open_app: OpenApp) -> None:
    open_app({"fake:big": answers("a")}, toml(slots='[slots."ledger.name"]\ncache = "exact"'))
    with Ledger(Budget(calls=1)) as ledger:
        await name("x")
        await name("x")
    assert ledger.spent.calls == 1


@pytest.mark.parametrize("wrong", [0, -1, float("nan")])
def test_a_limit_that_lets_nothing_through_is_refused(wrong: float) -> None:
    with pytest.raises(UserError, match="A budget has the limit money="):
        Budget(money=wrong)


@pytest.mark.parametrize("price", [{}, {"watts": 65}])
def test_a_price_that_says_nothing_is_refused(price: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"price says at least one|watts and kwh go together"):
        Price(**price)


def test_a_ledger_is_open_once_at_a_time() -> None:
    ledger = Ledger(Budget(calls=1))
    with ledger, pytest.raises(UserError, match="This ledger is open already"), ledger:
        pass
    with ledger:
        pass


async def test_each_model_of_an_agents_chain_is_reserved_by_itself(open_app: OpenApp) -> None:
    big, small = answers(TimeoutError()), answers("b")
    open_app({"fake:big": big, "fake:small": small}, toml(fallback=', fallback = ["small"]'))
    agent = Agent("slot:desk", capabilities=[Slots()])
    with Ledger(Budget(calls=1)) as ledger, pytest.raises(BudgetError):
        await agent.run("hello")
    assert (len(big.asked), len(small.asked), ledger.spent.calls) == (1, 0, 1)
    with Ledger(Budget(calls=2)) as ledger:
        await agent.run("hello")
    assert ledger.spent.calls == 2


async def test_media_have_no_worst_case_in_tokens() -> None:
    agent = Agent(FunctionModel(lambda messages, info: ModelResponse(parts=[TextPart("x")])), capabilities=[Slots()])
    asked = ["What is it?", ImageUrl("https://example.org/x.png")]
    with scripted({}):
        with Ledger(Budget(tokens=10_000)), pytest.raises(ConfigError, match="it sends media"):
            await agent.run(asked, model_settings={"max_tokens": 9})
        with Ledger(Budget(calls=1)):
            await agent.run(asked)


async def test_a_budget_stops_before_a_specialists_fallback(open_app: OpenApp) -> None:
    small = answers("b")
    open_app({"fake:big": answers("a"), "fake:small": small}, toml(fallback=', fallback = ["small"]'))
    with Ledger(Budget(tokens=100)), pytest.raises(BudgetError, match="The budget of 100 tokens"):
        await name("x")
    assert small.asked == []
