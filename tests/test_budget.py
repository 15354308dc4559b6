"""The error budget: how sure an answer is, what may be kept, and that the guarantee is true."""

import asyncio
import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.messages import ModelResponse, TextPart

from hetero_agents import ModelRetry
from hetero_agents.bindings import Binding, Calibrator, Certificate, SlotConfig, SlotLock, SpecialistId, Workspace
from hetero_agents.bindings.lock import Lock, Shown, update_lock
from hetero_agents.contract import Contract, Sha256, SlotId
from hetero_agents.distill.certify import (
    Tried,
    calibration_error,
    certify,
    fewest,
    fit,
    hopeless,
    keeps,
    plan,
    reliability,
    sureness,
    upper_bound,
)
from hetero_agents.engines import Endpoint
from hetero_agents.errors import AnswerError
from hetero_agents.routing import Answer, Link, State, ask, calibrated, signals_of

from .conftest import OpenApp
from .support import TOML, Answers, answers, lock_entry, write_workspace

SLOT = SlotId("budget.name")
NO_CHECKS = Sha256("0" * 64)


async def name(text: str) -> str:
    """Name it."""
    ...


CONTRACT = Contract(name, SLOT)


def certificate(threshold: float | None = 0.5, samples: int = 1, **more: Any) -> Certificate:
    """Return one that is sure by one half at the product exp(1 - e)."""
    values: dict[str, Any] = {
        "error_budget": 0.1,
        "confidence": 0.95,
        "against": "answers of big; right: exact",
        "samples": samples,
        "calibrator": Calibrator(bias=1.0, weights={"product": 1.0}),
        "threshold": threshold,
        "calls": 100,
        "kept": 60,
        "wrong": 1,
        "upper_bound": 0.077,
        "missing": None if threshold is not None else "there are 20 answers",
        "checks_sha256": NO_CHECKS,
        "compare": SlotConfig().measure,
        "share": {"score": 0.6, "low": 0.5, "high": 0.7, "n": 100},
        "risk": {"score": 0.02, "low": 0.0, "high": 0.1, "n": 60},
        "calibration_error": 0.05,
        "created": "2026-03-01T12:00:00+00:00",
    }
    return Certificate.model_validate({**values, **more})


def said(value: Any, *logprobs: float) -> ModelResponse:
    """Return an answer whose tokens have these log-probabilities."""
    tokens = [{"token": "t", "logprob": logprob} for logprob in logprobs]
    return ModelResponse(parts=[TextPart(json.dumps(value))], provider_details={"logprobs": tokens} if tokens else None)


# -- signals ---------------------------------------------------------------------------------------


def test_the_product_is_the_sum_of_log_probabilities_and_the_least_is_the_least_of_them() -> None:
    assert signals_of(said("a", -1.0, -3.0, -2.0)) == {"product": -6.0, "text": -6.0, "least": -3.0}


def test_a_probability_is_at_most_one() -> None:
    assert signals_of(said("a", 1e-6, 0.0)) == {"product": 0.0, "text": 0.0, "least": 0.0}


def test_a_token_that_writes_nothing_is_of_the_product_alone() -> None:
    """Where a grammar ends answers with another token than the model does, it says nothing of the answer."""
    found = signals_of(written(('"a"', -1.0), ("", -24.0)))
    assert found == {"product": -25.0, "text": -1.0, "least": -1.0}


@pytest.mark.parametrize("details", [None, {}, {"logprobs": []}])
def test_without_probabilities_there_are_no_signals(details: dict[str, Any] | None) -> None:
    assert signals_of(ModelResponse(parts=[TextPart("a")], provider_details=details)) is None


def token(text: str, **alternatives: float) -> dict[str, Any]:
    """Return a token with the probabilities of all that the engine gave there."""
    top = [{"token": t, "logprob": math.log(p)} for t, p in alternatives.items()]
    return {"token": text, "logprob": math.log(alternatives[text]), "top_logprobs": top}


