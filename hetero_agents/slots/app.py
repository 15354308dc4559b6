"""What the calls of one process run in: workspace, vault, tracing, engines and state."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..bindings import Binding, Config, ModelConfig, Specialist, SpecialistId, Workspace
from ..bindings.config import Tier
from ..contract import Sha256
from ..engines import Engines
from ..errors import EngineError, HeteroError, MissingExtraError
from ..routing import AnswerCache, Aside, Link, State, Terms
from ..spans import Keep, Redact, SealedVault, SpanRecord, Tracing, Vault, without_content
from ..spans.redaction import RedactionSettings, RedactionWorker, redaction_is_installed

if TYPE_CHECKING:
    from ..routing.runs import RunStore

_log = logging.getLogger("hetero_agents")

COMPARED = 20_000
"""Questions of which a process knows that they were compared."""


@dataclass
class App:
    """A workspace with everything that a call needs."""

    workspace: Workspace
    vault: Vault
    tracing: Tracing
    engines: Engines
    state: State
    cache: AnswerCache
    aside: Aside
    redaction: RedactionWorker | None = None
    not_embedding: bool = False
    """Embeddings could not be had once, so nothing is compared by meaning any more."""
    _compared: dict[str, None] = field(default_factory=dict[str, None], repr=False)

    def first_time(self, key: str) -> bool:
        """Return whether this process has not compared a question yet; it remembers the last `COMPARED`, by hash, in memory alone."""
        if key in self._compared:
            return False
        self._compared[key] = None
        if len(self._compared) > COMPARED:
            del self._compared[next(iter(self._compared))]
        return True

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a unit vector for each text of a call; what cannot be had once is not tried again at each call, and one sentence says so.

        Raises:
            EngineError, MissingExtraError: there are no embeddings.
        """
        if self.not_embedding:
            raise EngineError("Embeddings could not be had before in this process.")
        try:
            return await self.engines.embed(texts)
        except (HeteroError, OSError) as error:
            if not self.not_embedding:
                self.not_embedding = True
                _log.warning("Nothing is answered or routed by meaning: %s", error)
            raise

    @classmethod
    def open(cls, start: Path | None = None) -> App:
        """Open the workspace of the nearest `hetero.toml`, upwards from a folder (the working directory).

        Where nobody handles SIGTERM it ends the process as `sys.exit` does, so that spans are flushed.

        Raises:
            ConfigError: there is none, or it is broken.
        """
        app = cls.of(Workspace.find(start))
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _terminate)
        return app

    @classmethod
    def of(cls, workspace: Workspace, vault: Vault | None = None) -> App:
        """Open a workspace, with a vault of its own or another."""
        assert workspace.config  # a broken file is said now, not at the first call
        folder = workspace.state_dir
        if vault is None:
            with contextlib.suppress(OSError):  # read-only: calls work, and each lost span is said by the exporter
                workspace.ensure_state_dir()
        config = workspace.config
        keep = Keep(config.vault.keep_days, config.vault.keep_mb)
        vault = vault or SealedVault(folder / "vault", keep=keep)
        passing = secrets.token_bytes(32)  # for a vault that ends with the process
        redact = _redact(config, vault, passing)
        tracing = Tracing(
            vault,
            redact=redact,
            otlp_content=config.privacy.otlp_content,
            queue=config.vault.queue,
            block=config.vault.when_full == "block",
        )
        worker = redact if isinstance(redact, RedactionWorker) else None
        engines, state = Engines(workspace.root), State(folder / "state.db")
        cache = AnswerCache(folder / "cache.db", vault.agent_key if isinstance(vault, SealedVault) else lambda: passing)
        app = cls(workspace, vault, tracing, engines, state, cache, Aside(), worker)
        atexit.register(app.close)
        return app

    @cached_property
    def runs(self) -> RunStore:
        """What durable runs have done, opened at its first use.

        Raises:
            MissingExtraError: DBOS is not installed.
        """
        try:
            from ..routing.runs import RunStore
        except ModuleNotFoundError as error:
            raise MissingExtraError("A run that resumes", "durable") from error
        key = self.vault.agent_key() if isinstance(self.vault, SealedVault) else secrets.token_bytes(32)
        return RunStore(self.workspace.state_dir / "runs.db", key, postgres=os.environ.get("HETERO_RUNS"))

    def chain(self, binding: Binding, *, canary: bool = False) -> list[Link]:
        """Return a binding's models as links of a chain.

        Args:
            binding: what fills a slot.
            canary: the specialist that is on its way comes first.
        """
        links: list[Link] = []
        if canary and binding.coming and binding.coming_entry:
            links.append(self.link(binding.coming, binding.coming_entry, binding))
        # What is shown of a specialist's answers is shown on all calls, not on those that another one was not sure of.
        alone = not links or binding.entry.error_budget is None
        if binding.specialist_id and binding.specialist and alone:
            links.append(self.link(binding.specialist_id, binding.specialist, binding))
        for label, config in binding.models:
            links.append(
                Link(
                    label,
                    lambda config=config: self.engines.endpoint(config, binding.slot),
                    trainable=config.train_on_outputs,
                    timeout=binding.entry.timeout,
                    terms=Terms.of(label, config, binding.entry.timeout),
                )
            )
        return links

    def link(self, name: SpecialistId, entry: Specialist, binding: Binding) -> Link:
        """Return a specialist of a slot as a link of its chain."""
        models = self.workspace.config.models.values()
        base = next((model for model in models if model.model == entry.base), ModelConfig(model=entry.base))
        return Link(
            name,
            lambda: self.engines.specialist(name, entry, base),
            specialist=name,
            timeout=binding.entry.timeout,
            certificate=entry.certificate if binding.entry.error_budget is not None else None,
            terms=Terms.of(name, base, binding.entry.timeout),
            embed=self.embed,
        )

    def binding(self, slot: str, tier: Tier, contract: Sha256 | None, checks: Sha256 | None = None) -> Binding:
        """Return what fills a slot now."""
        return self.workspace.binding(slot, tier, contract, checks)

    def close(self) -> None:
        """Flush the spans and stop every server."""
        atexit.unregister(self.close)
        self.aside.close()
        if "runs" in self.__dict__:
            self.runs.close()
        self.tracing.close()
        if self.redaction:
            self.redaction.close()
        self.vault.close()
        self.engines.close()
        self.state.close()
        self.cache.close()


