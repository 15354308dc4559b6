"""`hetero run`, `traces`, `feedback`."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import time
import typing
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor
from pydantic import TypeAdapter, ValidationError
from pydantic_ai import Agent
from pydantic_ai.exceptions import AgentRunError
from rich.table import Table
from rich.tree import Tree

from ..crew import Crew
from ..errors import CrewError, HeteroError, KeyAccessError, UnknownNameError, UserError
from ..routing import Budget, Ledger
from ..slots import App, registry
from ..spans import Feedback, Names, SpanRecord, Trace, otlp, read_traces, without_content
from ..spans.foreign import model_call_of
from ..spans.subjects import person_of
from . import common, crews
from .common import Json

AT_ONCE = 8
"""Runs of a batch that are in flight at a time."""


@dataclass(frozen=True)
class _Runnable:
    """A slot, a code agent or a pydantic-ai agent, callable with JSON arguments."""

    name: str
    hints: dict[str, Any]
    """Parameters by name; one `prompt: str` for an agent."""
    required: list[str]
    call: Callable[..., Coroutine[Any, Any, Any]]

    @cached_property
    def adapters(self) -> dict[str, TypeAdapter[Any]]:
        """What reads each parameter."""
        return {name: TypeAdapter(hint) for name, hint in self.hints.items()}


class _Roots(SpanProcessor):
    """Notes the traces that begin in this process."""

    def __init__(self) -> None:
        self.traces: list[str] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Note a span without a parent."""
        if span.parent is None and span.context is not None:
            self.traces.append(f"{span.context.trace_id:032x}")