def test_a_choice_is_against_what_the_grammar_allows() -> None:
    """Most of the mass lies on what no option begins with: it does not count, nor do tokens without a choice."""
    tokens = [token('"', **{'"': 0.9}), token("re", re=0.3, de=0.1, zz=0.6), token('fund"', **{'fund"': 0.01})]
    response = ModelResponse(parts=[TextPart('"refund"')], provider_details={"logprobs": tokens})
    found = signals_of(response, ['"refund"', '"delivery"'])
    assert found == {
        "product": pytest.approx(math.log(0.9 * 0.3 * 0.01)),
        "text": pytest.approx(math.log(0.9 * 0.3 * 0.01)),
        "least": pytest.approx(math.log(0.01)),
        "choice": pytest.approx(math.log(0.75)),
    }


@pytest.mark.parametrize("rival", [0.1, 0.6], ids=["a rival", "a likelier one, which the grammar forbade"])
def test_the_margin_is_that_of_the_least_sure_token_against_its_best_rival_alone(rival: float) -> None:
    tokens = [token("a", a=0.9, b=0.09), token("b", b=0.3, c=rival, d=0.01)]
    response = ModelResponse(parts=[TextPart("ab")], provider_details={"logprobs": tokens})
    assert (signals_of(response) or {})["margin"] == pytest.approx(math.log(0.3 / (0.3 + rival)))


def written(*pieces: tuple[str | bytes, float]) -> ModelResponse:
    """Return an answer of these tokens with their log-probabilities."""
    tokens = [
        {"token": text and "?", "bytes": list(text.encode() if isinstance(text, str) else text), "logprob": logprob}
        for text, logprob in pieces
    ]
    return ModelResponse(parts=[TextPart("")], provider_details={"logprobs": tokens})


def test_the_weakest_field_is_the_top_level_one_whose_tokens_are_least_likely() -> None:
    """A token that two fields touch counts for both; what stands inside a field, or after the answer, is no field."""
    a, both, b, end = ('{"a', -1.0), ('": 1, "b', -2.0), ('": {"c": [1, "}", 2]', -4.0), ("}}", -8.0)
    found = signals_of(written(a, both, b, end, ("<end>", -16.0)))
    assert found == {"product": -31.0, "text": -31.0, "least": -16.0, "weakest_field": -14.0}


def test_fields_are_found_though_tokens_divide_letters() -> None:
    first, last = "é".encode()[:1], "é".encode()[1:]
    found = signals_of(written(('{"a": "', -1.0), (first, -2.0), (last, -4.0), ('", ', -8.0), ('"b": 1}', -9.0)))
    assert (found or {})["weakest_field"] == -15.0


def test_an_empty_object_is_its_own_weakest_field() -> None:
    assert (signals_of(written(("{", -1.0), ("}", -2.0))) or {})["weakest_field"] == -3.0


@pytest.mark.parametrize("answer", ['"a"', "[1, 2]", '{"a": ', "\xff"])
def test_what_is_no_object_has_no_weakest_field(answer: str) -> None:
    assert signals_of(written((answer.encode("latin-1"), -1.0))) == {"product": -1.0, "text": -1.0, "least": -1.0}


def test_tokens_that_lead_to_the_same_answer_are_one_choice() -> None:
    tokens = [token("re", re=0.3, refund=0.3, de=0.2), token("fund", fund=1.0)]
    response = ModelResponse(parts=[TextPart("refund")], provider_details={"logprobs": tokens})
    found = signals_of(response, ["refund", "delivery"])
    assert found is not None
    assert found["choice"] == pytest.approx(math.log(0.75))


def test_options_of_enums_and_bools_are_known_too() -> None:
    async def paid(text: str) -> bool:
        """Say."""
        ...

    assert Contract(paid, SlotId("budget.paid")).option_texts({"text": "x"}) == ["true", "false"]
    assert CONTRACT.option_texts({"text": "x"}) is None


def test_what_a_calibrator_needs_must_be_there() -> None:
    assert calibrated(Calibrator(bias=0.0, weights={"agreement": 1.0}), {"product": -1.0}) is None
    assert calibrated(Calibrator(bias=0.0, weights={"product": 1.0}), None) is None
    assert calibrated(Calibrator(bias=1.0, weights={"agreement": -2.0}), {"agreement": 0.5}) == 0.5


# -- the gate --------------------------------------------------------------------------------------