def _terminate(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _redact(config: Config, vault: Vault, passing: bytes) -> Redact | None:
    """Return what spans pass before they are stored, as `[privacy]` says."""
    privacy = config.privacy
    if privacy.content == "raw":
        return None
    settings = RedactionSettings(
        languages=privacy.languages,
        rules=privacy.rules,
        unredacted={slot: entry.unredacted for slot, entry in config.slots.items() if entry.unredacted},
        link_subjects=privacy.link_subjects,
    )
    if privacy.content == "redacted" and redaction_is_installed():
        own = vault.surrogate_key if isinstance(vault, SealedVault) else lambda: passing
        return RedactionWorker(settings, own)
    return _WithoutContent(asked_for=privacy.content == "none")


@dataclass
class _WithoutContent:
    """Leaves the content of every span out; says so once where nobody asked for that."""

    asked_for: bool

    def __call__(self, records: Sequence[SpanRecord], *, strict: bool = False) -> list[SpanRecord]:
        if not self.asked_for:
            sentence = (
                "Messages and answers are not stored, so nothing can be distilled: redaction needs "
                'pip install \'hetero_agents[privacy]\'; or say [privacy] content = "none" or "raw" in hetero.toml.'
            )
            if strict:
                raise HeteroError(sentence)
            self.asked_for = True
            _log.warning(sentence)
        return [without_content(record) for record in records]
