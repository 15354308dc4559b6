"""Attribute names of our spans. `gen_ai.*` is OpenTelemetry's (GenAI conventions v1.41), `hetero.*` ours."""

from __future__ import annotations

from typing import Final


class Names:
    """Attribute and event names, in one place."""

    OPERATION: Final = "gen_ai.operation.name"
    WORKFLOW: Final = "gen_ai.workflow.name"
    AGENT: Final = "gen_ai.agent.name"
    REQUEST_MODEL: Final = "gen_ai.request.model"
    INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
    OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
    INPUT_MESSAGES: Final = "gen_ai.input.messages"
    OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
    EVALUATION: Final = "gen_ai.evaluation.result"
    EVALUATION_NAME: Final = "gen_ai.evaluation.name"
    EVALUATION_SCORE: Final = "gen_ai.evaluation.score.value"
    EVALUATION_LABEL: Final = "gen_ai.evaluation.score.label"

    SLOT: Final = "hetero.slot"
    """The slot's id."""
    CONTRACT: Final = "hetero.contract"
    """SHA-256 of the contract that was called."""
    ONE_OF: Final = "hetero.one_of"
    """The parameter that `OneOf` names, whose texts, or keys, are the call's options."""
    BINDING: Final = "hetero.binding"
    """Name in `[models]`, or the specialist's id, of the model that answered."""
    DECISION: Final = "hetero.route.decision"
    """`kept`: the first model of the chain answered; `escalated`: a later one did; `cached`: none was asked.

    `shadow`: asked beside the call above, to compare; the answer was never returned.
    """
    REASON: Final = "hetero.route.reason"
    """Why earlier models did not answer."""
    CONFIDENCE: Final = "hetero.confidence"
    """Probability that the answer is right, where its specialist has a certificate; else the product of its token probabilities."""
    SPECIALIST: Final = "hetero.specialist"
    """The specialist's id, where one answered."""
    CACHE: Final = "hetero.cache"
    """What the cache by meaning stands behind, where it answered: a specialist's id, or the slot's."""
    OUTCOME: Final = "hetero.outcome"
    """`ok` or `failed`, on the run's root span; absent where nobody said and nothing raised."""
    ROUND: Final = "hetero.crew.round"
    """The round of a crew's run, from 1."""
    TAKES: Final = "hetero.crew.takes"
    """Types and ids of the messages that a role took, for example `Design#3`; links lead to the spans that published them."""
    GIVES: Final = "hetero.crew.gives"
    """Types of the messages that a role published."""
    HCI: Final = "hetero.hci"
    """True on spans of calls that talk to a human: never trained on unless the user opts in."""
    SUBJECT: Final = "hetero.subject"
    """Whose data the run holds, as named by `subject()`."""
    INPUT: Final = "hetero.input"
    """Content: the call's arguments as JSON."""
    OUTPUT: Final = "hetero.output"
    """Content: the typed output as JSON."""
    TRAINABLE: Final = "hetero.train_on_outputs"
    """The answering model's terms allow training on its outputs, as the user said at that time."""