def asked(
    tmp_path: Path, given: Answers, shown: Certificate | None = None, checks: Sequence[Any] = (), *others: Link
) -> Answer:
    async def open_() -> Endpoint:
        return Endpoint(given.model("fake"), bare_json=True)

    mine = Link("a@1", open_, specialist="a@1", certificate=shown or certificate())
    state = State(tmp_path / "state.db")
    return asyncio.run(ask([mine, *others], CONTRACT, {"text": "x"}, checks=checks, state=state, instrument=None))


def llm(given: Answers) -> Link:
    async def open_() -> Endpoint:
        return Endpoint(given.model("big"), bare_json=True)

    return Link("big", open_)


def test_a_sure_answer_is_kept_with_its_calibrated_confidence(tmp_path: Path) -> None:
    answer = asked(tmp_path, answers(said("a", -1.0)))
    assert (answer.route.decision, answer.route.binding) == ("kept", "a@1")
    assert answer.attempt.confidence == pytest.approx(1 / (1 + math.exp(math.log(2.0) - 1.0)))


def test_an_unsure_answer_escalates_and_says_why(tmp_path: Path) -> None:
    answer = asked(tmp_path, answers(said("a", -3.0)), None, (), llm(answers("b")))
    assert (answer.attempt.output, answer.route.decision) == ("b", "escalated")
    assert answer.route.reason == "a@1: sure by 0.405, which is not the 0.500 that its error budget asks"


def test_the_better_model_sees_nothing_of_the_unsure_answer(tmp_path: Path) -> None:
    better = answers("b")
    asked(tmp_path, answers(said("unsure", -3.0)), None, (), llm(better))
    assert "unsure" not in "".join(better.seen())


def test_an_engine_that_does_not_say_how_sure_it_is_escalates(tmp_path: Path) -> None:
    answer = asked(tmp_path, answers("a"), None, (), llm(answers("b")))
    assert answer.route.reason == "a@1: its engine does not say how sure it is"


def test_an_answer_that_a_check_refuses_is_not_mended_but_escalates(tmp_path: Path) -> None:
    """What was certified is the first answer, not a mended one."""
    mine = answers(said("a", -0.1), said("b", -0.1))

    async def refuse(output: Any, arguments: Any) -> None:
        if output == "a":
            raise ModelRetry("not a")

    answer = asked(tmp_path, mine, None, [refuse], llm(answers("c")))
    assert (answer.attempt.output, answer.route.reason) == ("c", "a@1: not a")
    assert len(mine.asked) == 1


def test_without_a_next_model_an_unsure_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnswerError, match=r"sure by 0\.405"):
        asked(tmp_path, answers(said("a", -3.0)))


def test_a_voted_answer_is_gated_by_its_agreement(tmp_path: Path) -> None:
    shown = certificate(0.9, 3, calibrator=Calibrator(bias=-2.0, weights={"agreement": 5.0}))
    assert asked(tmp_path, answers("a"), shown).route.decision == "kept"
    assert asked(tmp_path, answers("a", "b", "c"), shown, (), llm(answers("d"))).route.decision == "escalated"


async def spoken(text: str, language: str) -> str:
    """Name it."""
    ...


def sliced(**thresholds: float | None) -> Certificate:
    """Return a certificate for each language on its own."""
    shown = {
        f'"{name}"': Shown(threshold=threshold, calls=50, kept=30, wrong=0, upper_bound=0.1)
        for name, threshold in thresholds.items()
    }
    return certificate(by="language", slices=shown)


@pytest.mark.parametrize(("language", "kept"), [("de", True), ("fr", False), ("it", False), ("xx", False)])
def test_each_slice_has_its_own_threshold_and_one_that_was_never_seen_has_none(
    tmp_path: Path, language: str, kept: bool
) -> None:
    contract = Contract(spoken, SLOT)

    async def open_() -> Endpoint:
        return Endpoint(answers(said("a", -1.0)).model("fake"), bare_json=True)

    mine = Link("a@1", open_, specialist="a@1", certificate=sliced(de=0.5, fr=0.9, it=None))
    state, arguments = State(tmp_path / "state.db"), {"text": "x", "language": language}
    chain = [mine, llm(answers("b"))]
    answer = asyncio.run(ask(chain, contract, arguments, checks=(), state=state, instrument=None))
    assert (answer.attempt.output == "a") == kept


