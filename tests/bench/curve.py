# ruff: noqa: TID253
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Cost against quality with two models and more: our routing beside the two known kinds, on recorded answers.

A query's models stand in a chain, cheapest first; the last is the LLM, which an answer key plays: it is right and costs 1. Ours is a router for each small model (its
chance to be right, by the query's embedding: below a level it is not asked) and its calibrated confidence (an answer that is not sure enough goes on). Beside it:

- RouteLLM's kind (Ong et al. 2024): what each model's chance to win is, by the query's embedding alone, logistic or factorised (a vector for each model, a
  projection of the query); one model is asked, the one with the best chance less its price.
- FrugalGPT's kind (Chen et al. 2023): a learned score of (query, answer), here logistic on both embeddings and their product, and a threshold for each model; a
  cascade, which sees no token probabilities. With them: the same score with our signals beside the embeddings.
- Our confidence without the router.

Two halves that share no near-duplicates: each fits what the other is measured with. Scores for choosing thresholds are cross-fitted inside of a half; of the many
settings, those on the upper hull of cost and quality of the fitting half are the policy, and the curve is what they give on the other half, joined by straight
lines from always the cheapest to always the LLM. The area under it is the mean quality over all costs between. Intervals: paired bootstrap over near-duplicate
groups (2,000 draws), of fitted policies.

Populations: the demo's specialists and the LLM, where `make demo` was run; the base that nobody trained, without and with five examples (more tokens, so
dearer), on the demo's `choose` queries, which `--record` asks (half an hour of two free cores; what is there is used); and stand-ins for specialists on the same
queries: linear classifiers of the request's embedding among the tools on offer, taught on 100 requests and, at twice the price, on four fifths of all, each asked
for requests of other groups.

    python -m tests.bench.curve [--record] [--price 0.05]
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from examples.tool_desk import desk
from examples.tool_desk.work import load_items
from hetero_agents.bindings import ModelConfig
from hetero_agents.contract import Contract, compact_json, sha256_of
from hetero_agents.distill.certify import Tried, fit, sureness
from hetero_agents.distill.cluster import near_duplicates
from hetero_agents.distill.curate import Example
from hetero_agents.distill.evaluate import Prediction, read_predictions, same
from hetero_agents.distill.measure import Contestant, answers_of, shots_of
from hetero_agents.distill.router import cross_fitted, logistic_model
from hetero_agents.engines import Endpoint, Engines
from hetero_agents.routing import look, scaled
from tests.bench.guarantee import DEMO

OUT = Path(".bench") / "curve"
BASE = ModelConfig(model="local:smollm2-135m-instruct")
LOOK = 0.05
"""Price of an embedding in calls of the cheapest model."""

STEPS = 9
"""Settings of each threshold: quantiles of its score."""

DRAWS = 2000
RANK = 16

FEW = 100
"""Requests that the smaller stand-in is taught on."""

UNKNOWN = -12.0
"""Log-probability of a tool that a stand-in has never seen."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Population:
    """Queries and what each small model of the chain answers; the LLM behind them is right."""

    name: str
    clusters: Array
    queries: Array
    """n embeddings."""
    answers: list[Array]
    """For each small model, n embeddings of its answers."""
    tried: list[list[Tried]]
    """For each small model, what became of its answers."""
    prices: list[float]
    """Of a call of each small model; the LLM's is 1."""

    @property
    def right(self) -> Array:
        """n x models: whether each model's answer is right, the LLM last."""
        small = [[not t.wrong and not t.refused for t in tried] for tried in self.tried]
        return np.array([*small, [True] * len(self.queries)], dtype=float).T

    def part(self, rows: Array) -> Population:
        """Return some of the queries."""
        tried = [[each[i] for i in rows] for each in self.tried]
        answers = [each[rows] for each in self.answers]
        return Population(self.name, self.clusters[rows], self.queries[rows], answers, tried, self.prices)


Outcome = tuple[Array, Array]
"""Cost and quality: n queries x settings."""

Method = Callable[[Population, Population], tuple[Outcome, Outcome]]
"""Fits on one half; returns what its settings give there, by cross-fitted scores, and on the other half."""


# -- ours, and the cascades beside it -------------------------------------------------------------


def chances(features: Array, right: Array, clusters: Array, fresh: Array) -> tuple[Array, Array]:
    """Return the chance to be right of known queries, from other clusters, and of fresh ones; the base rate where nothing better is found."""
    found = cross_fitted(list(features), list(map(bool, right)), list(map(str, clusters)))
    if found is None:
        return np.full(len(right), right.mean()), np.full(len(fresh), right.mean())
    strength, apart = found
    return np.array(apart), logistic_model(features, right, strength).predict_proba(fresh)[:, 1]