def run(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="A slot, code agent, agent or crew of [app] modules, for example desk.triage; or the folder of a crew."
        ),
    ],
    value: Annotated[
        str | None, typer.Argument(help="Its arguments as a JSON object, or plain text for its only parameter.")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(help="A JSON-lines file, one run a line; answers come as JSON lines.")
    ] = None,
    money: Annotated[float | None, typer.Option(help="US dollars that the run may spend on model calls.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens that it may spend, input and output together.")] = None,
    calls: Annotated[int | None, typer.Option(help="Model calls that it may make.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Seconds after which no model is called, and a crew is cut off.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="A crew's run that was stopped or killed: its id, or last; what it has done is not done again."
        ),
    ] = None,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Run commands also where nothing on this machine can confine them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run something once, or once a line of a file; spans go to the vault."""
    if unsafe:
        context.with_resource(common.told_unsafe())
    budget = crews.budget_of(money, tokens, calls, seconds)
    if (Path(name) / "hetero.toml").is_file():
        registry.use(App.open(Path(name)))
    app = common.open_app()
    found = _find(name)
    if isinstance(found, Crew):
        if inputs is not None:
            raise UserError(f"{name} is a crew, which --inputs cannot run; give it one VALUE.")
        try:
            made = asyncio.run(crews.run_crew(found, value, budget, resume))
        except CrewError as error:
            if error.run is not None:
                crews.print_run(error.run, as_json=as_json)
            raise
        if not crews.print_run(made, as_json=as_json):
            raise typer.Exit(1)
        return
    if resume is not None:
        raise UserError(f"{name} is no crew; only a crew's run can be resumed.")
    runnable = found
    if inputs is not None:
        if value is not None:
            raise UserError("VALUE and --inputs do not go together: give one of them.")
        try:
            lines = [line for line in inputs.read_text("utf-8").split("\n") if line.strip()]
        except UnicodeDecodeError as error:
            raise UserError(f"{inputs} is no text in UTF-8.") from error
        with Ledger(budget or Budget()):
            failed = asyncio.run(_run_lines(runnable, lines))
        if failed:
            raise typer.Exit(1)
        return
    roots = _Roots()
    app.tracing.provider.add_span_processor(roots)
    if value is None and runnable.required:
        raise UserError(f"{name} needs a VALUE for {', '.join(runnable.required)}.")
    arguments = {} if value is None else _arguments(runnable, value)
    with Ledger(budget or Budget()):
        result = asyncio.run(runnable.call(**arguments))
    app.tracing.flush()
    trace = next(iter(roots.traces), None)
    if as_json:
        common.print_json({"output": common.plain(result), "trace": trace})
    else:
        common.out.print(
            common.plain(result)
            if isinstance(result, str)
            else json.dumps(common.plain(result), indent=2, ensure_ascii=False),
            markup=False,
            soft_wrap=True,
        )
        if trace:
            common.err.print(f"trace {trace}")


async def _run_lines(runnable: _Runnable, lines: list[str]) -> int:
    """Run the lines, print each answer as soon as those before it are there, return how many failed."""
    arguments = [_arguments(runnable, line) for line in lines]  # a wrong line is said before anything runs
    gate, failed, done = asyncio.Semaphore(AT_ONCE), 0, 0
    with common.step_progress() as progress:

        async def one(values: Mapping[str, Any]) -> dict[str, Any]:
            nonlocal failed, done
            async with gate:
                try:
                    answer: dict[str, Any] = {"output": common.plain(await runnable.call(**values))}
                except (HeteroError, AgentRunError) as error:
                    failed += 1
                    answer = {"error": str(error)}
            done += 1
            progress(f"run {runnable.name}", done, len(lines))
            return answer

        runs = [asyncio.create_task(one(values)) for values in arguments]
        try:
            for answer in runs:
                print(json.dumps(await answer, ensure_ascii=False), flush=True)
        finally:
            for answer in runs:
                answer.cancel()
            await asyncio.gather(*runs, return_exceptions=True)
    return failed


def _find(name: str) -> _Runnable | Crew:
    found: dict[str, _Runnable | Crew] = {}
    agents: dict[int, _Runnable] = {}
    for declared in (*registry.slots.values(), *registry.code_agents.values()):
        found[declared.id] = _Runnable(declared.id, _hints(declared.function), _required(declared.function), declared)
    for module_name in registry.app.workspace.config.app.modules:
        for key, value in vars(sys.modules[module_name]).items():
            if isinstance(value, Crew):
                found[value.id] = value
            if isinstance(value, Agent):
                agent: Agent[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]

                async def ask(prompt: str, agent: Agent[Any, Any] = agent) -> Any:
                    return (await agent.run(prompt)).output

                # One that other modules import is the same.
                entry = agents.setdefault(id(agent), _Runnable(key, {"prompt": str}, ["prompt"], ask))
                found[f"{module_name.rpartition('.')[2]}.{key}"] = entry
    if (Path(name) / "hetero.toml").is_file():
        known = {entry.id: entry for entry in found.values() if isinstance(entry, Crew)}
        if len(known) != 1:
            raise UserError(
                f"{name} holds {len(known)} crews ({', '.join(known) or 'none'}), not one; give a name instead of the folder."
            )
        return next(iter(known.values()))
    ends = [key for key in found if key == name or key.rpartition(".")[2] == name]
    if name not in found and len({id(found[key]) for key in ends}) > 1:
        raise UserError(f"{name} may be {' or '.join(sorted(ends))}; give the whole name.")
    if (runnable := found.get(name if name in found else next(iter(ends), ""))) is None:
        raise UnknownNameError(
            "slot, agent or crew", name, found, hint="list its module under [app] modules in hetero.toml"
        )
    return runnable


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(function, include_extras=True)
    return {name: hints.get(name, Any) for name in inspect.signature(function).parameters}


def _required(function: Callable[..., Any]) -> list[str]:
    return [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]


def _arguments(runnable: _Runnable, text: str) -> dict[str, Any]:
    names = ", ".join(runnable.hints)
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, dict):
        if len(runnable.hints) != 1:
            raise UserError(f"{runnable.name} takes {names or 'nothing'}: give a JSON object with these keys.")
        values = {next(iter(runnable.hints)): text if values is None or runnable.hints.get(names) is str else values}
    values = cast(dict[str, Any], values)
    for key in values:
        if key not in runnable.hints:
            raise UnknownNameError(f"parameter of {runnable.name}", key, runnable.hints)
    if missing := [key for key in runnable.required if key not in values]:
        raise UserError(f"{runnable.name} needs {', '.join(missing)} too: give a JSON object with {names}.")
    try:
        return {key: runnable.adapters[key].validate_python(value) for key, value in values.items()}
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(
            f"An argument of {runnable.name} is wrong: {first['msg']} (it is {first['input']!r})."
        ) from error


def traces(
    trace: Annotated[str | None, typer.Argument(help="A trace id, or its beginning: shows the run as a tree.")] = None,
    limit: Annotated[int, typer.Option("-n", min=1, help="How many, newest first.")] = 20,
    export: Annotated[
        str | None, typer.Option(help="otlp-json: write OTLP's JSON, which Jaeger's page opens by upload.")
    ] = None,
    content: Annotated[
        bool, typer.Option("--content", help="With --export: content too, as it is stored; else structure alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the latest runs, draw one, or write them as a file."""
    app = common.open_app(modules=False)
    if export is not None:
        if export != "otlp-json":
            raise UserError(f"There is no form {export!r} to export; there is otlp-json.")
        found = [_trace(app, trace)] if trace is not None else _latest(app, limit)
        spans = [span if content else without_content(span) for run in found for span in run.spans]
        if content and any(span.get("withheld") for span in spans):
            raise KeyAccessError("Your key does not open content; leave --content out, or ask a curator.")
        print(json.dumps(otlp.json_of(spans), ensure_ascii=False))
        return
    if content:
        raise UserError("--content belongs to --export.")
    if trace is not None:
        found = _trace(app, trace)
        if as_json:
            common.print_json({"trace": found.trace_id, "outcome": found.outcome, "spans": found.spans})
        else:
            for root in found.roots:
                common.out.print(_tree(found, root))
        return
    rows = [_row(found) for found in _latest(app, limit)]
    if as_json:
        common.print_json(rows)
        return
    table = Table()
    for column in ("trace", "when", "run", "outcome", "calls", "tokens in/out", "s"):
        table.add_column(column, no_wrap=column in ("trace", "when"))
    for row in rows:
        when = datetime.fromtimestamp(row["start"] / 1e9).strftime("%m-%d %H:%M:%S")
        tokens = f"{row['input_tokens']}/{row['output_tokens']}"
        run_name = row["name"].removeprefix("invoke_workflow ").removeprefix("invoke_agent ")
        table.add_row(
            row["trace"][:8], when, run_name, row["outcome"], str(row["calls"]), tokens, f"{row['seconds']:.2f}"
        )
    common.out.print(table)