# -- the binding -----------------------------------------------------------------------------------


def bound(folder: Path, shown: Certificate | None, toml: str) -> Binding:
    workspace = Workspace(write_workspace(folder, TOML + toml))
    entry = lock_entry(SLOT).model_copy(update={"certificate": shown})
    one = SpecialistId(f"{SLOT}@1")
    update_lock(workspace.lock_path, lambda lock: Lock(specialists={one: entry}, slots={SLOT: SlotLock(active=one)}))
    return workspace.binding(SLOT, "slm", Sha256("0" * 64), NO_CHECKS)


BUDGET = f'[slots."{SLOT}"]\nerror_budget = 0.1\n'


def test_without_an_error_budget_everything_is_kept(tmp_path: Path) -> None:
    assert bound(tmp_path, None, "").specialist_id == f"{SLOT}@1"


@pytest.mark.filterwarnings("ignore:.* is not used")
@pytest.mark.parametrize(
    ("shown", "toml", "reason"),
    [
        (certificate(), BUDGET, None),
        (certificate(), BUDGET.replace("0.1", "0.2"), None),
        (certificate(), BUDGET.replace("0.1", "0.05"), "error budget of 0.05 with confidence 0.95"),
        (certificate(), BUDGET + "confidence = 0.99\n", "error budget of 0.1 with confidence 0.99"),
        (certificate(confidence=0.99), BUDGET, None),
        (None, BUDGET, "never shown to keep"),
        (certificate(None), BUDGET, "nothing that it answers is certified for an error budget of 0.1: there are 20"),
        (certificate(checks_sha256="1" * 64), BUDGET, "checks or comparison have changed"),
        (certificate(), BUDGET + "tolerance = 0.1\n", "checks or comparison have changed"),
        (certificate(), BUDGET + 'error_budget_by = "text"\n', "was not shown for each value of 'text' on its own"),
        (sliced(de=0.5), BUDGET + 'error_budget_by = "language"\n', None),
        (sliced(de=0.5), BUDGET, None),
    ],
)
def test_a_specialist_answers_alone_only_what_was_shown(
    tmp_path: Path, shown: Certificate | None, toml: str, reason: str | None
) -> None:
    binding = bound(tmp_path, shown, toml)
    assert (binding.specialist_id is None) == (reason is not None)
    assert (reason or "") in (binding.refused or "")


def test_a_slot_is_gated_from_its_next_call(open_app: OpenApp) -> None:
    """Through `@slot`: the check of the code is part of what was certified."""
    from hetero_agents import slot

    @slot(name=SLOT)
    async def named(text: str) -> str:
        """Name it."""
        ...

    sure, unsure = said("sure", -0.5), said("unsure", -4.0)
    app = open_app({"fake:big": answers("big's"), f"{SLOT}@1": answers(sure, unsure)}, TOML + BUDGET)
    shown = certificate(checks_sha256=named.checks_sha256)
    entry = lock_entry(SLOT, named.contract.sha256).model_copy(update={"certificate": shown})
    app.workspace.add_specialist(SpecialistId(f"{SLOT}@1"), entry)
    app.workspace.activate(SLOT, SpecialistId(f"{SLOT}@1"))
    assert [named.sync("x") for _ in range(2)] == ["sure", "big's"]

    @named.check
    def never(answer: str) -> None:
        pass

    with pytest.warns(UserWarning, match="checks or comparison have changed"):
        assert named.sync("x") == "big's"


# -- the certificate -------------------------------------------------------------------------------


def world(n: int, rng: random.Random) -> list[Tried]:
    """Return answers whose odds to be right are a power of one less their sum of log-probabilities."""
    made: list[Tried] = []
    for number in range(n):
        product = -rng.expovariate(0.5)
        right = rng.random() < 1 / (1 + math.exp(-(6.5 - 3.0 * math.log1p(-product))))
        made.append(Tried(f"{number}", {"product": product}, not right, refused=False))
    return made