def cascade(
    population: Population, scores: Sequence[Array], before: Sequence[Array], settings: Sequence[Any]
) -> Outcome:
    """Return what a chain costs and gives: each small model is asked where the chance before is not below its level, and kept from its threshold.

    Args:
        population: queries.
        scores: of each small model's answers.
        before: of each small model before it is asked.
        settings: for each small model (level, threshold).
    """
    right, n = population.right, len(population.queries)
    costs, quality = np.zeros((n, len(settings))), np.zeros((n, len(settings)))
    for column, setting in enumerate(settings):
        open_, looked = np.ones(n, bool), any(level > -1 for level, _ in setting)
        costs[:, column] = LOOK * population.prices[0] if looked else 0.0
        for m, (level, threshold) in enumerate(setting):
            asked = open_ & (before[m] >= level)
            kept = asked & (scores[m] >= threshold)
            costs[:, column] += asked * population.prices[m]
            quality[:, column] += kept * right[:, m]
            open_ &= ~kept
        costs[:, column] += open_
        quality[:, column] += open_
    return costs, quality


def quantiles(scores: Array) -> list[float]:
    """Return thresholds: from all down to none."""
    return [*sorted(set(np.quantile(scores, np.linspace(0, 1, STEPS)))), 2.0]


def thresholds(scores: Sequence[Array], before: Sequence[Array] | None) -> list[Any]:
    """Return all settings of a chain; a level of -2 asks without a look."""
    each: list[Any] = []
    for m, score in enumerate(scores):
        levels = [-2.0, *quantiles(before[m])[1:-1:2]] if before is not None else [-2.0]
        each.append(list(product(levels, quantiles(score)[:: 1 if len(scores) == 1 or before is None else 2])))
    return list(product(*each))


def confidence(known: Population, fresh: Population) -> tuple[list[Array], list[Array]]:
    """Return the calibrated confidence of each small model's answers, as certificates have it."""
    found: tuple[list[Array], list[Array]] = [], []
    for mine, theirs in zip(known.tried, fresh.tried, strict=True):
        calibrator = fit(mine)
        assert calibrator is not None
        for tried, scores in ((mine, found[0]), (theirs, found[1])):
            scores.append(np.array([sureness(calibrator, t) for t in tried]))
    return found


def before_asking(known: Population, fresh: Population) -> tuple[list[Array], list[Array]]:
    """Return each small model's chance to be right by the query alone."""
    pairs = [chances(known.queries, known.right[:, m], known.clusters, fresh.queries) for m in range(len(known.tried))]
    return [apart for apart, _ in pairs], [new for _, new in pairs]


def ours(known: Population, fresh: Population) -> tuple[Outcome, Outcome]:
    """Router and confidence."""
    (mine, theirs), (looks, new_looks) = confidence(known, fresh), before_asking(known, fresh)
    settings = thresholds(mine, looks)
    return cascade(known, mine, looks, settings), cascade(fresh, theirs, new_looks, settings)


def confidence_alone(known: Population, fresh: Population) -> tuple[Outcome, Outcome]:
    """Our confidence without the router."""
    mine, theirs = confidence(known, fresh)
    settings = thresholds(mine, None)
    return cascade(known, mine, mine, settings), cascade(fresh, theirs, theirs, settings)


def frugal(*, signals: bool) -> Method:
    """FrugalGPT's kind: a learned score of (query, answer)."""

    def features(population: Population, m: int) -> Array:
        given = [population.queries, population.answers[m], population.queries * population.answers[m]]
        if signals:
            names = sorted(set.intersection(*(set(t.signals or {}) for t in population.tried[m] if t.signals)))
            said = [[scaled(n, (t.signals or {}).get(n, -50.0)) for n in names] for t in population.tried[m]]
            given.append(np.array(said) / 3)
        return np.hstack(given)

    def method(known: Population, fresh: Population) -> tuple[Outcome, Outcome]:
        pairs = [
            chances(features(known, m), known.right[:, m], known.clusters, features(fresh, m))
            for m in range(len(known.tried))
        ]
        mine, theirs = [apart for apart, _ in pairs], [new for _, new in pairs]
        settings = thresholds(mine, None)
        return cascade(known, mine, mine, settings), cascade(fresh, theirs, theirs, settings)

    return method


