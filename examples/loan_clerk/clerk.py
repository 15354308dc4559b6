"""A clerk that reads loan agreements: who and what is named in a sentence.

`names_anyone`, the easier question, verifies `entities`: an empty list where somebody is named, or names
where nobody is, goes back once and then up the chain.
"""

from typing import Literal

from pydantic import BaseModel

from hetero_agents import ModelRetry, code_agent, slot


class Entity(BaseModel):
    """One named entity, as it stands in the sentence."""

    name: str
    type: Literal["PERSON", "ORGANIZATION", "LOCATION"]


@slot
async def names_anyone(sentence: str) -> bool:
    """Say whether the sentence names a person, an organization or a location."""
    ...


@slot
async def entities(sentence: str) -> list[Entity]:
    """List the persons, organizations and locations that the sentence names, in its order."""
    ...


@entities.check
async def agrees(found: list[Entity], sentence: str) -> None:
    """Hold the list against the easier question."""
    if bool(found) != await names_anyone(sentence):
        raise ModelRetry("The sentence names nobody." if found else "The sentence names somebody.")


@code_agent
async def read(sentence: str) -> list[Entity]:
    """Read one sentence."""
    return await entities(sentence)
