"""Step S2: from slot calls to examples that may be trained on, in parts that share nothing."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..contract import Contract, Sha256, compact_json, sha256_of
from ..errors import DistillError, UnknownNameError
from ..spans import SlotCall
from .cluster import joined, near_duplicates

Part = Literal["train", "select", "certify", "test"]

SHARES: dict[Part, float] = {"test": 0.285, "certify": 0.05, "select": 0.05, "train": 0.615}
"""`train` teaches, `select` chooses among recipes, `certify` is kept for the error budget, `test` is measured once."""

BUDGET_SHARES: dict[Part, float] = {"test": 0.24, "certify": 0.14, "select": 0.06, "train": 0.56}
"""The same for a slot with an error budget, which is shown on `certify`."""

ROUTED_SHARES: dict[Part, float] = {"test": 0.24, "certify": 0.14, "select": 0.16, "train": 0.46}
"""The same for a slot with a router, which is learnt from `select`; what certifies and what is measured are the same calls as without."""

VERDICTS = "verdicts.jsonl"
"""File in a slot's folder with what a judge said, by hashes of what it compared."""

MOST_CLASSES = 12
"""Different answers up to which a slot's answers are classes, which can be balanced and are measured one by one."""

FEWEST_OPTIONS = 2
"""Options that are left at least where some are left out."""

MOST_REPEATS = 4
"""How often an example of a rare answer stands in a balanced training at most."""

TERMS = "the model's terms"
"""Why an answer is left out that nobody may train on."""

FEWEST = 40
"""Examples below which nothing useful can be trained or measured."""


@dataclass(frozen=True)
class Example:
    """One input and its answer."""

    key: Sha256
    """Hash of the input (`Contract.key_of`)."""
    input: dict[str, Any]
    output: Any
    """The teacher's answer, or the correction somebody gave."""
    teacher: str
    """Name in `[models]` of the model that answered."""
    corrected: bool
    trace_id: str
    span_id: str
    person: str | None = None
    """Whose data it is, as the span says it."""
    cluster: str = ""
    """What it is never divided from, by hash."""


