"""What the commands share: opening the workspace with its modules, JSON, tables, progress."""

from __future__ import annotations

import getpass
import importlib
import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..bindings import Certificate
from ..errors import ConfigError, HeteroError, KeyAccessError, did_you_mean
from ..slots import App, registry
from ..slots.recalled import CacheShown
from ..spans import SealedVault

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def say_error(sentence: str) -> None:
    """Print one sentence on standard error."""
    err.print(f"hetero: {sentence}", style="red", markup=False, soft_wrap=True)


def plain(value: Any) -> Any:
    """Return a value as JSON holds it; what JSON cannot hold, such as bytes that are no text, as Python writes it."""
    try:
        return to_jsonable_python(value)
    except ValueError:
        return repr(value)


def print_json(value: Any) -> None:
    """Print JSON on standard output, as it is."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def open_app(*, modules: bool = True) -> App:
    """Open the workspace and import the modules that it names.

    Raises:
        ConfigError: no workspace, a broken file, or a module that cannot be imported.
    """
    app = registry.app
    if isinstance(app.vault, SealedVault):
        app.vault.ask = ask_passphrase
    if modules:
        root = str(app.workspace.root)
        if root not in sys.path:
            sys.path.insert(0, root)
        for name in app.workspace.config.app.modules:
            try:
                importlib.import_module(name)
            except HeteroError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"The module {name!r} of [app] modules in {app.workspace.config_path} cannot be imported: {error!r}."
                ) from error
        known = {*registry.slots, *registry.code_agents}
        for slot in app.workspace.config.slots:
            if "." in slot and slot not in known:  # without one it may be an agent's, "slot:NAME", which nothing lists
                said = f'[slots."{slot}"] in hetero.toml is of no slot that the modules of [app] declare, so no command uses it{did_you_mean(slot, known)}.'
                err.print(said, markup=False, soft_wrap=True)
    return app


def ask_passphrase() -> str:
    """Ask for the passphrase of the vault's key on the terminal.

    Raises:
        KeyAccessError: there is no terminal.
    """
    if not sys.stdin.isatty():
        raise KeyAccessError("The vault's key has a passphrase and this is no terminal; set HETERO_PASSPHRASE.")
    return getpass.getpass("Passphrase of the vault's key: ")


@contextmanager
def told_unsafe() -> Generator[None]:
    """Let what is started in here run commands also where nothing can confine them, and say what that means on this machine."""
    from ..tools.sandbox import isolation, unsafe_allowed

    warning = (
        "Nothing here can confine a command: what models wrote is run with your rights, on your files and network."
        if (confined := isolation()) == "none"
        else f"--unsafe changes nothing here: commands are confined by {confined}."
    )
    err.print(f"hetero: {warning}", style="yellow", markup=False, soft_wrap=True)
    with unsafe_allowed():
        yield


def end() -> None:
    """Flush spans and stop engines, whatever happened."""
    if registry.opened is not None:
        registry.opened.close()


@contextmanager
def step_progress() -> Generator[Callable[[str, int, int], None]]:
    """A progress bar with an estimate, one line for each step; called with (step, done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with _shown_when_used(Progress(*columns, console=err)) as bar:
        tasks: dict[str, Any] = {}

        def report(step: str, done: int, total: int) -> None:
            bar.start()
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=total)
            bar.update(tasks[step], completed=done, total=total)

        yield report


@contextmanager
def fetch_progress() -> Generator[Callable[[str, int], None]]:
    """A progress bar for downloads; called with (name, bytes so far)."""
    columns = (
        TextColumn("fetch {task.description}"),
        BarColumn(pulse_style="cyan"),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    with _shown_when_used(Progress(*columns, console=err)) as bar:
        tasks: dict[str, Any] = {}

        def report(name: str, size: int) -> None:
            bar.start()
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=None)
            bar.update(tasks[name], completed=size)

        yield report


@contextmanager
def _shown_when_used(bar: Progress) -> Generator[Progress]:
    """A bar that is started by its first report: one without a task would leave empty lines."""
    try:
        yield bar
    finally:
        if bar.tasks:
            bar.stop()


def certificate_text(certificate: Certificate) -> str:
    """Return what was shown for an error budget, and on what it stands."""
    c = certificate
    head = f"Error budget {c.error_budget:g}, with confidence {c.confidence:g}, against {c.against}: "
    if c.threshold is None:
        return f"{head}nothing is kept, every call goes down the chain: {c.missing}.{router_text(c)}"
    if c.by:
        parts = [
            f"{name}: nothing, {shown.missing}"
            if shown.threshold is None
            else f"{name}: {shown.kept} of {shown.calls} kept, {shown.wrong} of them wrong, so at most {shown.upper_bound:.3f} are"
            for name, shown in c.slices.items()
        ]
        head += f"shown for each value of {c.by} on its own, all of them together with that confidence ({'; '.join(parts)}). Together "
    asked = ""
    if c.samples > 1:
        asked = f", asked {c.samples} times a call and voted {'field by field' if c.by_field else 'as wholes'}"
        asked += " among answers that the checks let through" if c.verified else ""
    risk = f", of which {score_text(c.risk)} are wrong" if c.risk else ""
    return (
        f"{head}of {c.calls} calls {c.kept} were kept{asked} and {c.wrong} of them wrong, so at most {c.upper_bound:.3f} are. "
        f"Of the test part {score_text(c.share)} are kept{risk}. It holds for calls like those (exchangeable).{router_text(c)}"
    )


def cache_text(cache: CacheShown) -> str:
    """Return what a cache may answer by meaning, and why nothing, where that is so."""
    where = f"of the calls that {cache.after} passes on" if cache.after else "of all calls, with nobody before it"
    if cache.refused or cache.certificate is None:
        return f"Cache by meaning, {where}: it answers nothing, since {cache.refused}."
    least = "" if cache.likeness is None else f", from a likeness of {cache.likeness:.3f} on"
    return f"Cache by meaning, {where}{least}. {certificate_text(cache.certificate)}"


def router_text(certificate: Certificate) -> str:
    """Return for how many calls a router lets the specialist be asked, or why there is none; nothing where none was wanted."""
    if certificate.asked:
        return f" Its router lets it be asked for {score_text(certificate.asked)} of them."
    return f" It has no router: {certificate.unrouted}." if certificate.unrouted else ""


def score_text(score: Any) -> str:
    """Return a score with its interval and n."""
    return f"{score.score:.3f} [{score.low:.3f}, {score.high:.3f}] n={score.n}"
