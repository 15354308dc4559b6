"""What the roles of the company say to each other, and what models write for them.

What stands below a field is also what the model is told of it. A path that leads out of the project cannot stand in any message.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict


def inside(path: str) -> str:
    """Return the path of a file inside the project, as it is.

    Raises:
        ValueError: it is absolute, has `.` or `..` in it, or leads into git's own folder; the model is asked for another one.
    """
    parts = path.split("/")
    if {"", ".", ".."} & {*parts} or ".git" in path.lower().split("/") or "\\" in path or not path.isprintable():
        raise ValueError(f"{path!r} is not the path of a file inside the project; write one such as 'shop/basket.py'")
    return path


FilePath = Annotated[str, AfterValidator(inside)]


class Document(BaseModel):
    """What a model writes."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Requirement(BaseModel):
    """What the company is asked for."""

    text: str
    project: FilePath | None = None
    """The folder of a project to go on with, below the company's; a new one where None."""


class Wish(Document):
    """One thing that the program must do."""

    priority: Literal["P0", "P1", "P2"]
    """P0 must be there, P1 should, P2 may."""
    text: str


class PRD(Document):
    """A product requirements document."""

    goals: list[str]
    """At most three, each apart from the others."""
    user_stories: list[str]
    competitors: list[str]
    """Programs that do something like it, each with what it does well and badly."""
    requirements: list[Wish]
    unclear: list[str]
    """What the requirement leaves open."""


class Design(Document):
    """A system design."""

    approach: str
    """What is difficult, and how it is solved; what is used beside the standard library, if anything."""
    files: list[FilePath]
    """The files to write or to change, without tests."""
    class_diagram: str
    """Mermaid, classDiagram, with types."""
    call_flow: str
    """Mermaid, sequenceDiagram."""
    unclear: list[str]


class Step(Document):
    """What is to be done in one file."""

    file: FilePath
    what: str
    """Classes and functions with their types, what they do, what they use of other files."""


class Tasks(Document):
    """The work in its order."""

    packages: list[str]
    """From PyPI, as pip writes them."""
    steps: list[Step]
    """One for each file, a file after those that it uses."""
    api: str
    """OpenAPI 3, where there is a server; else empty."""
    shared: str
    """What all files agree on: names, formats, constants."""


class Change(Document):
    """What is to be done in code that is there."""

    steps: list[Step]
    """One for each file that changes, a file after those that it uses; nothing where all is as it should be."""


class Review(Document):
    """A reviewer's word."""

    comments: list[str]
    """What has to be changed, each in a sentence; nothing that is a matter of taste."""
    verdict: Literal["LGTM", "LBTM"]
    """LGTM (looks good to me): it goes in; LBTM (looks bad to me): it is rewritten."""


class Triage(Document):
    """What a requirement on existing code is."""

    reason: str
    kind: Literal["bug", "requirement"]
    """A bug: something that is there does not do what it should."""


class Related(Document):
    """Whether a requirement is about what an earlier document is about."""

    reason: str
    related: bool


class Summary(Document):
    """The code as a whole."""

    text: str
    todos: list[Step]
    """What is missing or wrong, by file."""


class Source(BaseModel):
    """A file and its text."""

    file: FilePath
    text: str


class Blueprint(BaseModel):
    """What was decided before code is written; each field is a file of its own in the project's `docs`."""

    requirement: str
    prd: PRD
    design: Design
    tasks: Tasks


class Request(BaseModel):
    """A requirement, and the project as it was found."""

    text: str
    project: FilePath
    files: list[str]
    earlier: list[Blueprint]
    """Of what was asked before, oldest first."""
    number: int
    """Of the blueprint that comes of it."""


class Existing(BaseModel):
    """Files that the blueprint names and that are there: their change is to be planned."""

    files: list[Source]


class Written(BaseModel):
    """All files of the plan, to be looked at as a whole."""

    files: list[Source]


class Task(BaseModel):
    """One file to write."""

    requirement: str
    file: FilePath
    what: str
    shared: str
    others: list[Source]
    """What is there of the plan's other files."""
    old: str
    """The file as it is; empty where it is new."""


class Draft(BaseModel):
    """A file as the engineer wrote it."""

    task: Task
    text: str
    rewrites: int = 0


class Rejected(BaseModel):
    """A draft that is to be rewritten."""

    draft: Draft
    comments: list[str]


class Patch(BaseModel):
    """A file that goes into the project."""

    file: FilePath
    text: str
    open: list[str] = []
    """What the reviewer still says against it, after the last rewrite that there may be."""


class Untested(BaseModel):
    """A file that needs a test."""

    requirement: str
    source: Source
    test: FilePath
    """The test's path; the working folder is the project."""
    old: str
    """The test as it is; empty where it is new."""


class Build(BaseModel):
    """The project with all files and tests in it."""

    files: list[FilePath]
    """The plan's."""
    mended: int
    """Rounds of debugging up to here."""


class Failed(BaseModel):
    """A test that does not pass."""

    test: Source
    files: list[Source]
    """Those in which the cause may be."""
    output: str
    """What the test run printed."""


class Bug(BaseModel):
    """A file that makes a test fail, for the engineer."""

    source: Source
    test: Source
    output: str


class Delivery(BaseModel):
    """What the company made."""

    path: str
    """The project's folder, a git repository."""
    files: list[str]
    """Those of the plan, and their tests."""
    passed: bool
    """Whether all tests of the project pass."""
    failing: list[str]
    """Test files that do not."""
    mended: int
    """Rounds of debugging."""
    open: list[str]
    """What stayed open: questions, objections of the reviewer, failing tests."""