# -- RouteLLM's kind ------------------------------------------------------------------------------


def routed(population: Population, wins: Array) -> Outcome:
    """Return what it costs and gives to ask the one model with the best chance less its price, for many prices."""
    prices = np.array([*population.prices, 1.0])
    worth = np.concatenate([[0.0], np.geomspace(0.003, 30, 120)])
    picks = np.array([(wins - price * prices).argmax(axis=1) for price in worth]).T
    rows = np.arange(len(wins))[:, None]
    return prices[picks] + LOOK * population.prices[0], population.right[rows, picks]


def win_rate(known: Population, fresh: Population) -> tuple[Outcome, Outcome]:
    """A logistic chance to be right for each model."""
    mine, theirs = before_asking(known, fresh)
    return routed(known, np.array([*mine, np.ones(len(known.queries))]).T), routed(
        fresh, np.array([*theirs, np.ones(len(fresh.queries))]).T
    )


def factorised(known: Population, fresh: Population) -> tuple[Outcome, Outcome]:
    """Matrix factorisation: models and queries in one space of `RANK` numbers, all models' chances learnt together."""
    small = known.right[:, :-1]
    halves = np.array([hash_of(cluster) % 2 for cluster in known.clusters])
    apart = np.zeros_like(small)
    for half in (0, 1):
        apart[halves == half] = factors(
            known.queries[halves != half], small[halves != half], known.queries[halves == half]
        )
    new = factors(known.queries, small, fresh.queries)
    one, other = (np.hstack([wins, np.ones((len(wins), 1))]) for wins in (apart, new))
    return routed(known, one), routed(fresh, other)


def factors(queries: Array, right: Array, fresh: Array) -> Array:
    """Return fresh queries' chances of each model, by gradient descent on the log loss with weight decay (Adam)."""
    rng = np.random.default_rng(0)
    rate = right.mean(axis=0).clip(0.01, 0.99)
    values = [
        rng.normal(0, 0.05, (queries.shape[1], RANK)),
        rng.normal(0, 0.3, (RANK, right.shape[1])),
        np.log(rate / (1 - rate)),
    ]
    first, second = [np.zeros_like(v) for v in values], [np.zeros_like(v) for v in values]
    for step in range(1, 301):
        project, models, bias = values
        inside = queries @ project
        wrong = (1 / (1 + np.exp(-(inside @ models + bias))) - right) / len(queries)
        slopes = [
            queries.T @ (wrong @ models.T) + 0.002 * project,
            inside.T @ wrong + 0.002 * models,
            wrong.sum(axis=0),
        ]
        for k, slope in enumerate(slopes):
            first[k] = 0.9 * first[k] + 0.1 * slope
            second[k] = 0.999 * second[k] + 0.001 * slope**2
            values[k] = values[k] - 0.02 * (first[k] / (1 - 0.9**step)) / (
                np.sqrt(second[k] / (1 - 0.999**step)) + 1e-8
            )
    project, models, bias = values
    return 1 / (1 + np.exp(-(fresh @ project @ models + bias)))


METHODS: dict[str, Method] = {
    "ours: router and confidence": ours,
    "our confidence alone": confidence_alone,
    "win rate, logistic (RouteLLM's kind)": win_rate,
    "win rate, factorised (RouteLLM's kind)": factorised,
    "score of query and answer (FrugalGPT's kind)": frugal(signals=False),
    "the same with our signals": frugal(signals=True),
}


# -- the area under the curve -----------------------------------------------------------------------


def hull(outcome: Outcome, cheapest: tuple[float, float]) -> list[int]:
    """Return the settings on the upper hull between always the cheapest and always the LLM, by cost."""
    points = [(float(c), float(q), i) for i, (c, q) in enumerate(zip(*(v.mean(axis=0) for v in outcome), strict=True))]
    kept: list[tuple[float, float, int]] = [(*cheapest, -1)]
    for point in [*sorted(p for p in points if cheapest[0] < p[0] < 1.0), (1.0, 1.0, -1)]:
        while len(kept) > 1 and (kept[-1][1] - kept[-2][1]) * (point[0] - kept[-2][0]) <= (point[1] - kept[-2][1]) * (
            kept[-1][0] - kept[-2][0]
        ):
            kept.pop()
        kept.append(point)
    return [index for *_, index in kept if index >= 0]


