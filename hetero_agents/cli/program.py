"""The commands, put together."""

from __future__ import annotations

import typer
import typer.main

from . import demo, distill, intake, iterate, keys, models, privacy, relabel, report, runs, specialists, workspace

app = typer.Typer(
    name="hetero",
    help="Agents that use several language models, each where it fits.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    workspace.init,
    runs.run,
    runs.traces,
    runs.feedback,
    intake.import_,
    intake.collect,
    relabel.relabel,
    distill.distill,
    specialists.slots,
    report.report,
    specialists.promote,
    iterate.iterate,
    specialists.rollback,
    specialists.lineage,
    privacy.forget,
    workspace.doctor,
    demo.demo,
):
    app.command(command.__name__.rstrip("_"))(command)

app.add_typer(keys.keys, name="keys")
app.add_typer(models.models, name="models")

program = typer.main.get_command(app)