def shown_of(
    select: Sequence[Tried],
    kept_apart: Sequence[Tried] | int,
    test: Sequence[Tried],
    budget: float,
    by: str | None = None,
) -> Certificate:
    return certify(
        select,
        kept_apart,
        test,
        error_budget=budget,
        confidence=0.95,
        samples=1,
        against="the truth",
        checks_sha256=NO_CHECKS,
        compare="",
        by=by,
    )


@pytest.mark.parametrize(("budget", "least"), [(0.01, 299), (0.02, 149), (0.05, 59), (0.10, 29)])
def test_fewest_kept_answers_that_can_show_a_budget(budget: float, least: int) -> None:
    assert fewest(budget, 0.95) == least
    assert upper_bound(0, least, 0.95) <= budget < upper_bound(0, least - 1, 0.95)


def test_the_bound_is_clopper_and_pearsons() -> None:
    """At the bound, so few errors have a chance of just 0.05."""
    bound_of = upper_bound(3, 80, 0.95)
    tail = sum(math.comb(80, k) * bound_of**k * (1 - bound_of) ** (80 - k) for k in range(4))
    assert tail == pytest.approx(0.05)
    assert upper_bound(0, 0, 0.95) == upper_bound(5, 5, 0.95) == 1.0


def test_the_calibrator_finds_the_probability() -> None:
    calibrator = fit(world(4000, random.Random(0)))
    assert calibrator is not None
    assert calibrator.bias == pytest.approx(6.5, abs=0.5)
    assert calibrator.weights["product"] == pytest.approx(3.0, abs=0.3)
    fresh = world(4000, random.Random(1))
    assert calibration_error(reliability(calibrator, fresh)) < 0.03


def test_the_probability_of_the_text_is_weighed_in_place_of_that_of_all_tokens() -> None:
    """A certificate that weighs the product stays what it was."""
    calibrator = fit([replace(t, signals={**(t.signals or {}), "text": -1.0}) for t in world(100, random.Random(0))])
    assert calibrator is not None
    assert calibrator.weights.keys() == {"text"}
    assert calibrated(certificate().calibrator, {"product": 1 - math.e, "text": 0.0}) == 0.5


def contrary(n: int, rng: random.Random) -> list[Tried]:
    """Return answers with a signal besides that is surer where they are wrong."""
    return [
        replace(t, signals={**(t.signals or {}), "choice": -rng.expovariate(1.0) - (not t.wrong)})
        for t in world(n, rng)
    ]


def test_a_signal_that_counts_against_answers_is_left_out_and_the_others_are_fitted_without_it() -> None:
    calibrator = fit(contrary(2000, random.Random(0)))
    assert calibrator is not None
    assert calibrator.weights.keys() == {"product"}
    assert calibration_error(reliability(calibrator, contrary(4000, random.Random(1)))) < 0.03


def test_where_no_signal_tells_the_confidence_is_the_share_of_right_answers() -> None:
    told = [replace(t, signals={"choice": (t.signals or {})["choice"]}) for t in contrary(2000, random.Random(0))]
    calibrator = fit(told)
    assert calibrator is not None
    assert calibrator.weights == {"choice": 0.0}
    assert sureness(calibrator, told[0]) == pytest.approx(sum(not t.wrong for t in told) / len(told))


def doubted(n: int, rng: random.Random, tells: float) -> list[Tried]:
    """Return answers with the least token's log-probability besides, which tells so much of which are wrong."""
    return [
        replace(t, signals={**(t.signals or {}), "least": -rng.expovariate(1.0) - tells * t.wrong})
        for t in world(n, rng)
    ]


@pytest.mark.parametrize(("tells", "weighed"), [(3.0, {"product", "least"}), (0.0, {"product"})])
def test_a_further_signal_is_weighed_where_the_data_say_that_it_helps(tells: float, weighed: set[str]) -> None:
    calibrator = fit(doubted(300, random.Random(0), tells))
    assert calibrator is not None
    assert calibrator.weights.keys() == weighed


def test_few_answers_do_not_tell_whether_a_further_signal_helps() -> None:
    few = [t for t in doubted(300, random.Random(0), 3.0) if not t.wrong][:40]
    few += [t for t in doubted(300, random.Random(1), 3.0) if t.wrong][:9]
    calibrator = fit(few)
    assert calibrator is not None
    assert calibrator.weights.keys() == {"product"}


