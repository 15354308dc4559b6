"""The demo's figures: from answers to shares with intervals, by BFCL's rules."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from hetero_agents import Slot
from hetero_agents.bindings import Score
from hetero_agents.contract import compact_json, sha256_of
from hetero_agents.distill import Distilled, paired_difference, wilson
from hetero_agents.distill.base import chat_of, load_tokenizer, prompt_tokens, safetensors_folder
from hetero_agents.distill.certify import Tried, keeps
from hetero_agents.distill.curate import Example
from hetero_agents.distill.evaluate import Prediction, plain_code
from hetero_agents.distill.matcher import MATCHER
from hetero_agents.engines.catalog import find_weights
from hetero_agents.engines.matcher import Choice, spoken
from hetero_agents.engines.served import fetch_served
from hetero_agents.routing import choice_text

from .desk import choose, fill
from .work import Item

WEIGHTS = "smollm2-135m-instruct"
BASES = ("base_grammar", "base_five_shot", "base_untaught")
"""A specialist's base without what it learnt: one that writes, and one that gives embeddings."""
GOALS = {"desk.choose": 0.85, "desk.fill": 0.50}
"""Of the demo; what more was aimed at is in docs/figures.md."""
SLOTS: dict[str, Slot[..., Any]] = {"desk.choose": choose, "desk.fill": fill}


def is_right(slot: str, output: Any, item: Item) -> bool:
    """Return whether an answer is right by BFCL's rules."""
    return output == item.tool if slot == "desk.choose" else item.accepts(output)


def call_of(slot: str, item: Item) -> tuple[dict[str, Any], Any]:
    """Return the input and the answer key's answer of a slot's call for an item."""
    if slot == "desk.choose":
        return {"request": item.request, "tools": list(item.tools)}, item.tool
    return {"request": item.request, "parameters": item.tools[item.tool]}, item.arguments


def by_input(slot: str, items: Sequence[Item]) -> dict[str, Item]:
    """Return items by a slot's input for them."""
    return {compact_json(call_of(slot, item)[0]): item for item in items}


def items_of_part(made: Distilled, items: Sequence[Item], part: Any) -> list[Item]:
    """Return the items of one part of a data set."""
    slot = made.specialist.slot
    known = by_input(slot, items)
    return [known[compact_json(example.input)] for example in made.dataset.parts[part]]


def line_of(slot: str, p: Prediction, known: dict[str, Item]) -> dict[str, Any]:
    """Return an answer as a line of `predictions.jsonl`."""
    item = known[compact_json(p.input)]
    phase = "plain_code" if p.model == "plain code" else p.phase
    return {
        "phase": phase,
        "slot": slot,
        "item": item.id,
        "input": p.input,
        "output": p.output,
        "target": p.target,
        "right": p.valid and is_right(slot, p.output, item),
        "valid": p.valid,
        "model": p.phase if phase == "plain_code" else p.model,
        "route": "direct",
        "prompt_tokens": p.prompt_tokens,
        "seconds": p.seconds,
    }


