"""Matchers: models of embeddings that choose among a call's answers, as bases, as specialists, and as rivals of those that write."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine, Generator, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, UserPromptPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.function import AgentInfo, FunctionModel

from hetero_agents import EngineError, IntegrityError, OneOf, Slot, slot
from hetero_agents.bindings import ModelConfig, SpecialistId, Workspace
from hetero_agents.contract import sha256_of
from hetero_agents.distill import distill
from hetero_agents.distill.compare import comparator
from hetero_agents.distill.curate import Dataset, Example
from hetero_agents.distill.matcher import HOW, fit_matcher
from hetero_agents.distill.measure import contest
from hetero_agents.distill.recipe import Recipe
from hetero_agents.distill.select import BakeOff, allowed, bake_off
from hetero_agents.distill.specialise import base_of, specialise
from hetero_agents.engines import Engines
from hetero_agents.engines.catalog import Weights
from hetero_agents.engines.matcher import Matcher, MatcherModel, read_matcher, spoken
from hetero_agents.errors import ConfigError
from hetero_agents.routing import Budget, Ledger, choice_text, signals_of
from hetero_agents.slots import App, registry
from hetero_agents.testing import MemoryVault

from .conftest import OpenApp
from .support import FakeEngines, answers, lock_entry, write_workspace

RARE = ["fire", "milk", "snow", "wind"]
WORDS = ["cash", "post", "talk", "rain", *RARE]
TOML = """
[models]
small = "local:smollm2-135m-instruct"
matcher = "local:all-minilm-l6-v2"
[tiers]
slm = { model = "matcher" }
llm = { model = "small" }
[privacy]
content = "raw"
"""


class Size(Enum):
    """Answers that are no texts."""

    SMALL = (1, 2)
    LARGE = (3, 4)


def vector(text: str) -> list[float]:
    """A text's direction: the words that it holds."""
    found = [float(word in text) for word in WORDS] + [0.1]
    length = math.hypot(*found)
    return [number / length for number in found]


async def embed(texts: Sequence[str]) -> list[list[float]]:
    return [vector(text) for text in texts]


class Embedding(Engines):
    """Engines whose embeddings are those words'."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return each text's vector."""
        return await embed(texts)


def choose_slot() -> Slot[[str, list[str]], str]:
    @slot(name="matcher.choose", tier="slm")
    async def choose(request: str, tools: list[str]) -> Annotated[str, OneOf("tools")]:
        """Choose."""
        ...

    return choose


def example(request: str, output: str, *tools: str) -> Example:
    values = {"request": request, "tools": list(tools)}
    return Example(sha256_of(values), values, output, "big", False, "", "")


TRAIN = [
    example(f"{word} {n}", tool, "a_1", "b_2", "c_3")
    for n in range(8)
    for word, tool in (("cash", "a_1"), ("post", "b_2"), ("talk", "c_3"))
]
"""Calls whose answers' names say nothing, so that what was given before is all that tells."""

NAMED = [
    *(
        example(f"{word} {n}", f"{word}Tool", "cashTool", "postTool", "rainTool")
        for n in range(8)
        for word in ("cash", "post")
    ),
    *(example(f"{word} now", f"{word}Tool", "cashTool", f"{word}Tool", "rainTool") for word in RARE),
]
"""Calls whose answers' names say what they are for; some were given once, and one never."""


@pytest.fixture
def app(tmp_path: Path) -> Generator[App]:
    made = App.of(Workspace(write_workspace(tmp_path, TOML)), MemoryVault())
    made.engines = Embedding(tmp_path)
    before = registry.use(made)
    yield made
    registry.use(before)
    made.close()


def asked(matcher: Matcher, given: Example) -> tuple[Any, dict[str, float]]:
    """What a matcher answers to a call, and its signals."""
    from hetero_agents.engines import Endpoint
    from hetero_agents.routing import attempt

    contract = choose_slot().contract
    endpoint = Endpoint(MatcherModel("m", embed, matcher), bare_json=True, matches=True)
    made = asyncio.run(attempt(endpoint, contract, contract.load(given.input)))
    return made.output, made.signals or {}


def fitted(train: list[Example]) -> Matcher:
    return asyncio.run(fit_matcher(embed, choose_slot().contract, train))


@pytest.mark.parametrize(
    ("answer", "description", "words"),
    [
        ("get_currentWeather", "", "get current weather"),
        ("Hotels.Book-now", "", "hotels book now"),
        ("refund", "Give money back.", "refund: Give money back."),
        ("__", "", "__"),
    ],
)
def test_an_answers_name_is_taken_apart_into_words(answer: str, description: str, words: str) -> None:
    assert spoken(json.dumps(answer), description) == words


