"""The office: roles that need no model. They open the project, put files into it, say what is next, and run the tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hetero_agents import Memory, UserError, effect, workflow_outcome

from .messages import (
    PRD,
    Blueprint,
    Build,
    Change,
    Delivery,
    Design,
    Existing,
    Failed,
    Patch,
    Request,
    Requirement,
    Source,
    Step,
    Task,
    Untested,
    Written,
)
from .project import Project, new_folder

MENDS = 5
"""Rounds of debugging; what fails after them is said in the delivery."""


@dataclass(frozen=True)
class Office:
    """What the company decides without a model."""

    root: Path
    summaries: int
    unsafe: bool

    async def opener(self, requirement: Requirement) -> Request:
        """Open the project that is to go on, or a new one."""
        name = requirement.project
        if name is None:

            async def begin(key: str) -> str:
                return new_folder(self.root, requirement.text, key)

            name = await effect("new project", requirement.text, begin, safe=True)
        if not (self.root / name).is_dir():
            raise UserError(f"There is no project {name!r} in {self.root}; leave `project` out to begin a new one.")
        project = self._project(name)
        await project.open()
        return Request(
            text=requirement.text,
            project=name,
            files=project.files(),
            earlier=project.blueprints(),
            number=project.next_number(),
        )

    async def integrator(
        self, done: list[Blueprint | Change | Patch], request: Request, blueprint: Blueprint, memory: Memory
    ) -> Existing | Task | Written | list[Untested] | Build:
        """Put into the project what is done, and say what is next: a file to write, tests to write, or a run of the tests."""
        project = self._project(request.project)
        if blueprint in done:
            await project.keep_blueprint(request.number, blueprint)
            if old := project.read(*_names(blueprint.tasks.steps)):
                return Existing(files=old)
        if patches := {item.file: item.text for item in done if isinstance(item, Patch)}:
            await project.keep(patches, f"Write {', '.join(patches)}")
        steps, position = _plan(memory)
        sources = project.read(*_planned(memory))
        if position < len(steps):
            return _task(steps[position], blueprint, sources)
        if memory.latest(Untested) is None:
            if steps and len(memory.of(Written)) < self.summaries:
                return Written(files=sources)
            if untested := [_untested(source, request, project) for source in sources if _has_test(source.file)]:
                return untested
        return Build(files=_names(sources), mended=len(memory.of(Build)))

    async def runner(self, build: Build, request: Request, memory: Memory) -> list[Failed] | Delivery:
        """Run the tests: those that fail go to the tester, a few times at most; then it is delivered as it is.

        Whether they pass is how the run ended: calls of runs that failed are not trained on.
        """
        project = self._project(request.project)
        failing = await project.failing()
        if failing and build.mended < MENDS:
            files = [source for source in project.read(*build.files) if source.file.endswith(".py")]
            return [
                Failed(test=test, files=[file for file in files if file.file != test.file], output=failing[test.file])
                for test in project.read(*failing)
            ]
        workflow_outcome(ok=not failing)
        reviewed = {m.content.file: m.content.open for m in memory.all() if m.role == "reviewer" and m.kind is Patch}
        documents = [document for document in (memory.latest(PRD), memory.latest(Design)) if document]
        return Delivery(
            path=str(project.root),
            files=sorted({patch.file for patch in memory.of(Patch)}),
            passed=not failing,
            failing=list(failing),
            mended=build.mended,
            open=[
                *(question for document in documents for question in document.unclear),
                *(f"{file}: {comment}" for file, comments in reviewed.items() for comment in comments),
                *(f"{test} does not pass." for test in failing),
            ],
        )

    def _project(self, name: str) -> Project:
        return Project(self.root / name, self.unsafe)


def _plan(memory: Memory) -> tuple[list[Step], int]:
    """The newest plan's steps, and how many of them are done: each ends in a patch."""
    plan = next(m for m in reversed(memory.all()) if isinstance(m.content, Blueprint | Change))
    done = sum(m.kind is Patch for m in memory.all() if m.id > plan.id)
    return (plan.content.tasks if isinstance(plan.content, Blueprint) else plan.content).steps, done


def _planned(memory: Memory) -> list[str]:
    """The files of all plans."""
    steps = [
        *(s for b in memory.of(Blueprint) for s in b.tasks.steps),
        *(s for c in memory.of(Change) for s in c.steps),
    ]
    return list(dict.fromkeys(step.file for step in steps))


def _names(of: list[Step] | list[Source]) -> list[str]:
    return [item.file for item in of]


def _task(step: Step, blueprint: Blueprint, sources: list[Source]) -> Task:
    tasks = blueprint.tasks
    return Task(
        requirement=blueprint.requirement,
        file=step.file,
        what=step.what,
        shared="\n\n".join(part for part in (tasks.shared, tasks.api) if part),
        others=[source for source in sources if source.file != step.file],
        old=next((source.text for source in sources if source.file == step.file), ""),
    )


def _has_test(file: str) -> bool:
    return file.endswith(".py") and not PurePosixPath(file).name.startswith(("test_", "__", "conftest"))


def _untested(source: Source, request: Request, project: Project) -> Untested:
    test = f"tests/test_{source.file.removesuffix('.py').replace('/', '__')}.py"
    old = "".join(found.text for found in project.read(test))
    return Untested(requirement=request.text, source=source, test=test, old=old)