def _latest(app: App, limit: int) -> list[Trace]:
    """The latest runs, newest first."""
    ids = app.vault.traces(limit)
    found = {trace.trace_id: trace for trace in read_traces(app.vault, traces=ids)}
    return [found[trace_id] for trace_id in ids if trace_id in found]


def _row(trace: Trace) -> dict[str, Any]:
    by_id = {span["span_id"]: span for span in trace.spans}
    chats = [call for span in trace.spans if (call := model_call_of(span, by_id)) is not None]
    root = trace.roots[0]
    return {
        "trace": trace.trace_id,
        "name": root["name"],
        "outcome": trace.outcome,
        "start": root["start"],
        "calls": len(chats),
        "input_tokens": sum(chat.input_tokens for chat in chats),
        "output_tokens": sum(chat.output_tokens for chat in chats),
        "seconds": (root["end"] - root["start"]) / 1e9,
    }


def _trace(app: App, beginning: str) -> Trace:
    ids = [trace_id for trace_id in app.vault.traces(1_000_000) if trace_id.startswith(beginning)]
    if len(ids) > 1:
        raise UserError(f"{beginning!r} is the beginning of {len(ids)} traces; give more of it.")
    if not ids:
        raise UnknownNameError("trace", beginning, (), hint="`hetero traces` lists them")
    return next(read_traces(app.vault, traces=ids))