def test_a_refused_answer_is_never_kept() -> None:
    shown = certificate(0.5)
    assert keeps(shown, Tried("a", {"product": 0.0}, wrong=False, refused=False))
    assert not keeps(shown, Tried("a", {"product": 0.0}, wrong=False, refused=True))
    assert sureness(shown.calibrator, Tried("a", None, wrong=False, refused=False)) == -1


def in_slices(tried: Sequence[Tried], name: str) -> list[Tried]:
    return [replace(t, cluster=f"{name} {t.cluster}", slice=name) for t in tried]


def test_an_error_budget_by_a_parameter_is_shown_for_each_of_its_values() -> None:
    """Of one language half of the surest answers are wrong: together with the other nothing would be seen of it."""
    rng = random.Random(0)

    def calls(easy: int, hard: int) -> list[Tried]:
        sure = [Tried(f"{n}", {"product": -rng.random()}, rng.random() < 0.5, refused=False) for n in range(hard)]
        return in_slices(world(easy, rng), "de") + in_slices(sure, "fr")

    parts = calls(300, 12), calls(800, 32), calls(1000, 40)
    shown = shown_of(*parts, 0.10, "language")
    assert list(shown.slices) == ["de", "fr"]
    good, bad = shown.slices["de"], shown.slices["fr"]
    assert (bad.threshold, bad.missing is None) == (None, False)
    assert shown.threshold == good.threshold
    assert good.upper_bound == shown.upper_bound == upper_bound(good.wrong, good.kept, 0.975)
    assert upper_bound(good.wrong, good.kept, 0.95) < good.upper_bound <= 0.10
    assert not any(keeps(shown, t) for t in parts[2] if t.slice == "fr")
    assert any(keeps(shown, t) for t in parts[2] if t.slice == "de")
    assert shown.share.score == sum(keeps(shown, t) for t in parts[2]) / 1040
    never = replace(parts[2][0], signals={"product": 0.0}, slice="it")
    assert not keeps(shown, never)


def test_slices_that_have_too_few_calls_keep_nothing_and_say_how_many_are_missing() -> None:
    """Fifty-nine right answers show 0.05 with confidence 0.95, but not with that of one of two slices."""
    sure = [Tried(f"{n}", {"product": -0.1}, wrong=False, refused=False) for n in range(59)]
    assert shown_of(sure, sure, sure, 0.05).threshold is not None
    both = in_slices(sure, "de") + in_slices(sure, "fr")
    shown = shown_of(both, both, both, 0.05, "language")
    assert shown.threshold is None
    assert "de: 59 calls in the certify part could show nothing" in (shown.missing or "")
    assert "it takes 72 without an error" in (shown.missing or "")


def test_what_is_certified_keeps_most_of_what_is_safe() -> None:
    rng = random.Random(0)
    shown = shown_of(world(300, rng), world(800, rng), world(2000, rng), 0.10)
    assert shown.threshold is not None
    assert shown.missing is None
    assert shown.upper_bound <= 0.10
    assert shown.share.score > 0.5
    assert shown.risk is not None
    assert shown.risk.score <= 0.10


@pytest.mark.parametrize("budget", [0.05, 0.10])
def test_the_guarantee_is_true(budget: float) -> None:
    """Of many draws at most one in twenty certifies a threshold above which the population is wrong more often.

    The random numbers are fixed: 100 draws of a true 5 % give 11 violations or more once in a hundred.
    """
    rng = random.Random(budget)
    population = world(3000, rng)
    violations = certified = 0
    for _ in range(100):
        drawn = rng.choices(population, k=260)
        apart = [Tried(f"{i}", t.signals, t.wrong, t.refused) for i, t in enumerate(drawn[60:])]
        shown = shown_of(drawn[:60], apart, [], budget)
        if shown.threshold is None:
            continue
        certified += 1
        kept = [t.wrong for t in population if keeps(shown, t)]
        violations += sum(kept) / len(kept) > budget
    assert certified >= 40
    assert violations <= 10