def areas(outcome: Outcome, picked: Sequence[int], population: Population, weights: Array) -> Array:
    """Return the mean quality over all costs for each weighing of the queries: draws x n."""
    cheap = population.prices[0]
    costs, quality = (weights @ values[:, picked] for values in outcome)
    least = weights @ population.right[:, 0]
    found = np.zeros(len(weights))
    grid = np.linspace(cheap, 1.0, 400)
    for draw in range(len(weights)):
        order = np.argsort(costs[draw])
        x = [cheap, *np.clip(costs[draw][order], cheap, 1.0), 1.0]
        y = [least[draw], *quality[draw][order], 1.0]
        found[draw] = np.interp(grid, x, y).mean()
    return found


def measure(population: Population) -> dict[str, Array]:
    """Return each method's areas: as measured, then for each draw of the bootstrap."""
    halves = np.array([hash_of(cluster) // 7 % 2 for cluster in population.clusters])
    found = dict.fromkeys(METHODS, np.zeros(DRAWS + 1))
    for half in (0, 1):
        known, fresh = (population.part(np.flatnonzero(rows)) for rows in (halves != half, halves == half))
        rng = np.random.default_rng(half)
        names, place = np.unique(fresh.clusters, return_inverse=True)
        times = rng.multinomial(len(names), [1 / len(names)] * len(names), DRAWS)
        weights = np.vstack([np.ones(len(fresh.clusters)), times[:, place]])
        weights = weights / weights.sum(axis=1, keepdims=True)
        for name, method in METHODS.items():
            mine, theirs = method(known, fresh)
            picked = hull(mine, (population.prices[0], float(known.right[:, 0].mean())))
            found[name] = found[name] + areas(theirs, picked, fresh, weights) * len(fresh.clusters)
    return {name: values / len(population.clusters) for name, values in found.items()}


def hash_of(value: Any) -> int:
    """Return a number that follows from a value alone."""
    return int(sha256_of(str(value))[:8], 16)


# -- the recorded answers ---------------------------------------------------------------------------


def choose_examples() -> list[Example]:
    """Return the demo's `choose` queries, each once."""
    found: dict[str, Example] = {}
    for item in load_items():
        values = {"request": item.request, "tools": list(item.tools)}
        key = sha256_of(values)
        found.setdefault(key, Example(key, values, item.tool, "answer-key", False, "", item.id))
    return list(found.values())


async def record() -> None:
    """Ask the base that nobody trained, without and with five examples, for all `choose` queries; go on where it was."""
    folder, contract, examples = OUT / desk.choose.id, desk.choose.contract, choose_examples()
    folder.mkdir(parents=True, exist_ok=True)
    shots, engines = shots_of(contract, examples), Engines(Path.cwd())
    plain = await engines.endpoint(BASE, desk.choose.id)
    base = Endpoint(plain.model, bare_json=True, settings={"max_tokens": 48})
    rest = [e for e in examples if e not in shots]
    for contestant in (Contestant("base_grammar", base), Contestant("base_five_shot", base, shots)):
        number = 0
        async for _ in answers_of(contestant, contract, rest, folder):
            number += 1
            if number % 100 == 0:
                print(f"{contestant.phase}: {number} of {len(rest)}", flush=True)
    engines.close()


async def population(
    name: str, contract: Contract, chain: Sequence[Sequence[Prediction]], price: float, engines: Engines
) -> Population:
    """Return a population of the queries that all models of a chain have answered, the cheapest at a price."""
    keys = sorted(set.intersection(*({p.key for p in answered} for answered in chain)))
    rows = [[{p.key: p for p in answered}[key] for key in keys] for answered in chain]
    inputs = [p.input for p in rows[0]]
    clusters = near_duplicates([str(values["request"]) for values in inputs])
    tokens = [
        fmean([(p.prompt_tokens or 0) + (p.output_tokens or 0) for p in answered if p.valid]) for answered in rows
    ]
    tried = [
        [
            Tried(f"{c}", p.signals, not (p.valid and same(p.output, p.target)), not p.valid)
            for c, p in zip(clusters, answered, strict=True)
        ]
        for answered in rows
    ]
    queries = np.array(await engines.embed([look(contract, values) for values in inputs]))
    answers = [np.array(await engines.embed([compact_json(p.output) for p in answered])) for answered in rows]
    prices = [price * each / tokens[0] for each in tokens]
    return Population(name, np.array(clusters), queries, answers, tried, prices)


async def stand_ins(price: float, engines: Engines) -> list[Population]:
    """Return populations of linear classifiers in the place of specialists; their sureness is told as an engine tells it."""
    from sklearn.linear_model import LogisticRegression

    examples = choose_examples()
    requests = [str(e.input["request"]) for e in examples]
    clusters, tools = np.array(near_duplicates(requests)), np.array([e.output for e in examples])
    asked = np.array(await engines.embed(requests))
    queries = np.array(await engines.embed([look(desk.choose.contract, e.input) for e in examples]))
    fold = np.array([hash_of(f"fold {cluster}") % 5 for cluster in clusters])
    order = np.argsort([hash_of(f"order {request}") for request in requests])
    found: list[tuple[Array, list[Tried]]] = []
    for most in (FEW, len(examples)):
        said: list[str] = [""] * len(examples)
        tried: list[Tried | None] = [None] * len(examples)
        for number in range(5):
            learn = order[fold[order] != number][:most]
            model: Any = LogisticRegression(C=10.0, max_iter=300).fit(asked[learn], tools[learn])
            place = {tool: column for column, tool in enumerate(model.classes_)}
            for i, logs in zip(
                np.flatnonzero(fold == number), model.predict_log_proba(asked[fold == number]), strict=True
            ):
                offered = examples[i].input["tools"]
                each = np.array([logs[place[tool]] if tool in place else UNKNOWN for tool in offered])
                best = int(each.argmax())
                choice = each[best] - np.logaddexp.reduce(each)
                signals = {"product": min(0.0, float(each[best])), "choice": min(0.0, float(choice))}
                said[i] = offered[best]
                tried[i] = Tried(f"{clusters[i]}", signals, said[i] != tools[i], refused=False)
        answers = np.array(await engines.embed([compact_json(answer) for answer in said]))
        found.append((answers, [t for t in tried if t]))
    (few_said, few), (many_said, many) = found
    return [
        Population("desk.choose: a linear classifier, LLM", clusters, queries, [many_said], [many], [price]),
        Population(
            f"desk.choose: a linear classifier of {FEW} requests, one of all, LLM",
            clusters,
            queries,
            [few_said, many_said],
            [few, many],
            [price, 2 * price],
        ),
    ]


async def populations(price: float) -> list[Population]:
    """Return what there are recorded answers of."""
    engines, found = Engines(Path.cwd()), list[Population]()
    for slot in (desk.choose, desk.fill):
        files = sorted((DEMO / slot.id).glob("*/predictions.jsonl"), key=lambda file: file.stat().st_mtime)
        if files:
            answered = [p for (phase, _), p in read_predictions(files[-1]).items() if phase == "specialist"]
            name = f"{slot.id}: its specialist of the demo, LLM"
            found.append(await population(name, slot.contract, [answered], price, engines))
    found += await stand_ins(price, engines)
    stored = read_predictions(OUT / desk.choose.id / "predictions.jsonl")
    for phases in (["base_grammar"], ["base_grammar", "base_five_shot"]):
        chain = [[p for (phase, _), p in stored.items() if phase == each] for each in phases]
        if all(chain):
            name = f"desk.choose: {', '.join(phases)}, LLM"
            found.append(await population(name, desk.choose.contract, chain, price, engines))
    engines.close()
    return found


def main() -> None:
    """Print a table for each population, and write `.bench/curve/curve.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--price", type=float, default=0.05, help="of a call of the cheapest model; the LLM's is 1")
    given = parser.parse_args()
    if given.record:
        asyncio.run(record())
    lines: list[dict[str, Any]] = []
    for each in asyncio.run(populations(given.price)):
        right = [round(float(share), 3) for share in each.right.mean(axis=0)]
        prices = [round(price, 3) for price in [*each.prices, 1.0]]
        print(f"{each.name}; n = {len(each.queries)}, {len(set(each.clusters))} groups; right {right}, prices {prices}")
        found = measure(each)
        mine = found[next(iter(METHODS))]
        for name, values in found.items():
            low, high = np.quantile(values[1:], [0.025, 0.975])
            over = mine - values
            less, more = np.quantile(over[1:], [0.025, 0.975])
            print(
                f"  {name:<46} {values[0]:.3f} [{low:.3f}, {high:.3f}]"
                + (f"; ours over it {over[0]:+.3f} [{less:+.3f}, {more:+.3f}]" if name != next(iter(METHODS)) else "")
            )
            lines.append(
                {
                    "population": each.name,
                    "n": len(each.queries),
                    "method": name,
                    "area": values[0],
                    "low": low,
                    "high": high,
                }
                | {"over": over[0], "over_low": less, "over_high": more}
            )
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "curve.json").write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