def slot_report(
    name: str, made: Distilled, lines: list[dict[str, Any]], unseen: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what the report says of one slot: every contestant's share, and what the specialist has over it."""

    def marks(phase: str, model: str | None = None) -> list[bool]:
        return [line["right"] for line in lines if line["phase"] == phase and model in (None, line["model"])]

    plain = {
        model: marks("plain_code", model)
        for model in dict.fromkeys(line["model"] for line in lines if line["phase"] == "plain_code")
    }
    # For `fill` no plain code is worth the name: a constant answer fits no other tool.
    plain = plain if name == "desk.choose" else {}
    best = max(plain, key=lambda model: sum(plain[model]), default=None)
    specialist = marks("specialist")
    rivals = {
        "plain_code": plain[best] if best else None,
        **{name: marks(name) or None for name in (*BASES, MATCHER)},
    }
    return {
        "n": len(specialist),
        "teacher": share(marks("teacher")),
        **{name: share(right) if right else None for name, right in rivals.items()},
        "plain_code_name": best,
        "plain_code_all": {model: share(right) for model, right in plain.items()},
        "specialist": share(specialist),
        "valid": share([line["valid"] for line in lines if line["phase"] == "specialist"]),
        "grounded": made.grounded.model_dump(),
        "differences": {rival: _difference(specialist, right) if right else None for rival, right in rivals.items()},
        "examples_trained": made.trained.examples,
        "train_seconds": made.trained.seconds,
        "learning_curve": made.trained.losses,
        "specialist_id": made.specialist_id,
        "base": made.specialist.base,
        "chosen": made.bake_off.why if made.bake_off else None,
        "unseen_tools": _unseen_report(name, made, unseen, best),
        "goal": GOALS[name],
        "budget": _budget_report(name, made, lines),
    }


def _budget_report(name: str, made: Distilled, lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the error budget's certificate says, and how often what is kept of the test part is wrong by BFCL's rules."""
    certificate = made.specialist.certificate
    if certificate is None:
        return None
    right = {compact_json(line["input"]): line["right"] for line in lines if line["phase"] == "specialist"}
    mine = [p for p in made.predictions if p.phase == "specialist"]
    kept = [p for p in mine if keeps(certificate, Tried(p.key, p.signals, wrong=False, refused=not p.valid))]
    return {
        **certificate.model_dump(mode="json", exclude={"calibrator", "checks_sha256", "created"}),
        "kept_of_test": share([p in kept for p in mine]),
        "wrong_of_kept": share([not right[compact_json(p.input)] for p in kept]) if kept else None,
        "reliability": list(map(asdict, made.reliability)),
    }


def _unseen_report(name: str, made: Distilled, lines: list[dict[str, Any]], plain: str | None) -> dict[str, Any]:
    """The specialist and the best plain code on tools that no specialist was trained on."""
    held_out = [Example(sha256_of(line["input"]), line["input"], line["target"], "", False, "", "") for line in lines]
    guesses = plain_code(SLOTS[name].contract, made.dataset.parts["train"], held_out) if plain else []
    return {
        "n": len(lines),
        "specialist": share([line["right"] for line in lines]),
        "plain_code": share([p.output == p.target for p in guesses if p.phase == plain]) if plain else None,
    }


def share(right: Sequence[bool] | None) -> dict[str, float]:
    """Return a share with n and its 95 % interval (Wilson)."""
    score: Score = wilson(sum(right or ()), len(right or ()))
    return {"score": score.score, "low": score.low, "high": score.high, "n": score.n}


def _difference(first: Sequence[bool], second: Sequence[bool]) -> dict[str, float]:
    difference, low, high = paired_difference(first, second)
    return {"difference": difference, "low": low, "high": high}


def mean(values: Sequence[float]) -> float:
    """Return the mean; 0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def tokens(items: Sequence[Item], matched: Collection[str]) -> dict[str, dict[str, float]]:
    """Return the mean input tokens a call, counted by the base's tokenizer on the prompts as they are built.

    Before, an LLM over an API reads the messages and the answer's JSON Schema; after, the specialist
    reads the values alone, and the schema is its grammar. `constant` are those that are the same in
    every call of a slot: instruction, names of parameters, markup. A matcher reads the values and the
    answers' words, with nothing around them.

    Args:
        items: the calls.
        matched: slots that a matcher fills.
    """
    gguf = fetch_served(find_weights(WEIGHTS))
    tokenizer = load_tokenizer(safetensors_folder(gguf))
    count: dict[str, list[int]] = {"messages": [], "schemas": [], "baked": [], "values": []}
    for item in items:
        calls = (
            (choose, (item.request, list(item.tools))),
            (fill, (item.request, item.tools[item.tool])),
        )
        for slot, values in calls:
            arguments = slot.contract.bind(values, {})
            baked = slot.contract.baked_text(arguments)
            if slot.id in matched:
                choice = Choice.model_validate_json(choice_text(slot.contract, arguments) or "")
                baked = "\n".join([choice.asked, *(spoken(answer, said) for answer, said in choice.answers.items())])
            schema = compact_json(slot.contract.answer_schema(arguments))
            count["messages"].append(len(prompt_tokens(tokenizer, chat_of(slot.contract.messages(arguments)))))
            count["schemas"].append(len(tokenizer(schema).input_ids))
            count["baked"].append(len(prompt_tokens(tokenizer, baked)))
            count["values"].append(sum(len(tokenizer(line).input_ids) for line in baked.splitlines()))
    messages, schemas, after, values = (mean(numbers) for numbers in count.values())
    return {
        "before": {"input": messages + schemas, "constant": messages - values},
        "after": {"input": after, "constant": after - values},
    }