def test_a_model_that_is_no_surer_where_it_is_right_is_not_certified() -> None:
    rng = random.Random(0)
    noise = [Tried(f"{i}", {"product": -rng.random()}, rng.random() < 0.3, refused=False) for i in range(600)]
    shown = shown_of(noise[:200], noise[200:], noise, 0.05)
    assert shown.threshold is None
    assert shown.missing is not None
    assert "too often wrong where it is surest" in shown.missing
    assert shown.share.score == 0.0


def test_too_few_calls_say_how_many_are_missing() -> None:
    rng = random.Random(0)
    sure = [Tried(f"{i}", {"product": -rng.random()}, wrong=False, refused=False) for i in range(80)]
    shown = shown_of(sure[:40], sure[40:], sure, 0.05)
    assert shown.threshold is None
    assert shown.missing is not None
    assert re.search(
        r"with about \d+ in the certify part it might be shown \(it takes 59 without an error\)", shown.missing
    )


def test_a_cluster_counts_once() -> None:
    """A hundred copies of one call are one call."""
    copies = [Tried("one", {"product": -0.1}, wrong=False, refused=False)] * 100
    assert shown_of(world(60, random.Random(0)), copies, [], 0.05).calls == 1


def test_thresholds_go_down_from_the_one_that_is_likeliest_to_pass() -> None:
    planned = plan([(1 - i / 20_000, False) for i in range(400)], 400, 0.05, 0.95)
    assert planned.thresholds == sorted(planned.thresholds, reverse=True)
    assert planned.chance > 0.8
    assert plan([], 400, 0.05, 0.95).thresholds == []


def test_without_any_signal_nothing_is_kept() -> None:
    mute = [Tried(f"{i}", None, wrong=False, refused=False) for i in range(100)]
    shown = shown_of(mute, mute, mute, 0.1)
    assert (shown.threshold, shown.kept) == (None, 0)
    assert shown.missing == "the engine does not say how sure it is"


def test_what_is_hopeless_by_the_select_part_need_not_be_asked() -> None:
    rng = random.Random(0)
    noise = [Tried(f"{i}", {"product": -rng.random()}, rng.random() < 0.5, refused=False) for i in range(100)]
    assert hopeless(noise, 300, 0.05, 0.95)
    assert not hopeless(world(100, rng), 300, 0.10, 0.95)
    shown = shown_of(noise, 300, noise, 0.05)
    assert (shown.threshold, shown.calls) == (None, 0)
    assert (shown.missing or "").startswith(
        "300 calls in the certify part could show nothing, so they were not asked; "
    )


def test_a_failed_test_ends_the_sequence() -> None:
    """Looser thresholds that would pass again are not looked at: only so is each tested at the whole level."""
    select = [Tried(f"{i}", {"product": -i / 100}, wrong=False, refused=False) for i in range(200)]
    sure = [Tried(f"s{i}", {"product": -0.01 - i / 1e4}, wrong=i < 8, refused=False) for i in range(60)]
    good = [Tried(f"g{i}", {"product": -1.5 - i / 1e4}, wrong=False, refused=False) for i in range(600)]
    shown = shown_of(select, sure + good, [], 0.10)
    first = shown_of(select, sure, [], 0.10)
    assert first.threshold is None
    assert shown.threshold is None or shown.kept > 600  # never one that keeps the bad ones alone
    assert shown.wrong == 8


def test_gate_and_certificate_decide_alike() -> None:
    """Also at the threshold itself, and for what is not a number."""
    shown = certificate(0.5)
    exact = {"product": 1 - math.e}
    assert calibrated(shown.calibrator, exact) == 0.5
    assert keeps(shown, Tried("a", exact, wrong=False, refused=False))
    assert not keeps(shown, Tried("a", {"product": math.nan}, wrong=False, refused=False))


def test_a_token_that_a_float_cannot_say_is_the_least_sure() -> None:
    tokens = [{"token": "a", "logprob": -9999.0, "top_logprobs": [{"token": "b", "logprob": 0.0}]}]
    response = ModelResponse(parts=[TextPart("a")], provider_details={"logprobs": tokens})
    assert (signals_of(response, ["a", "b"]) or {})["choice"] == -700.0
    mute = ModelResponse(parts=[TextPart("a")], provider_details={"logprobs": [{"token": "a", "logprob": None}]})
    assert signals_of(mute) is None
