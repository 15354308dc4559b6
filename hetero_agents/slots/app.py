"""What the calls of one process run in: workspace, vault, tracing, engines and state."""

from __future__ import annotations

import atexit
import contextlib
from dataclasses import dataclass
from pathlib import Path

from ..bindings import Binding, ModelConfig, Workspace
from ..bindings.config import Tier
from ..contract import Sha256
from ..engines import Engines
from ..routing import Link, State
from ..spans import SealedVault, Tracing, Vault


@dataclass
class App:
    """A workspace with everything that a call needs."""

    workspace: Workspace
    vault: Vault
    tracing: Tracing
    engines: Engines
    state: State

    @classmethod
    def open(cls, start: Path | None = None) -> App:
        """Open the workspace of the nearest `hetero.toml`, upwards from a folder (the working directory).

        Raises:
            ConfigError: there is none, or it is broken.
        """
        return cls.of(Workspace.find(start))

    @classmethod
    def of(cls, workspace: Workspace, vault: Vault | None = None) -> App:
        """Open a workspace, with a vault of its own or another."""
        assert workspace.config  # a broken file is said now, not at the first call
        folder = workspace.state_dir
        if vault is None:
            with contextlib.suppress(OSError):  # read-only: calls work, and each lost span is said by the exporter
                workspace.ensure_state_dir()
        vault = vault or SealedVault(folder / "vault")
        app = cls(workspace, vault, Tracing(vault), Engines(workspace.root), State(folder / "state.db"))
        atexit.register(app.close)
        return app

    def chain(self, binding: Binding) -> list[Link]:
        """Return a binding's models as links of a chain."""
        links: list[Link] = []
        if binding.specialist_id and binding.specialist:
            name, entry = binding.specialist_id, binding.specialist
            base = next(
                (m for m in self.workspace.config.models.values() if m.model == entry.base),
                ModelConfig(model=entry.base),
            )
            links.append(
                Link(name, lambda: self.engines.specialist(name, entry, base), specialist=name, timeout=binding.timeout)
            )
        for label, config in binding.models:
            links.append(
                Link(
                    label,
                    lambda config=config: self.engines.endpoint(config, binding.slot),
                    trainable=config.train_on_outputs,
                    timeout=binding.timeout,
                )
            )
        return links

    def binding(self, slot: str, tier: Tier, contract: Sha256 | None) -> Binding:
        """Return what fills a slot now."""
        return self.workspace.binding(slot, tier, contract)

    def close(self) -> None:
        """Flush the spans and stop every server."""
        atexit.unregister(self.close)
        self.tracing.close()
        self.vault.close()
        self.engines.close()
        self.state.close()
