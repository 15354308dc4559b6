"""Product manager: says what is wanted, or that it is a bug of what is there."""

from __future__ import annotations

import asyncio

from hetero_agents import slot

from .messages import PRD, Blueprint, Related, Request, Triage


@slot
async def issue_kind(requirement: str, files: list[str]) -> Triage:
    """Say whether this, asked for on a project with these files, is a bug or a new requirement."""
    ...


@slot
async def is_related(requirement: str, prd: PRD) -> Related:
    """Say whether the requirement extends or changes what the product requirements document describes."""
    ...


@slot
async def write_prd(requirement: str, files: list[str], earlier: list[PRD]) -> PRD:
    """Write the product requirements document for the requirement, in its language.

    Ask of the program what the requirement asks, and no more. `files` are there already; `earlier` documents go on
    holding: where there are some, write one that holds what still counts of them and what is new.
    """
    ...


@issue_kind.compare
def same_kind(found: Triage, truth: Triage) -> bool:
    """The reason is said first so that the kind is thought about; what is done depends on the kind alone."""
    return found.kind == truth.kind


@is_related.compare
def same_relation(found: Related, truth: Related) -> bool:
    """As with `same_kind`."""
    return found.related == truth.related


async def product_manager(request: Request) -> PRD | Blueprint:
    """Write the document; a bug needs none: the last blueprint counts, with the bug as its requirement."""
    if request.files and request.earlier and (await issue_kind(request.text, request.files)).kind == "bug":
        return request.earlier[-1].model_copy(update={"requirement": request.text})
    known: list[PRD] = []
    for blueprint in request.earlier:
        if blueprint.prd not in known:
            known.append(blueprint.prd)
    asked = await asyncio.gather(*(is_related(request.text, prd) for prd in known))
    earlier = [prd for prd, said in zip(known, asked, strict=True) if said.related]
    return await write_prd(request.text, request.files, earlier)