def _tree(trace: Trace, span: SpanRecord) -> Tree:
    attributes = span["attributes"]
    parts = [span["name"], f"{(span['end'] - span['start']) / 1e6:.0f} ms"]
    for key, form in (
        (Names.TAKES, "took {}"),
        (Names.GIVES, "gave {}"),
        (Names.BINDING, "by {}"),
        (Names.DECISION, "{}"),
        (Names.REASON, "because {}"),
        (Names.INPUT_TOKENS, "{} in"),
        (Names.OUTPUT_TOKENS, "{} out"),
        (Names.OUTCOME, "outcome {}"),
    ):
        if key in attributes and not (key == Names.BINDING and Names.DECISION not in attributes):
            value = attributes[key]
            names = ", ".join(cast("list[str]", value)) or "nothing" if isinstance(value, list) else value
            parts.append(form.format(names))
    if span["parent_id"] is None and Names.OUTCOME not in attributes:
        parts.append(f"outcome {trace.outcome}")
    if span["status"] == "ERROR":
        parts.append(f"ERROR {span['message'] or ''}".strip())
    if Names.OUTPUT in attributes:
        parts.append(f"-> {attributes[Names.OUTPUT][:80]}")
    from rich.text import Text

    tree = Tree(Text("  ".join(parts), style="red" if span["status"] == "ERROR" else ""))
    for child in trace.children(span):
        tree.add(_tree(trace, child))
    return tree


def feedback(
    trace: Annotated[str, typer.Argument(help="The trace's id, or its beginning.")],
    span: Annotated[str | None, typer.Option(help="A span of it; the only slot's where there is one.")] = None,
    score: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="How well the run went; below 0.5 it counts as failed.")
    ] = None,
    answer: Annotated[
        str | None, typer.Option(help="The right answer of the span, as JSON: ground truth for distill.")
    ] = None,
) -> None:
    """Say afterwards how a run went, or what the right answer was."""
    if (score is None) == (answer is None):
        raise UserError("Give --score or --answer, one of them.")
    app = common.open_app()
    found = _trace(app, trace)
    value: Any = None
    if answer is not None:
        calls = [s for s in found.spans if Names.INPUT in s["attributes"] and (span is None or s["span_id"] == span)]
        if len(calls) != 1:
            known = ", ".join(
                f"{s['span_id']} ({s['attributes'][Names.SLOT]})" for s in found.spans if Names.INPUT in s["attributes"]
            )
            raise UserError(
                f"Say with --span which call of the run the answer is for: {known or 'it has no slot calls'}."
            )
        try:
            value = json.loads(answer)
        except json.JSONDecodeError as error:
            raise UserError(f"The answer is not JSON ({error}); text needs quotes: --answer '\"text\"'.") from error
        attributes, span = calls[0]["attributes"], calls[0]["span_id"]
        declared = registry.slot(attributes[Names.SLOT])
        if attributes[Names.CONTRACT] != declared.contract.sha256:
            raise UserError(
                f"The call was made under another contract of {declared.id!r} than the code has now, so an answer to it teaches nothing."
            )
        try:
            declared.contract.validate(value, declared.contract.load(json.loads(attributes[Names.INPUT])))
        except ValueError as error:
            raise UserError(f"The answer does not meet the contract of {declared.id!r}: {error}.") from error
    elif span is not None and all(s["span_id"] != span for s in found.spans):
        raise UnknownNameError("span", span, (s["span_id"] for s in found.spans))
    about = [s for s in found.spans if s["span_id"] == span] if span else found.spans
    person = next((named for s in about if (named := person_of(s))), None)
    app.vault.say(Feedback(found.trace_id, span, score, value, answer is not None, time.time_ns(), person))
    common.out.print(
        f"Noted for {found.trace_id}{f', span {span}' if span else ''} at {datetime.now(UTC):%H:%M:%S} UTC.",
        soft_wrap=True,
    )