@dataclass(frozen=True)
class Dataset:
    """Examples in disjoint parts."""

    parts: dict[Part, list[Example]]
    split_key: str
    """What the split went by, in words."""
    left_out: dict[str, int]
    """Calls that were not used, by reason."""
    asked_again: int = 0
    """Inputs that the teacher answered more than once, corrections aside."""
    answered_otherwise: int = 0
    """Those of them to which it gave different answers: an estimate of the noise in its answers."""

    @property
    def sha256(self) -> Sha256:
        """Hash over inputs, answers and their parts."""
        return sha256_of({part: [[e.key, e.output] for e in examples] for part, examples in self.parts.items()})

    @property
    def teacher(self) -> str:
        """The models that answered, most frequent first."""
        return ", ".join(
            name for name, _ in Counter(e.teacher for part in self.parts.values() for e in part).most_common()
        )

    def to_json(self) -> str:
        """Return the data set as JSON text."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Dataset:
        """Return what `to_json` gave."""
        values: dict[str, Any] = json.loads(text)
        parts = {part: [Example(**example) for example in examples] for part, examples in values.pop("parts").items()}
        return cls(parts=parts, **values)


def curate(
    calls: Iterable[SlotCall],
    contract: Contract,
    *,
    split_by: str | None,
    keep_together: Collection[str] = (),
    shares: Mapping[Part, float] = SHARES,
    hci_allowed: bool = False,
) -> Dataset:
    """Return the examples that a slot's calls give.

    Used are calls of this contract whose run did not fail, whose model's terms allow training or whose
    answer was corrected, which talk to no human unless allowed; one example for each input, the latest
    correction or else the latest answer.

    The split goes by near-duplicate clusters of `split_by` (a parameter; all that is asked where None, as `split_text` says), joined where they have
    calls of one run (`keep_together` has "run") or of one person ("subject").
    A cluster's part follows from a hash of its first text in the alphabet, so slots that split by the same
    parameter hold out the same work, and what is held out stays so while traffic grows, except that a
    cluster which new calls join or link may move, as a whole.

    Raises:
        DistillError: too few examples, with what was left out and why, or one answer to all of them.
        UnknownNameError: `split_by` names no parameter.
    """
    if split_by is not None and split_by not in contract.parameters:
        raise UnknownNameError(
            "parameter", split_by, contract.parameters, hint="split_by names a parameter of the slot"
        )
    left_out: Counter[str] = Counter()
    untrainable: Counter[str] = Counter()
    kept: dict[Sha256, Example] = {}
    given: dict[tuple[Sha256, str], list[str]] = {}
    for call in sorted(calls, key=lambda call: call.start):
        if (why := why_not(call, contract, hci_allowed=hci_allowed)) is not None:
            left_out[why] += 1
            untrainable[call.binding] += why == TERMS
        else:
            key = contract.key_of(call.input)
            if not call.corrected and not call.cached:
                given.setdefault((key, call.binding), []).append(_answer(contract, call))
            if key in kept:
                left_out["the same input again"] += 1
                if kept[key].corrected and not call.corrected:
                    continue
            told = call.binding, call.corrected, call.trace_id, call.span_id, call.person
            kept[key] = Example(key, call.input, call.output, *told)
    if len(kept) < FEWEST:
        raise DistillError(_too_few(contract, len(kept), left_out, untrainable))
    # The order must not depend on when things ran.
    examples = [kept[key] for key in sorted(kept)]
    parts: dict[Part, list[Example]] = {"train": [], "select": [], "certify": [], "test": []}
    if len({compact_json(example.output) for example in examples}) == 1:
        raise DistillError(
            f"Slot {contract.slot!r} gave one and the same answer to all {len(examples)} inputs: a constant needs no model."
        )
    texts = [split_text(contract, example.input, split_by) for example in examples]
    for example, first in zip(examples, _clusters(examples, texts, keep_together), strict=True):
        together = replace(example, cluster=hashlib.sha256(first.encode()).hexdigest()[:16])
        parts[_part_of(first, shares)].append(together)
    for part in ("train", "test"):
        if not parts[part]:
            raise DistillError(
                f"All inputs of slot {contract.slot!r} are near-duplicates of each other, or of one run or person where keep_together says so, so there is no {part} part; collect more varied calls or set split_by."
            )
    what = f"near-duplicate clusters of {split_by!r}" if split_by else "near-duplicate clusters of the input"
    what += "".join(f", one {kind} together" for kind in ("run", "subject") if kind in keep_together)
    again = [set(answers) for answers in given.values() if len(answers) > 1]
    return Dataset(parts, what, dict(left_out), len(again), sum(len(answers) > 1 for answers in again))


def why_not(call: SlotCall, contract: Contract, *, hci_allowed: bool) -> str | None:
    """Return why nothing is learnt from a call; None where something is.

    Args:
        call: an answered one.
        contract: the slot's.
        hci_allowed: calls that talk to a human may be learnt from.
    """
    if call.hci and not hci_allowed:
        return "talks to a human"
    if call.contract != contract.sha256:
        return "another contract"
    if not call.corrected:
        if call.outcome == "failed":
            return "of a failed run"
        if call.specialist is not None:
            return "answered by a specialist"
        if call.by_meaning:
            return "answered by meaning from the cache"
        if not call.trainable:
            return TERMS
    return None if _meets(contract, call) else "not of the contract, as it is stored"


def _meets(contract: Contract, call: SlotCall) -> bool:
    """Whether a stored answer is one that the slot could give: redaction may have changed a label, or one of the options."""
    try:
        contract.validate(call.output, contract.load(call.input))
    except (ValueError, KeyError):
        return False
    return True


def _answer(contract: Contract, call: SlotCall) -> str:
    return contract.answer_text(call.output, contract.load(call.input))


def balanced(examples: Sequence[Example]) -> list[Example]:
    """Return examples with those of rare answers repeated, up to `MOST_REPEATS` times, where there are few different answers."""
    answers = [compact_json(example.output) for example in examples]
    counts = Counter(answers)
    if len(counts) > MOST_CLASSES:
        return list(examples)
    most = max(counts.values())
    times = {answer: min(MOST_REPEATS, round(most / count)) for answer, count in counts.items()}
    return [example for example, answer in zip(examples, answers, strict=True) for _ in range(times[answer])]


def with_varied_options(examples: Sequence[Example], parameter: str, forms: int, seed: int) -> list[Example]:
    """Return examples in several forms: as they are, then with the options of `parameter` in other orders and, for half of them, some left out.

    What is the answer among some options is so in any order, and among fewer of them. A small model that saw each list in one order only learns
    which options are often right, and where they stand (compare Zheng et al. 2024, on selection bias).

    Args:
        examples: n calls.
        parameter: whose value is the list of options, or has them with their descriptions.
        forms: how many forms of each.
        seed: fixes orders and choices.

    Returns:
        `forms` times n examples: all in the first form, then all in the second, and so on.
    """
    made = list(examples)
    for form in range(1, forms):
        dice = random.Random(f"{seed} {form}")
        for example in examples:
            given: Any = example.input[parameter]
            options = list(dict.fromkeys(given))
            if len(options) > FEWEST_OPTIONS and dice.random() < 0.5:
                others = [option for option in options if option != example.output]
                answer = [option for option in options if option == example.output]  # none where it abstains
                options = answer + dice.sample(others, dice.randint(FEWEST_OPTIONS, len(options)) - len(answer))
            dice.shuffle(options)
            varied = options if isinstance(given, list) else {option: given[option] for option in options}
            made.append(replace(example, input={**example.input, parameter: varied}))
    return made


def split_text(contract: Contract, values: dict[str, Any], split_by: str | None) -> str:
    """Return the text by which an input is kept apart from others: a parameter's, or else all that is asked.

    What may be answered recurs from call to call, and would make near-duplicates of them all; it counts where nothing else is asked.
    """
    value = contract.asked(values) or values if split_by is None else values[split_by]
    return value if isinstance(value, str) else compact_json(value)


def _clusters(examples: Sequence[Example], texts: Sequence[str], keep_together: Collection[str]) -> list[str]:
    """Each example's cluster, by its first text in the alphabet."""
    clusters = near_duplicates(texts)
    for what in ("run", "subject"):
        if what in keep_together:
            owners = [e.trace_id if what == "run" else e.person or e.key for e in examples]
            clusters = joined(clusters, owners)
    first: dict[int, str] = {}
    for text, cluster in zip(texts, clusters, strict=True):
        first[cluster] = min(text, first.get(cluster, text))
    return [first[cluster] for cluster in clusters]


def _part_of(text: str, shares: Mapping[Part, float]) -> Part:
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
    for part, share in shares.items():
        place -= share
        if place < 0:
            return part
    return "train"


def _too_few(contract: Contract, count: int, left_out: Counter[str], untrainable: Counter[str]) -> str:
    if untrainable.total() and count == 0:
        names = ", ".join(repr(name) for name, times in untrainable.items() if times)
        return (
            f"The answers of {names} may not be trained on: write train_on_outputs = true at the model in hetero.toml "
            "if its terms allow it (calls logged from then on count), have a model whose terms allow it answer them (`hetero relabel`), or correct answers with `hetero feedback`."
        )
    reasons = "; left out: " + ", ".join(f"{n} ({why})" for why, n in left_out.most_common()) if left_out else ""
    stored = (
        "" if count or left_out else "; calls count if their content is stored, which [privacy] in hetero.toml decides"
    )
    return (
        f"Slot {contract.slot!r} has {count} usable examples and needs {FEWEST}: run the agent more{reasons}{stored}."
    )
