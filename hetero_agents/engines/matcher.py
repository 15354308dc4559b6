"""The `local:` engine for a model of embeddings: it chooses among a call's answers, where they are few and known, and writes nothing.

How well an answer fits is how near its words are to the call's, and, once `hetero distill` has fitted it to a slot, what a linear classifier on the
call's embedding says of the answers that were given before. An answer that nobody gave yet can so be chosen too.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import mul
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings

from ..errors import EngineError, IntegrityError

KEPT_TEXTS = 4096
"""Embeddings of answers that are kept: they recur from call to call."""

LIKENESS_UNTAUGHT = 20.0
"""How steep a likeness counts before anything was learnt; it decides how sure an answer seems, not which it is."""


class Choice(BaseModel):
    """What a matcher is sent of a call."""

    model_config = ConfigDict(extra="forbid")

    asked: str
    """The call's values, without what says what may be answered."""
    answers: dict[str, str]
    """The answers that the call can have, as JSON text, each with its description; empty where it has none."""


class Matcher(BaseModel):
    """What is learnt for a slot; an answer's weight is e^score over the sum of them all (conditional logit, McFadden 1974)."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    likeness: float = LIKENESS_UNTAUGHT
    """Weight of the cosine between the call and the answer's words."""
    learnt: float = 0.0
    """Weight of what the linear classifier says of an answer that was given before."""
    given: float = 0.0
    """What it counts to have been given before."""
    classifier: dict[str, list[float]] = {}
    """By answer, as JSON text: the classifier's intercept, then a weight for each number of the call's embedding."""

    def scores(self, asked: Sequence[float], answers: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Return how well each answer fits.

        Args:
            asked: the call's embedding, a unit vector.
            answers: by JSON text, the embedding of each answer's words.
        """
        found: dict[str, float] = {}
        for answer, vector in answers.items():
            found[answer] = self.likeness * sum(map(mul, asked, vector))
            if known := self.classifier.get(answer):
                found[answer] += self.given + self.learnt * (known[0] + sum(map(mul, asked, known[1:])))
        return found


def read_matcher(path: Path) -> Matcher:
    """Return the matcher of a file.

    Raises:
        IntegrityError: it is none.
    """
    try:
        return Matcher.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IntegrityError(f"{path} is no matcher; distill it again.") from error


def spoken(answer: str, description: str) -> str:
    """Return an answer's words: a name in code is taken apart (`get_weather`, `getWeather`), and its description follows.

    Args:
        answer: as JSON text.
        description: what it stands for; empty where nobody says it.
    """
    value = json.loads(answer)
    text = value if isinstance(value, str) else answer
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    words = re.sub(r"[\s_.\-/]+", " ", apart).strip().lower() or text
    return f"{words}: {description}" if description else words


class MatcherModel(Model):
    """A matcher as a pydantic-ai model; its one message is a `Choice` as JSON."""

    def __init__(
        self, name: str, embed: Callable[[Sequence[str]], Awaitable[list[list[float]]]], matcher: Matcher
    ) -> None:
        super().__init__(
            profile=ModelProfile(supports_json_schema_output=True, default_structured_output_mode="native")
        )
        self._name, self._embed, self._matcher = name, embed, matcher
        self._kept: OrderedDict[str, array[float]] = OrderedDict()  # a tenth and less of what lists of numbers take

    @property
    def model_name(self) -> str:
        """The base's name, or the specialist's id."""
        return self._name

    @property
    def system(self) -> str:
        """Who provides it, as GenAI spans say it."""
        return "hetero_agents"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Choose; how likely each answer is comes as one token's log-probabilities.

        Raises:
            EngineError: it is asked for something else than a choice, or there are no embeddings.
        """
        choice = self._choice(messages)
        words = {answer: spoken(answer, said) for answer, said in choice.answers.items()}
        # Taken before anybody else is let run, who may push them out.
        known = {text: self._kept[text] for text in words.values() if text in self._kept}
        missing = [text for text in dict.fromkeys(words.values()) if text not in known]
        asked, *vectors = await self._embed([choice.asked, *missing])
        known.update((text, array("f", vector)) for text, vector in zip(missing, vectors, strict=True))
        for text, vector in known.items():
            self._kept[text] = vector
            self._kept.move_to_end(text)
        while len(self._kept) > KEPT_TEXTS:
            self._kept.popitem(last=False)
        scores = self._matcher.scores(asked, {answer: known[text] for answer, text in words.items()})
        most = max(scores.values())
        total = most + math.log(sum(math.exp(score - most) for score in scores.values()))
        ranked = sorted(scores, key=lambda answer: -scores[answer])
        said = [{"token": answer, "logprob": scores[answer] - total} for answer in ranked]
        return ModelResponse(
            parts=[TextPart(ranked[0])],
            model_name=self._name,
            provider_name=self.system,
            provider_details={"logprobs": [{**said[0], "top_logprobs": said}]},
            finish_reason="stop",
        )

    def _choice(self, messages: Sequence[ModelMessage]) -> Choice:
        match messages:
            case [ModelRequest(parts=[UserPromptPart(content=str(text))])]:
                try:
                    choice = Choice.model_validate_json(text)
                except ValidationError:
                    pass
                else:
                    if choice.answers:
                        return choice
            case _:
                pass
        raise EngineError(
            f"{self._name} is a model of embeddings: it chooses among the answers of a slot (OneOf, enums, bool), and writes nothing; bind another model here."
        )
