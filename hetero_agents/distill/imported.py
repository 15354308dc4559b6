"""Step S1's other source: model calls that another program's traces hold, taken as a slot's own.

Only sites that the user names for a slot are taken: of others nobody has said whether they talk to a human.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

from ..bindings import ModelConfig
from ..contract import WRAPPED, Contract
from ..errors import KeyAccessError
from ..spans import Names, SlotCall, Vault, read_traces
from ..spans.foreign import model_call_of
from ..spans.subjects import person_of


def imported_calls(
    vault: Vault, contract: Contract, sites: Collection[str], models: Mapping[str, ModelConfig]
) -> Iterator[SlotCall]:
    """Give the calls of other programs' sites as calls of a slot.

    A prompt is the slot's only text parameter, or a JSON object with its parameters. A call that does not fit the
    contract is given with an input that does not, so that `curate` counts it.

    Args:
        vault: where the traces are.
        contract: the slot's.
        sites: names of agents, chains or tasks, as `hetero import` lists them.
        models: `[models]`; an entry with the same model id says whether its answers may be trained on.

    Raises:
        KeyAccessError: this account's key does not open content.
    """
    names = {entry.model: name for name, entry in models.items() if entry.train_on_outputs}
    for trace in read_traces(vault):
        by_id = {span["span_id"]: span for span in trace.spans}
        for span in trace.spans:
            if Names.SLOT in span["attributes"]:
                continue
            if span.get("withheld"):
                raise KeyAccessError(
                    "Other programs' calls are content, which your key does not open; a curator's does."
                )
            call = model_call_of(span, by_id)
            if call is None or call.site not in sites:
                continue
            given = _arguments(contract, call.prompt)
            yield SlotCall(
                slot=contract.slot,
                trace_id=trace.trace_id,
                span_id=span["span_id"],
                contract=contract.sha256,
                input=given,
                output=_answer(contract, given, call.answer),
                corrected=False,
                binding=names.get(call.model, call.model),
                specialist=None,
                trainable=call.model in names,
                hci=False,
                outcome=trace.outcome_of(span),
                start=span["start"],
                person=person_of(span),
            )


def _arguments(contract: Contract, prompt: str | None) -> dict[str, Any]:
    sent = [name for name, parameter in contract.parameters.items() if parameter.kind != "not_sent"]
    if prompt is None:
        return {}
    try:
        value = json.loads(prompt)
    except ValueError:
        value = None
    if isinstance(value, dict) and cast("dict[str, Any]", value).keys() == set(sent):
        return cast("dict[str, Any]", value)
    return {sent[0]: prompt} if len(sent) == 1 else {}


def _answer(contract: Contract, given: Mapping[str, Any], answer: Any) -> Any:
    """The first reading of an answer that meets the contract: the JSON in a text, what stands in a wrapping object, the text itself."""
    readings: list[Any] = [answer]
    if isinstance(answer, str):
        with contextlib.suppress(ValueError):
            readings.insert(0, json.loads(answer))
    objects = [cast("dict[str, Any]", reading) for reading in readings if isinstance(reading, dict)]
    readings += [wrapping[WRAPPED] for wrapping in objects if wrapping.keys() == {WRAPPED}]
    for reading in readings:
        try:
            return contract.dump_output(contract.validate(reading, contract.load(given)))
        except (ValueError, KeyError):
            continue
    return answer
