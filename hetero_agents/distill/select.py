"""Step S4: which base, by what the workspace allows and by a bake-off on the slot's own held-out calls."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from ..bindings import Score
from ..bindings.config import SelectionConfig
from ..contract import Contract
from ..engines import Endpoint
from ..engines.catalog import Weights, verified_sha256
from ..engines.families import KnownModel, known_models
from ..engines.probe import probed
from ..engines.served import fetch_served
from ..errors import DistillError, UserError
from ..slots import App
from .curate import Dataset, Example
from .evaluate import Prediction, score
from .measure import Contestant, answers_of, shots_of
from .recipe import Recipe
from .specialise import Base, Progress, base_of, folder_of, specialise

if TYPE_CHECKING:
    from .compare import Comparator

FEW_SHOT = "five examples"
SHORT = 0.25
"""Share of the recipe's epochs in the first round of training; doubled with each round."""

NO_TEACHER: dict[str, Any] = {"teacher_model": None, "teacher_share": 0.5}
"""What a bake-off's short trainings say in a recipe: candidates may have other tokenizers than the teacher of the last one."""

FEWEST = 15
"""Examples of the select part below which a bake-off would be a lottery."""


@dataclass(frozen=True)
class Round:
    """One candidate in one round of a bake-off."""

    name: str
    """In `[models]`."""
    round: str
    """`five examples`, or the epochs of the training."""
    score: Score
    """On the select part."""
    seconds: float
    """Median time of a call, one at a time."""
    gb: float
    """Of the file that is served, in 10^9 bytes."""
    train_seconds: float
    kept: bool
    """It went on to the next round, or won."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "score": self.score.model_dump()}


@dataclass(frozen=True)
class BakeOff:
    """How a base was chosen."""

    winner: str
    """In `[models]`."""
    why: str
    """One sentence."""
    rounds: list[Round]


def allowed(
    app: App,
    names: Sequence[str] = (),
    recipe: Recipe | None = None,
    contract: Contract | None = None,
    canaries: int = 0,
) -> tuple[list[str], dict[str, str]]:
    """Return the models that may be a base by the rules of `[selection]`, for a recipe and for a slot, and why others may not.

    Args:
        app: the workspace.
        names: in `[models]`; all that can be trained where there are none.
        recipe: how they would be trained.
        contract: the slot's.
        canaries: planted secrets that are looked for.

    Returns:
        Names, and reasons by name.
    """
    rules = app.workspace.config.selection
    bases, refused = list[str](), dict[str, str]()
    for name in dict.fromkeys(names or app.workspace.config.models):
        try:
            base = base_of(app, name)
        except UserError:
            if names:
                raise
            continue
        whole = recipe is not None and recipe.whole and not base.config.model.startswith("local:")
        reason = "the recipe gives a whole model, which only local: serves" if whole else _against(base, rules)
        if base.weights.embeds and contract and not contract.chooses:
            reason = "it gives embeddings, and the slot does not choose among few, known answers by texts"
        elif base.weights.embeds and canaries:
            reason = "it writes nothing, so --canaries has nothing to test"
        if reason:
            refused[name] = reason
        else:
            bases.append(name)
    return bases, refused


def _against(base: Base, rules: SelectionConfig) -> str | None:
    """Why a base may not be taken; what a rule asks for and nobody knows is a reason too."""
    weights, known, probe = base.weights, _published(base.weights), probed(base.weights.name)
    licence = weights.licence if weights.sha256 else known.licence if known else None
    if rules.licences is not None and licence not in rules.licences:
        return f"its licence is {licence or 'not known'}, and [selection] licences names {', '.join(rules.licences)}"
    if missing := set(rules.languages or ()) - set(known.languages if known else weights.languages):
        return f"it is not known to speak {', '.join(sorted(missing))}"
    if weights.embeds:
        return None  # it writes no tokens, and takes less memory than any that does
    limits = rules.memory_mb, rules.first_token_seconds, rules.tokens_a_second
    if any(limit is not None for limit in limits) and probe is None:
        return f"nobody measured it here: `hetero models probe {weights.name}`"
    if probe is None:
        return None
    if rules.memory_mb is not None and probe.rss_mb > rules.memory_mb:
        return f"it takes {probe.rss_mb:,.0f} MB, and [selection] memory_mb is {rules.memory_mb:,.0f}"
    if rules.first_token_seconds is not None and probe.first_token_cold > rules.first_token_seconds:
        return f"its first token takes {probe.first_token_cold:.2f} s, and [selection] allows {rules.first_token_seconds:g}"
    if rules.tokens_a_second is not None and probe.tokens_a_second < rules.tokens_a_second:
        return f"it writes {probe.tokens_a_second:.0f} tokens/s, and [selection] asks for {rules.tokens_a_second:g}"
    return None


def _published(weights: Weights) -> KnownModel | None:
    """What is published of weights: by their name, or by their repository, of which GGUF files often have one of the same name with an end."""
    models = known_models()
    sources = (m for m in models.values() if m.source and weights.source.lower().startswith(m.source.lower()))
    return models.get(weights.name) or next(sources, None)


async def bake_off(
    app: App,
    contract: Contract,
    dataset: Dataset,
    bases: Sequence[Base],
    recipe: Recipe,
    compare: Comparator,
    progress: Progress,
) -> BakeOff:
    """Choose a base by successive halving (Jamieson and Talwalkar 2016) on the select part.

    First each answers with five examples before the call, then after a quarter of the recipe's epochs, then after half of them; after
    each round the better half goes on, until one is left. A base that gives embeddings reads no examples: it answers untaught at first, and then
    fitted to all of the train part, which takes seconds. Of equal scores the smaller file is better.

    Args:
        app: the workspace.
        contract: the slot's.
        dataset: of which `train` teaches and `select` decides; `certify` and `test` are not touched.
        bases: two or more.
        recipe: of the final training.
        compare: when an answer is right.
        progress: called as steps go on.

    Raises:
        DistillError: the select part is too small.
    """
    held = dataset.parts["select"]
    if len(held) < FEWEST:
        raise DistillError(
            f"A bake-off needs {FEWEST} examples in the select part and there are {len(held)}: run the agent more, or name one --base."
        )
    left, rounds, share = list(bases), list[Round](), 0.0
    while len(left) > 1 or not rounds:
        entered = [await _enter(app, contract, dataset, base, recipe, share, compare, progress) for base in left]
        ranked = sorted(entered, key=lambda entry: (-entry.score.score, entry.gb))
        # With two, both are trained once: a base may be bad at examples and good at learning.
        keep = max(2, ceil(len(ranked) / 2)) if share == 0 and len(ranked) > 1 else ceil(len(ranked) / 2)
        names = [entry.name for entry in ranked[:keep]]
        rounds += [replace(entry, kept=entry.name in names) for entry in ranked]
        left = [base for base in left if base.name in names]
        share = share * 2 or SHORT
    return BakeOff(left[0].name, _why(rounds, left[0].name), rounds)


async def _enter(
    app: App,
    contract: Contract,
    dataset: Dataset,
    base: Base,
    recipe: Recipe,
    share: float,
    compare: Comparator,
    progress: Progress,
) -> Round:
    """One candidate's answers to the select part: with examples, or after a share of the training."""
    from pydantic_ai.models.openai import OpenAIChatModelSettings

    held, train_seconds, shots = dataset.parts["select"], 0.0, list[Example]()
    file = await asyncio.to_thread(fetch_served, base.weights)
    if share:
        name = f"{recipe.epochs * share:g} epochs"
        short = replace(recipe, epochs=recipe.epochs * share, patience=0, **NO_TEACHER)
        said = f"{base.name}, {name}"
        made = await specialise(
            app, contract, dataset, base, short, lambda step, done, total: progress(f"{said}: {step}", done, total)
        )
        # Its id holds the weights' hash: two trainings of one bake-off are two adapters.
        trial: Any = f"{contract.slot}@0-{made.specialist.adapter_sha256[:8]}"
        endpoint = await app.engines.specialist(trial, made.specialist, base.config)
        train_seconds, folder = made.trained.seconds, made.folder
    else:
        name, shots = FEW_SHOT, list(shots_of(contract, dataset.parts["train"]))
        said = f"{base.name}, {name}"
        plain = await app.engines.endpoint(base.config, contract.slot)
        longest = max(len(contract.answer_text(e.output, contract.load(e.input))) for e in dataset.parts["train"])
        settings = OpenAIChatModelSettings(max_tokens=longest + 16)
        endpoint = Endpoint(plain.model, bare_json=True, matches=plain.matches, settings=settings)
        what = [base.config.model, verified_sha256(file), contract.sha256, [[shot.key, shot.output] for shot in shots]]
        folder = folder_of(app, contract, dataset, what)
    found = list[Prediction]()
    # One at a time: what a call takes is half of what is compared.
    candidate = Contestant("candidate", endpoint, shots, timed=len(held))
    async for prediction in answers_of(candidate, contract, held, folder):
        found.append(prediction)
        progress(f"{said}: answers", len(found), len(held))
    times = [p.seconds for p in found if p.seconds is not None]
    return Round(
        name=base.name,
        round=name,
        score=score(await compare.values(found)),
        seconds=statistics.median(times) if times else 0.0,
        gb=file.stat().st_size / 1e9,
        train_seconds=round(train_seconds, 1),
        kept=False,
    )


def _why(rounds: Sequence[Round], winner: str) -> str:
    last = [entry for entry in rounds if entry.round == rounds[-1].round]
    mine = next(entry for entry in last if entry.name == winner)
    said = f"{winner} was right for {mine.score.score:.3f} [{mine.score.low:.3f}, {mine.score.high:.3f}] of {mine.score.n} calls in the round of {mine.round}"
    others = [entry for entry in last if entry.name != winner]
    if not others:
        return f"{said}; it was the only candidate."
    second = max(others, key=lambda entry: entry.score.score)
    if second.score.score == mine.score.score:
        return f"{said}, {second.name} too, whose file is larger ({second.gb:.2f} GB, {mine.gb:.2f} GB)."
    doubt = "; so few calls do not tell them apart" if second.score.high > mine.score.low else ""
    return f"{said}, {second.name} for {second.score.score:.3f}{doubt}."
