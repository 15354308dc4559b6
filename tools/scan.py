"""Finds lines in files: the program that `search` runs in the sandbox; it reads what is wanted and prints matches as JSON.

It imports the standard library alone, since it runs in a bare interpreter.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

WRONG_PATTERN = 3
"""The exit code for a regular expression that is none."""

_PASSED_OVER = {"__pycache__", "node_modules"}
_LONGEST_LINE = 300


@dataclass(frozen=True)
class Wanted:
    """What to look for, and how much to look."""

    text: str
    files: str
    regex: bool
    ignore_case: bool
    max_matches: int
    max_file_bytes: int


def main() -> None:
    """Read what is wanted, print what is found."""
    wanted = Wanted(**json.loads(sys.stdin.read()))
    try:
        holds = _test(wanted)
    except re.error as error:
        print(error)
        sys.exit(WRONG_PATTERN)
    left = wanted.max_matches
    for path in _files(wanted):
        for number, line in enumerate(_lines(path), 1):
            if left and holds(line):
                print(json.dumps({"path": os.path.relpath(path), "line": number, "text": line[:_LONGEST_LINE]}))
                left -= 1
        if not left:
            return


def _test(wanted: Wanted) -> Callable[[str], object]:
    flags = re.IGNORECASE if wanted.ignore_case else 0
    return re.compile(wanted.text if wanted.regex else re.escape(wanted.text), flags).search


def _files(wanted: Wanted) -> Iterator[str]:
    for folder, folders, names in os.walk("."):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in _PASSED_OVER)
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name[0] == "." or not fnmatch.fnmatch(name, wanted.files):
                continue
            if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) <= wanted.max_file_bytes:
                yield path


def _lines(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return []
    return [] if b"\0" in content else content.decode("utf-8", "replace").splitlines()


if __name__ == "__main__":
    main()
