"""Tester: writes a test for each file, and says of a test that fails whether code or test is wrong."""

from __future__ import annotations

from typing import Annotated

from hetero_agents import OneOf, slot

from .engineer import parses
from .messages import Bug, Failed, Patch, Source, Untested


@slot
async def write_test(untested: Untested) -> str:
    """Write the tests of the file for pytest: what the requirement asks of it, at the edges too. Answer with the test file's text alone.

    The working folder is the project's root, so `shop/basket.py` is imported as `shop.basket`. No network, no waiting,
    files only below `tmp_path`. Where `old` is not empty, keep what still holds of it.
    """
    ...


@slot
async def blame(names: list[str], files: list[Source], test: Source, output: str) -> Annotated[str, OneOf("names")]:
    """Name the file that has to be changed so that the test passes: the test itself where it asks for something wrong."""
    ...


@slot
async def mend_test(test: Source, files: list[Source], output: str) -> str:
    """Mend the test: it asks for something wrong. Keep what it rightly asks for. Answer with the file's whole text."""
    ...


write_test.check(lambda text, untested: parses(text, untested.test))
mend_test.check(lambda text, test, files, output: parses(text, test.file))


async def tester(work: Untested | Failed) -> Patch | Bug:
    """Write a test; of one that fails decide the cause, mend the test, or send the bug to the engineer with what the run printed."""
    if isinstance(work, Untested):
        return Patch(file=work.test, text=await write_test(work))
    sources = {source.file: source for source in work.files}
    wrong = await blame([*sources, work.test.file], work.files, work.test, work.output)
    if wrong == work.test.file:
        return Patch(file=wrong, text=await mend_test(work.test, work.files, work.output))
    return Bug(source=sources[wrong], test=work.test, output=work.output)
