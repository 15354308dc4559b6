"""The cache by meaning: what it answers, behind whom, by what right, and what stands on the disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from hetero_agents import (
    ConfigError,
    DistillError,
    EngineError,
    ModelRetry,
    OneOf,
    Slot,
    UnknownNameError,
    flush,
    slot,
    subject,
)
from hetero_agents.bindings import CacheLock, Calibrator, ModelConfig, SpecialistId
from hetero_agents.contract import Sha256, SlotId
from hetero_agents.distill import certify_cache
from hetero_agents.distill.certify import Tried, certify
from hetero_agents.distill.evaluate import Prediction, prediction_line
from hetero_agents.distill.forget import empty_cache
from hetero_agents.distill.loop import comparator_of, curated
from hetero_agents.distill.meaning import Standing, certify_caches, trial
from hetero_agents.engines import EMBEDDER, Engines
from hetero_agents.routing import AnswerCache, Kept, Nearest, Promise, Seen, meaning, packed, question_of
from hetero_agents.slots import App
from hetero_agents.slots.recalled import evidence_of
from hetero_agents.spans import calls_of

from .conftest import OpenApp
from .support import TOML, Answers, FakeEngines, answers, lock_entry
from .test_budget import certificate, said

ID = SlotId("meaning.name")
ONE = SpecialistId(f"{ID}@1")
CACHED = TOML + f'[slots."{ID}"]\ncache = "semantic"\nerror_budget = 0.1\naudit = 0.0\n'
SURE = Calibrator(bias=-80.0, weights={"likeness": 100.0})
"""Sure by a half at a likeness of 0.8."""

_KEPT = Kept("forty-two", "fake:big", "big", None, True, 0.5)


class Meanings(FakeEngines):
    """A text means its first word; what follows changes the meaning a little."""

    embedded = 0

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.embedded += 1
        return [vector(text) for text in texts]


def vector(text: str) -> list[float]:
    """Texts with the same first word have a cosine of 0.9 and more, others one of 0.1 at most."""
    values = [0.0] * 2048
    values[zlib.crc32(text.split()[0].encode()) % 1024] = 1.0
    values[1024 + zlib.crc32(text.encode()) % 1024] = 0.3
    length = sum(value * value for value in values) ** 0.5
    return [value / length for value in values]


def named() -> Slot[[str], str]:
    @slot(name=ID)
    async def name(text: str) -> str:
        """Name it."""
        ...

    return name


def cache_of(declared: Slot[..., Any], app: App, after: SpecialistId | None = None, **more: Any) -> CacheLock:
    """Return what says that nearest questions count from a likeness of 0.8."""
    measure = app.workspace.slot_config(ID).measure
    shown = certificate(checks_sha256=declared.checks_sha256, compare=measure, calibrator=SURE, confidence=0.975)
    values: dict[str, Any] = {
        "slot": ID,
        "after": after,
        "model": "fake:big",
        "embedder": EMBEDDER,
        "contract_sha256": declared.contract.sha256,
        "certificate": shown,
    }
    return CacheLock.model_validate({**values, **more})


def opened(open_app: OpenApp, declared: Slot[..., Any], big: Answers, toml: str = CACHED, **models: Answers) -> App:
    """Return a workspace whose slot has a certified cache by meaning, with nobody before it."""
    app = open_app({}, toml)
    app.engines = Meanings(app.workspace.root, models={"fake:big": big, **models})
    app.workspace.add_cache(cache_of(declared, app))
    return app


def behind_a_specialist(
    open_app: OpenApp,
    declared: Slot[..., Any],
    big: Answers,
    mine: Answers,
    toml: str = CACHED,
    confidence: float = 0.975,
) -> App:
    """Return the same behind an active specialist, with a cache for its calls and none for the others."""
    app = opened(open_app, declared, big, toml)
    assert isinstance(app.engines, Meanings)
    app.engines.models = {"fake:big": big, ONE: mine}
    shown = certificate(checks_sha256=declared.checks_sha256, confidence=confidence)
    entry = lock_entry(ID, declared.contract.sha256).model_copy(update={"certificate": shown})
    app.workspace.add_specialist(ONE, entry)
    app.workspace.activate(ID, ONE)
    app.workspace.add_cache(cache_of(declared, app, ONE))
    return app


# -- what a call gets --------------------------------------------------------------------------------


def test_what_means_the_same_is_answered_without_a_model_and_the_span_says_so(open_app: OpenApp) -> None:
    name, big = named(), answers("late", "lost")
    app = opened(open_app, name, big)
    results = [asyncio.run(name.run(text)) for text in ("delivery when", "delivery today", "refund please")]
    assert [r.output for r in results] == ["late", "late", "lost"]
    assert [r.route.decision for r in results] == ["kept", "cached", "kept"]
    assert results[1].route.reason == "by meaning, likeness 0.917"
    assert (results[1].route.binding, results[1].route.cache) == ("big", ID)
    assert results[1].confidence == pytest.approx(1.0, abs=1e-3)
    flush()
    second = sorted(calls_of(app.vault, ID), key=lambda call: call.start)[1]
    assert (second.cached, second.by_meaning, second.binding) == (True, True, "big")


def test_the_very_same_question_needs_no_embedding(open_app: OpenApp) -> None:
    name = named()
    app = opened(open_app, name, answers("late"))
    results = [asyncio.run(name.run("delivery when")) for _ in range(2)]
    assert (results[1].route.decision, results[1].route.cache) == ("cached", None)
    assert isinstance(app.engines, Meanings)
    assert app.engines.embedded == 1


def test_an_answer_by_meaning_is_not_handed_on_to_further_questions(open_app: OpenApp) -> None:
    """Else answers would drift from question to question."""
    name = named()
    app = opened(open_app, name, answers("late"))
    for text in ("delivery when", "delivery today", "delivery today"):
        name.sync(text)
    assert app.cache.find_near([vector("delivery today")], *scope_of(name)) == (
        pytest.approx(0.917, abs=1e-3),
        Kept("late", "fake:big", "big", None, True, None),
    )


def scope_of(declared: Slot[..., Any], exact: Any = None, person: str | None = None) -> tuple[Any, ...]:
    model = ModelConfig(model="fake:big", train_on_outputs=True).model_dump()
    contract = declared.contract.sha256
    return declared.id, contract, exact or {}, model, declared.checks_sha256, person, EMBEDDER


def test_what_is_no_free_text_must_be_equal(open_app: OpenApp) -> None:
    @slot(name=ID)
    async def choose(request: str, tools: list[str], kind: Literal["a", "b"] = "a") -> Annotated[str, OneOf("tools")]:
        """Choose."""
        ...

    assert choose.contract.free_texts == ["request"]
    big = answers("x", "y", "x")
    opened(open_app, choose, big)
    assert choose.sync("delivery when", ["x", "y"]) == "x"
    assert choose.sync("delivery today", ["y", "x"]) == "y"
    assert choose.sync("delivery today", ["x", "y"], "b") == "x"
    assert choose.sync("delivery today", ["x", "y"]) == "x"
    assert len(big.asked) == 3


def test_the_least_like_of_several_texts_counts(open_app: OpenApp) -> None:
    @slot(name=ID)
    async def paid(letter: str, question: str) -> str:
        """Answer."""
        ...

    big = answers("one", "two")
    opened(open_app, paid, big)
    assert paid.sync("delivery when", "amount due") == "one"
    assert paid.sync("delivery today", "sender of it") == "two"
    assert paid.sync("delivery today", "amount paid") == "one"


def test_a_long_text_is_not_compared_by_meaning(open_app: OpenApp) -> None:
    name, big = named(), answers("a", "b")
    opened(open_app, name, big)
    long = "delivery " + "x" * meaning.LONGEST
    assert question_of(name.contract, {"text": long[: meaning.LONGEST]}) is not None
    assert [name.sync(long), name.sync(long + "y")] == ["a", "b"]


def test_an_answer_that_a_check_refuses_for_this_call_is_asked_for(open_app: OpenApp) -> None:
    name = named()

    @name.check
    def fits(output: str, text: str) -> None:
        if output == "late" and text.endswith("today"):
            raise ModelRetry("Not today.")

    opened(open_app, name, answers("late", "lost"))
    assert [name.sync(text) for text in ("delivery when", "delivery today")] == ["late", "lost"]


def test_answers_of_a_personal_slot_are_for_their_person_alone(open_app: OpenApp) -> None:
    name = named()
    opened(open_app, name, answers("a", "b", "c", "d"), CACHED + "personal = true\n")

    def asked(person: str, text: str) -> str:
        with subject(person):
            return name.sync(text)

    assert [asked("ann", "delivery when"), asked("bob", "delivery today")] == ["a", "b"]
    assert [asked("ann", "delivery now"), asked("bob", "delivery now")] == ["a", "b"]
    assert [name.sync("delivery soon"), name.sync("delivery later")] == ["c", "d"], "whose it is is not known"


def test_what_a_fallback_answered_is_not_kept(open_app: OpenApp) -> None:
    name = named()
    toml = CACHED + 'model = "small"\nfallback = ["big"]\n'
    app = opened(open_app, name, answers("b"), toml)
    assert isinstance(app.engines, Meanings)
    app.engines.models = {"fake:big": answers("b"), "fake:small": answers(EngineError("no memory"), "s")}
    app.workspace.add_cache(cache_of(name, app, model="fake:small"))
    assert [name.sync(f"delivery {when}") for when in ("now", "today", "soon")] == ["b", "s", "s"]


def test_without_embeddings_calls_go_on_and_one_sentence_says_it(
    open_app: OpenApp, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = named()
    app = opened(open_app, name, answers("a", "b", "c"))

    async def fail(texts: Sequence[str]) -> list[list[float]]:
        raise EngineError("The wheel cannot be fetched.")

    monkeypatch.setattr(app.engines, "embed", fail)
    with caplog.at_level(logging.WARNING, "hetero_agents"):
        assert [name.sync(f"delivery {when}") for when in ("now", "today", "soon")] == ["a", "b", "c"]
    said_ = [record.getMessage() for record in caplog.records]
    assert said_ == ["Nothing is answered or routed by meaning: The wheel cannot be fetched."]


def test_a_call_does_not_wait_longer_for_an_embedding_than_for_a_model(
    open_app: OpenApp, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = named()
    app = opened(open_app, name, answers("a", "b"), CACHED + "timeout = 0.2\n")
    embed = app.engines.embed

    async def never(texts: Sequence[str]) -> list[list[float]]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(app.engines, "embed", never)
    assert name.sync("delivery now") == "a"
    monkeypatch.setattr(app.engines, "embed", embed)
    assert [name.sync(f"delivery {when}") for when in ("today", "soon")] == ["b", "b"]
    assert caplog.records == []


# -- by what right -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "toml", "reason"),
    [
        (None, CACHED, r"it was never certified; run `hetero distill meaning.name --cache-only`"),
        ({}, CACHED.replace("error_budget = 0.1\n", ""), "needs an error_budget"),
        ({}, CACHED.replace("0.1", "0.05"), "never shown to keep an error budget of 0.05"),
        ({"model": "fake:older"}, CACHED, "certified on answers of fake:older"),
        ({"embedder": "another"}, CACHED, "what compares meanings has changed"),
        ({"contract_sha256": Sha256("0" * 64)}, CACHED, "the contract or"),
        ({"certificate": certificate(None)}, CACHED, "checks or comparison have changed"),
    ],
)
def test_nothing_is_answered_by_meaning_that_was_not_shown_and_one_sentence_says_so(
    open_app: OpenApp, change: dict[str, Any] | None, toml: str, reason: str
) -> None:
    name = named()
    app = open_app({}, toml)
    app.engines = Meanings(app.workspace.root, models={"fake:big": answers("a", "b", "c")})
    if change is not None:
        app.workspace.add_cache(cache_of(name, app, **change))
    with pytest.warns(UserWarning, match=f"The cache of {ID} answers nothing by meaning: .*{reason}") as warned:
        assert [name.sync(f"delivery {when}") for when in ("now", "today", "soon")] == ["a", "b", "c"]
    assert len(warned) == 1


def test_it_stands_behind_the_specialist_and_answers_what_that_passes_on(open_app: OpenApp) -> None:
    name, big = named(), answers("late")
    behind_a_specialist(open_app, name, big, answers(said("s", -4.0), said("s", -4.0), said("sure", -0.1)))
    results = [asyncio.run(name.run(f"delivery {when}")) for when in ("now", "today", "soon")]
    assert [r.output for r in results] == ["late", "late", "sure"]
    assert [r.route.decision for r in results] == ["escalated", "cached", "kept"]
    assert results[1].route.reason is not None
    assert results[1].route.reason.startswith(f"{ONE}: sure by 0.352")
    assert results[1].route.reason.endswith("; by meaning, likeness 0.917")
    assert results[1].route.cache == ONE


def test_while_the_specialist_rests_the_cache_for_all_calls_answers(open_app: OpenApp) -> None:
    name = named()
    app = behind_a_specialist(open_app, name, answers("a", "b"), answers(said("s", -0.1)))
    app.state.stop(ONE, "it was wrong")
    results = [asyncio.run(name.run(f"delivery {when}")) for when in ("now", "today")]
    assert [(r.output, r.route.cache) for r in results] == [("a", None), ("a", ID)]


def test_while_the_specialist_rests_the_cache_behind_it_answers_nothing(open_app: OpenApp) -> None:
    name = named()
    app = behind_a_specialist(open_app, name, answers("a", "b"), answers(said("s", -0.1)))
    app.workspace.add_cache(cache_of(name, app, model="fake:older"))  # so the one for all calls does not count
    app.state.stop(ONE, "it was wrong")
    with pytest.warns(UserWarning, match="certified on answers of fake:older"):
        assert [name.sync(f"delivery {when}") for when in ("now", "today")] == ["a", "b"]


def test_specialist_and_cache_share_the_confidence(open_app: OpenApp) -> None:
    name = named()
    behind_a_specialist(open_app, name, answers("a", "b"), answers(said("s", -4.0)), confidence=0.95)
    with pytest.warns(UserWarning, match=f"{ONE} was certified with less confidence than 0.975"):
        assert [name.sync(f"delivery {when}") for when in ("now", "today")] == ["a", "b"]


def test_behind_a_canary_it_is_the_canarys(open_app: OpenApp) -> None:
    """The specialist before it is not asked: what was shown behind each alone would not hold behind both."""
    name, two = named(), SpecialistId(f"{ID}@2")
    app = behind_a_specialist(open_app, name, answers("a", "b"), answers(said("s", -4.0)))
    app.workspace.add_specialist(two, app.workspace.lock.specialists[ONE])
    app.workspace.add_cache(cache_of(name, app, two))
    app.workspace.activate(ID, two, "canary", 1.0)
    assert isinstance(app.engines, Meanings)
    app.engines.models = {**app.engines.models, two: answers(said("t", -4.0))}
    assert [name.sync(f"delivery {when}") for when in ("now", "today")] == ["a", "a"]


# -- audits ------------------------------------------------------------------------------------------


def test_answers_by_meaning_are_audited_and_what_the_model_says_then_is_an_example(open_app: OpenApp) -> None:
    name = named()
    app = opened(open_app, name, answers("late", "lost"), CACHED.replace("audit = 0.0", "audit = 1.0"))
    assert [name.sync(f"delivery {when}") for when in ("now", "today")] == ["late", "late"]
    app.aside.close(20)
    (seen,) = app.state.evidence(evidence_of(ID), "active")
    assert (seen.kept, seen.wrong) == (True, True)
    flush()
    second = sorted(calls_of(app.vault, ID), key=lambda call: call.start)[1]
    assert (second.output, second.by_meaning, second.cached) == ("lost", False, False)


def test_a_cache_that_audits_show_to_break_its_budget_answers_no_more(open_app: OpenApp) -> None:
    name = named()
    app = opened(open_app, name, answers("a", "b"))
    for _ in range(20):
        app.state.saw(evidence_of(ID), "active", Seen(True, True, 0.0), Promise(0.1))
    assert [name.sync(f"delivery {when}") for when in ("now", "today")] == ["a", "b"]


# -- what is kept ------------------------------------------------------------------------------------


def test_the_nearest_is_found_the_newest_among_equals_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meaning, "REMEMBERED", 3)
    here = Nearest(1)
    assert here.nearest([[1.0, 0.0]]) is None
    for number, at in ((1, [1.0, 0.0]), (2, [0.0, 1.0]), (3, [0.6, 0.8]), (4, [0.0, 1.0])):
        here.add(number, packed([at]))
    assert here.nearest([[0.0, 1.0]]) == (1.0, 4)
    found = here.nearest([[1.0, 0.0]])
    assert found is not None
    assert (found[0], found[1]) == (pytest.approx(0.6), 3)


def kept_cache(path: Path, key: bytes = b"a" * 32, now: Sequence[float] = (1000.0,)) -> AnswerCache:
    return AnswerCache(path, lambda: key, clock=lambda: now[0])


def test_an_answer_is_found_in_its_scope_and_for_its_time(tmp_path: Path) -> None:
    now = [1000.0]
    cache = kept_cache(tmp_path / "c.db", now=now)
    cache.keep_near(_KEPT, 10, [[1.0, 0.0]], ["a question"], "scope")
    assert cache.find_near([[0.6, 0.8]], "scope") == (pytest.approx(0.6), _KEPT)
    assert cache.find_near([[1.0, 0.0]], "another") is None
    now[0] = 1010.0
    assert cache.find_near([[1.0, 0.0]], "scope") is None
    cache.close()


def test_the_same_question_has_its_newest_answer(tmp_path: Path) -> None:
    cache = kept_cache(tmp_path / "c.db")
    newer = Kept("forty-three", "fake:big", "big", None, True, 0.5)
    cache.keep_near(_KEPT, 10, [[1.0, 0.0]], ["a question"], "scope")
    assert cache.find_near([[1.0, 0.0]], "scope") == (1.0, _KEPT)
    cache.keep_near(newer, 10, [[1.0, 0.0]], ["a question"], "scope")
    assert cache.find_near([[1.0, 0.0]], "scope") == (1.0, newer)
    cache.close()


def test_the_file_shows_nothing_and_opens_for_no_other_key(tmp_path: Path) -> None:
    mine, other = kept_cache(tmp_path / "c.db"), kept_cache(tmp_path / "c.db", b"b" * 32)
    at = [[0.123456789, 0.9]]
    mine.keep_near(_KEPT, 10, at, ["the question of Ann"], "the scope of Ann")
    assert other.find_near(at, "the scope of Ann") is None
    mine.close()
    other.close()
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert not any(plain in raw for plain in (b"Ann", b"forty-two", packed(at)))


def test_what_is_forgotten_is_forgotten_by_running_processes_too(open_app: OpenApp) -> None:
    name, big = named(), answers("a", "b")
    app = opened(open_app, name, big)
    assert [name.sync(f"delivery {when}") for when in ("now", "today")] == ["a", "a"]
    assert empty_cache(app.workspace)
    assert name.sync("delivery soon") == "b"


# -- what is certified -------------------------------------------------------------------------------


async def ask_all(declared: Slot[[str], str], topics: int, each: int) -> None:
    for topic in range(topics):
        for variation in range(each):
            await declared(f"topic{topic} {hashlib.sha256(bytes([topic, variation])).hexdigest()}")


def said_of(right: bool) -> Answers:
    """A model that says the topic of a question, or something that is new each time."""
    from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
    from pydantic_ai.models.function import AgentInfo

    class Saying(Answers):
        async def reply(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            self.asked.append(list(messages))
            topic = re.findall(r"topic\d+", self.seen()[-1])[-1]
            return ModelResponse(parts=[TextPart(json.dumps(topic if right else str(len(self.asked))))])

    return Saying([])


def filled(open_app: OpenApp, right: bool, toml: str = CACHED) -> tuple[App, Slot[[str], str]]:
    """Return a workspace with calls of a few topics, each in many words, so that they are no near-duplicates."""
    name, big = named(), said_of(right)
    app = open_app({}, toml)
    app.engines = Meanings(app.workspace.root, models={"fake:big": big})
    app.not_embedding = True
    app.workspace.add_cache(cache_of(name, app))  # so that nothing is said while the calls come
    asyncio.run(ask_all(name, 10, 60))
    app.not_embedding = False
    return app, name


def test_what_is_certified_by_a_parameter_is_given_by_it(open_app: OpenApp) -> None:
    @slot(name=ID)
    async def name(text: str, language: str) -> str:
        """Name it."""
        ...

    app = open_app({}, TOML)
    app.engines = Meanings(app.workspace.root, models={"fake:big": said_of(right=True)})

    async def ask_in_two() -> None:
        for number in range(400):
            text = f"topic{number % 10} {hashlib.sha256(bytes([number % 256, number // 256])).hexdigest()}"
            await name(text, "de" if number % 4 < 2 else "fr")

    asyncio.run(ask_in_two())
    sliced = CACHED.replace("0.1\n", "0.25\n") + 'error_budget_by = "'
    for by, error in (("text", "it has [0-9]+ of them; name a parameter with at most 12"), ("tongue", "no parameter")):
        (app.workspace.root / "hetero.toml").write_text(sliced + by + '"\n')
        with pytest.raises((DistillError, UnknownNameError), match=error):
            curated(app, name)
    (app.workspace.root / "hetero.toml").write_text(sliced + 'language"\n')
    (made,) = asyncio.run(certify_cache(app, name, progress=silent))
    shown = made.certificate
    assert (shown.by, list(shown.slices)) == ("language", ['"de"', '"fr"'])
    assert shown.threshold is not None and shown.upper_bound <= 0.25
    slices = {'"fr"': shown.slices['"fr"'].model_copy(update={"threshold": shown.threshold})}
    app.workspace.add_cache(cache_of(name, app, certificate=shown.model_copy(update={"slices": slices})))
    routes = [
        [asyncio.run(name.run(f"topic1 {when}", language)).route.decision for when in ("first", "then")]
        for language in ("de", "fr")
    ]
    assert [route[1] for route in routes] == ["kept", "cached"]


def silent(step: str, done: int, total: int) -> None:
    pass


def test_where_the_nearest_question_has_the_right_answer_that_is_certified_without_training(open_app: OpenApp) -> None:
    app, name = filled(open_app, right=True)
    (made,) = asyncio.run(certify_cache(app, name, progress=silent))
    assert made == app.workspace.lock.caches[ID]
    assert (made.slot, made.after, made.model, made.embedder) == (ID, None, "fake:big", EMBEDDER)
    shown = made.certificate
    assert shown.threshold is not None and shown.confidence == 0.95
    assert shown.wrong == 0 and shown.upper_bound <= 0.1
    assert name.sync("topic1 first") == "topic1"
    assert asyncio.run(name.run("topic1 second")).route.decision == "cached"


def test_a_cache_is_certified_at_any_degree_of_filling(open_app: OpenApp) -> None:
    """In a full cache each question has one of its topic; in a young one the nearest is of another, and no answer."""
    app, name = filled(open_app, right=True)
    compare, dataset = asyncio.run(comparator_of(app, name)), curated(app, name)
    found = asyncio.run(trial(app, name, dataset, compare, silent))
    far = [t for t in found.proving.values() if t.signals is None or t.signals["likeness"] < 0.5]
    assert 0.1 < len(far) / len(found.proving) < 0.9
    assert sum(t.wrong for t in far) > len(far) / 2


def test_where_it_has_another_answer_nothing_is_certified(open_app: OpenApp) -> None:
    app, name = filled(open_app, right=False)
    (made,) = asyncio.run(certify_cache(app, name, progress=silent))
    assert made.certificate.threshold is None
    assert made.certificate.missing is not None


def test_behind_a_specialist_only_the_calls_count_that_it_passes_on(open_app: OpenApp, tmp_path: Path) -> None:
    app, name = filled(open_app, right=True)
    compare, dataset = asyncio.run(comparator_of(app, name)), curated(app, name)
    held_out = [e for part in ("select", "certify", "test") for e in dataset.parts[part]]
    sure = {e.key for e in held_out[::2]}
    with (tmp_path / "predictions.jsonl").open("w") as file:
        for e in held_out:
            signals = {"product": 0.0 if e.key in sure else -9.0}
            given = "specialist", e.key, e.input, e.output, True, e.output, ONE, None, None, None
            file.write(prediction_line(Prediction(*given, signals=signals)))
    entry = lock_entry(ID).model_copy(update={"certificate": certificate()})
    behind = [Standing(ONE, entry, tmp_path)]
    (made,) = asyncio.run(certify_caches(app, name, dataset, compare, silent, behind))
    assert made == app.workspace.lock.caches[ONE]
    tried = asyncio.run(trial(app, name, dataset, compare, silent))
    assert made.certificate.confidence == 0.975
    assert made.certificate.share.n == len(tried.proving.keys() - sure) < len(tried.proving)


@pytest.mark.parametrize(
    ("toml", "error", "reason"),
    [
        (CACHED.replace('cache = "semantic"', 'cache = "exact"'), ConfigError, "no cache by meaning to certify"),
        (CACHED.replace("error_budget = 0.1\n", ""), ConfigError, "and an error_budget"),
        (CACHED, DistillError, "0 usable examples"),
    ],
)
def test_what_cannot_be_certified_is_one_sentence(
    open_app: OpenApp, toml: str, error: type[Exception], reason: str
) -> None:
    app = open_app({}, toml)
    with pytest.raises(error, match=reason):
        asyncio.run(certify_cache(app, named(), progress=silent))


def test_a_large_cluster_that_is_wrong_does_not_hide_behind_many_small_ones_that_are_right() -> None:
    likely = [Tried(f"c{n}", {"likeness": 0.95}, wrong=False, refused=False) for n in range(80)]
    large = [Tried("large", {"likeness": 0.95}, wrong=True, refused=False)] * 60

    def shown(each_call: bool) -> float | None:
        return certify(
            likely,
            [*likely, *large],
            [],
            error_budget=0.1,
            confidence=0.95,
            samples=1,
            against="",
            checks_sha256=Sha256("0" * 64),
            compare="",
            each_call=each_call,
        ).threshold

    assert shown(each_call=False) is not None
    assert shown(each_call=True) is None


@pytest.mark.model
def test_with_the_real_embeddings_a_paraphrase_is_answered_and_another_question_is_not(open_app: OpenApp) -> None:
    name = named()
    app = opened(open_app, name, answers("delivery", "refund"))
    real = Engines(app.workspace.root)
    app.engines.embed = real.embed  # pyright: ignore[reportAttributeAccessIssue]
    try:
        results = [
            asyncio.run(name.run(text))
            for text in (
                "When will my parcel arrive?",
                "When will my parcel be arriving?",
                "I want my money back for the lamp.",
            )
        ]
    finally:
        real.close()
    assert [r.route.decision for r in results] == ["kept", "cached", "kept"]
    assert [r.output for r in results] == ["delivery", "delivery", "refund"]