def test_answers_that_are_no_texts_are_read_as_they_are_written() -> None:
    assert [spoken(text, "") for text in ("true", "null", "3")] == ["true", "null", "3"]


def test_untaught_it_takes_the_answer_whose_words_are_nearest() -> None:
    assert asked(Matcher(), example("post it", "?", "cashTool", "postTool"))[0] == "postTool"


def test_it_learns_what_answers_stand_for_whose_names_say_nothing() -> None:
    matcher = fitted(TRAIN)
    assert asked(matcher, example("some talk", "?", "b_2", "c_3", "a_1"))[0] == "c_3"
    assert asked(matcher, example("some cash", "?", "b_2", "a_1"))[0] == "a_1"


def test_it_takes_an_answer_that_nobody_gave_yet_by_its_words() -> None:
    matcher = fitted(NAMED)
    assert '"rainTool"' not in matcher.classifier
    assert asked(matcher, example("will it rain", "?", "cashTool", "rainTool", "postTool"))[0] == "rainTool"
    assert asked(matcher, example("cash", "?", "cashTool", "rainTool", "postTool"))[0] == "cashTool"


def test_two_answers_are_told_apart_as_more_are() -> None:
    matcher = fitted([e for e in TRAIN if e.output != "c_3"])
    assert matcher.classifier.keys() == {'"a_1"', '"b_2"'}
    assert asked(matcher, example("post", "?", "a_1", "b_2"))[0] == "b_2"
    assert asked(matcher, example("cash", "?", "a_1", "b_2"))[0] == "a_1"


def test_how_sure_it_is_comes_as_log_probabilities_that_signals_are_made_of() -> None:
    matcher = fitted(TRAIN)
    _, sure = asked(matcher, example("cash", "?", "a_1", "b_2", "c_3"))
    _, unsure = asked(matcher, example("cash post", "?", "a_1", "b_2", "c_3"))
    assert set(sure) == {"product", "text", "least", "margin", "choice"}
    assert unsure["text"] < sure["text"] <= 0
    assert sure["choice"] == pytest.approx(sure["text"])
    alone = asked(matcher, example("cash", "?", "a_1"))[1]
    assert alone["text"] == pytest.approx(0.0)


def test_descriptions_stand_behind_the_names_that_have_them() -> None:
    @slot(name="matcher.described")
    async def choose(request: str, tools: dict[str, str]) -> Annotated[str | None, OneOf("tools")]:
        """Choose."""
        ...

    arguments = choose.contract.bind(("hello", {"a": "does this", "b": ""}), {})
    assert json.loads(choice_text(choose.contract, arguments) or "") == {
        "asked": "hello",
        "answers": {'"a"': "does this", '"b"': "", "null": ""},
    }


def test_a_slot_runs_on_an_untaught_matcher(app: App) -> None:
    made = asyncio.run(choose_slot().run("post it", ["cashTool", "postTool"]))
    assert (made.output, made.model) == ("postTool", "all-minilm-l6-v2")


def test_whoever_wants_a_text_of_it_is_told_so_in_a_sentence(app: App) -> None:
    endpoint = asyncio.run(app.engines.endpoint(ModelConfig(model="local:all-minilm-l6-v2"), "x"))
    with pytest.raises(EngineError, match="it chooses among the answers of a slot"):
        asyncio.run(Agent(endpoint.model).run("Hello"))


def here(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the weights of the embedder be there."""
    file = folder / "embedder.gguf"
    file.write_bytes(b"GGUF")

    def placed(weights: Weights) -> Path:
        return file

    for module in ("specialise", "select"):
        monkeypatch.setattr(f"hetero_agents.distill.{module}.fetch_served", placed)


def dataset_of(train: list[Example], held: list[Example]) -> Dataset:
    return Dataset({"train": train, "select": held, "certify": [], "test": held}, "", {})


def quiet(step: str, done: int, total: int) -> None:
    pass


def test_it_is_made_served_and_guarded_like_any_specialist(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here(monkeypatch, tmp_path)
    choose = choose_slot()
    data, base = dataset_of(TRAIN, TRAIN[:3]), base_of(app, "matcher")
    made = asyncio.run(specialise(app, choose.contract, data, base, Recipe(), quiet))
    entry = made.specialist
    assert (entry.base, entry.matcher, entry.recipe) == ("local:all-minilm-l6-v2", True, HOW)
    assert (entry.examples, entry.baked, entry.whole) == (len(TRAIN), False, False)
    app.workspace.add_specialist(SpecialistId("matcher.choose@1"), entry)
    app.workspace.activate(choose.id, SpecialistId("matcher.choose@1"))
    answered = asyncio.run(choose.run("much talk", ["a_1", "c_3"]))
    assert (answered.output, answered.model) == ("c_3", "matcher.choose@1")
    again = asyncio.run(specialise(app, choose.contract, data, base, Recipe(epochs=9.0), quiet))
    assert again.specialist.adapter_sha256 == entry.adapter_sha256, "a recipe says nothing of it"

    file = app.workspace.root / entry.served
    file.write_text(file.read_text().replace("likeness", "likenezz"))
    with pytest.raises(IntegrityError, match="is no matcher"):
        read_matcher(file)
    with pytest.raises(IntegrityError, match="its SHA-256 differs"):
        asyncio.run(app.engines.specialist(SpecialistId("matcher.choose@1"), entry, base.config))


def test_a_bake_off_asks_it_untaught_and_then_fitted(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, tmp_path)
    contract, held = choose_slot().contract, TRAIN[:15]
    compare = comparator(contract, app.workspace.slot_config(contract.slot), None, None, tmp_path)
    bases = [base_of(app, "matcher"), replace(base_of(app, "matcher"), name="another")]

    def chosen() -> BakeOff:
        return asyncio.run(bake_off(app, contract, dataset_of(TRAIN, held), bases, Recipe(), compare, quiet))

    first = chosen()
    assert [(r.name, r.round) for r in first.rounds] == [
        (name, round_) for round_ in ("five examples", "0.375 epochs") for name in ("matcher", "another")
    ]
    untaught, _, fitted, _ = first.rounds
    assert untaught.score.score < fitted.score.score == 1.0
    assert first.winner == "matcher"

    async def never(texts: Sequence[str]) -> list[list[float]]:
        raise AssertionError("asked again")

    monkeypatch.setattr(app.engines, "embed", never)
    assert chosen() == first, "answers are kept"


def test_a_limit_of_tokens_lets_it_answer(app: App) -> None:
    with Ledger(Budget(tokens=1000)):
        assert asyncio.run(choose_slot().run("post it", ["cashTool", "postTool"])).output == "postTool"


def test_answers_that_are_lists_are_offered_as_they_are_written() -> None:
    @slot(name="matcher.size")
    async def size(request: str) -> Size:
        """Choose."""
        ...

    offered = json.loads(choice_text(size.contract, {"request": "which?"}) or "")["answers"]
    assert offered == {"[1, 2]": "", "[3, 4]": ""}


def test_what_it_cannot_read_it_does_not_choose_by() -> None:
    @slot(name="matcher.history")
    async def route(request: str, history: list[ModelMessage]) -> bool:
        """Choose."""
        ...

    assert not route.contract.chooses
    assert choice_text(route.contract, {"request": "a", "history": []}) is None


def test_a_whole_answer_is_not_mistaken_for_one_that_begins_like_it() -> None:
    said = [{"token": "1", "logprob": math.log(0.5)}, {"token": "10", "logprob": math.log(0.5)}]
    response = ModelResponse(parts=[], provider_details={"logprobs": [{**said[0], "top_logprobs": said}]})
    assert (signals_of(response, ["1", "10"]) or {})["choice"] == pytest.approx(math.log(0.5))


def test_answers_that_are_pushed_out_while_it_waits_count_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hetero_agents.engines.matcher.KEPT_TEXTS", 1)
    model = MatcherModel("m", embed, Matcher())

    async def both() -> list[str]:
        def ask(*tools: str) -> Coroutine[Any, Any, ModelResponse]:
            text = json.dumps({"asked": "post", "answers": {json.dumps(tool): "" for tool in tools}})
            return model.request([ModelRequest([UserPromptPart(text)])], None, ModelRequestParameters())

        await ask("cashTool")
        done = await asyncio.gather(ask("cashTool", "postTool"), ask("talkTool", "postTool"))
        return [str(response.text) for response in done]

    assert asyncio.run(both()) == ['"postTool"', '"postTool"']


def test_a_slot_that_writes_has_no_use_for_it(app: App) -> None:
    @slot(name="matcher.write")
    async def write(request: str) -> str:
        """Write."""
        ...

    assert not write.contract.chooses
    assert allowed(app, contract=write.contract) == (
        ["small"],
        {"matcher": "it gives embeddings, and the slot does not choose among few, known answers by texts"},
    )
    with pytest.raises(ConfigError, match="take a base that writes"):
        asyncio.run(distill(app, write, base="matcher", progress=quiet))


def test_limits_of_writing_models_are_none_of_its(tmp_path: Path) -> None:
    rules = '[selection]\nlicences = ["Apache-2.0"]\nlanguages = ["en"]\nmemory_mb = 2000\ntokens_a_second = 20\n'
    made = App.of(Workspace(write_workspace(tmp_path, TOML + rules)), MemoryVault())
    assert allowed(made, ["matcher"]) == (["matcher"], {})
    made.close()


def test_planted_secrets_are_not_looked_for_in_what_writes_nothing(app: App) -> None:
    assert allowed(app, contract=choose_slot().contract, canaries=10)[0] == ["small"]
    with pytest.raises(ConfigError, match="leave --canaries out"):
        asyncio.run(distill(app, choose_slot(), base="matcher", canaries=10, progress=quiet))


def label_slot() -> Slot[[str], Literal["a_1", "b_2", "c_3"]]:
    @slot(name="matcher.label")
    async def label(request: str) -> Literal["a_1", "b_2", "c_3"]:
        """Label it."""
        ...

    return label


def contestants(app: App, folder: Path) -> dict[str, list[Any]]:
    """What everybody answers to one held-out call of a slot whose specialist writes."""
    label = label_slot()

    def plain(e: Example) -> Example:
        values = {"request": e.input["request"]}
        return Example(sha256_of(values), values, e.output, "big", False, "", "")

    dataset = dataset_of(list(map(plain, TRAIN)), [plain(example("post it", "b_2"))])
    found: dict[str, list[Any]] = {}

    async def every() -> None:
        config, entry = app.workspace.model("small"), lock_entry(label.id, label.contract.sha256)
        made = contest(app, label, dataset, config, SpecialistId("matcher.label@1"), entry, folder, quiet)
        async for prediction in made:
            found.setdefault(prediction.phase, []).append(prediction.output)

    asyncio.run(every())
    return found


def opened(open_app: OpenApp) -> FakeEngines:
    model = answers("c_3")
    app = open_app({"fake:small": model, "fake:big": model, "matcher.label@1": model})
    assert isinstance(app.engines, FakeEngines)
    app.engines.vector = vector
    return app.engines


def test_it_stands_as_a_rival_beside_a_specialist_that_writes(open_app: OpenApp, tmp_path: Path) -> None:
    engines = opened(open_app)
    first = contestants(registry.app, tmp_path)
    assert first["matcher"] == ["b_2"]
    assert "base_untaught" not in first

    def never(text: str) -> list[float]:
        raise AssertionError("asked again")

    engines.vector = never
    assert contestants(registry.app, tmp_path) == first, "what was fitted and answered is kept"


def test_a_rival_that_cannot_answer_any_more_stops_nothing(open_app: OpenApp, tmp_path: Path) -> None:
    engines = opened(open_app)
    contestants(registry.app, tmp_path)
    (tmp_path / "predictions.jsonl").unlink()

    def none(text: str) -> list[float]:
        raise EngineError("There is no embedder.")

    engines.vector = none
    assert "matcher" not in contestants(registry.app, tmp_path)


def test_without_embeddings_the_rival_is_left_out_and_one_sentence_says_so(
    open_app: OpenApp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def none(text: str) -> list[float]:
        raise EngineError("There is no embedder.")

    opened(open_app).vector = none
    assert "matcher" not in contestants(registry.app, tmp_path)
    (record,) = caplog.records
    assert record.message.startswith("No matcher is measured beside the specialist of matcher.label:")


def test_an_occupant_that_cannot_be_asked_stops_nothing(
    open_app: OpenApp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engines, label, occupant = opened(open_app), label_slot(), SpecialistId("matcher.label@2")
    first = contestants(registry.app, tmp_path)
    registry.app.workspace.add_specialist(occupant, lock_entry(label.id, label.contract.sha256))
    registry.app.workspace.activate(label.id, occupant)

    def asked(error: Exception) -> FunctionModel:
        def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            raise error

        return FunctionModel(answer)

    switched_off = EngineError("It is switched off.")
    for model in (switched_off, asked(switched_off), asked(ModelAPIError("m", "Connection refused."))):
        engines.models = {**engines.models, occupant: model}
        with caplog.at_level("WARNING"):
            assert contestants(registry.app, tmp_path) == first
        assert "The specialist that fills matcher.label now is not measured: " in caplog.records[-1].message
    engines.models = {**engines.models, occupant: answers("b_2")}
    assert contestants(registry.app, tmp_path)[occupant] == ["b_2"]
