"""The registry of slots and workflows: the only module-level state, and what hangs on it.

The app (workspace, vault, engines) is opened at the first call, from the working directory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract import SlotId
from ..errors import SlotDefinitionError, UnknownNameError
from .app import App

if TYPE_CHECKING:
    from .agency import CodeAgent
    from .slot import Slot


class Registry:
    """Slots and code agents by name, and the app that their calls run in."""

    def __init__(self) -> None:
        self.slots: dict[SlotId, Slot[..., Any]] = {}
        self.code_agents: dict[str, CodeAgent[..., Any]] = {}
        self._app: App | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def add_slot(self, slot: Slot[..., Any]) -> None:
        """Register a slot; the same id from the same file or notebook replaces, from another is an error."""
        before = self.slots.get(slot.id)
        if before is not None:
            _refuse_twin("slot", slot.id, before.function, slot.function)
        self.slots[slot.id] = slot

    def add_code_agent(self, agent: CodeAgent[..., Any]) -> None:
        """Register a code agent under the same rule."""
        before = self.code_agents.get(agent.id)
        if before is not None:
            _refuse_twin("code agent", agent.id, before.function, agent.function)
        self.code_agents[agent.id] = agent

    def slot(self, name: str) -> Slot[..., Any]:
        """Return a slot by its id.

        Raises:
            UnknownNameError: none of that id was declared.
        """
        if SlotId(name) not in self.slots:
            raise UnknownNameError("slot", name, self.slots, hint="list its module under [app] modules in hetero.toml")
        return self.slots[SlotId(name)]

    @property
    def app(self) -> App:
        """The app of this process, opened at its first use."""
        if self._app is None or self._pid != os.getpid():
            with self._lock:
                if self._app is None or self._pid != os.getpid():
                    self._app, self._pid = App.open(), os.getpid()
        return self._app

    @property
    def opened(self) -> App | None:
        """The app, if any call has opened it in this process."""
        return self._app if self._pid == os.getpid() else None

    def use(self, app: App | None) -> App | None:
        """Put another app in place and return the one before; None opens one again at the next call."""
        before, self._app, self._pid = self.opened, app, os.getpid()
        return before


registry = Registry()


def name_in_module(function: Callable[..., Any]) -> str:
    """Return `module.function`: the module's last part, for `__main__` the stem of its file, `main` without one (a notebook)."""
    module = function.__module__
    if module == "__main__":
        file = Path(function.__code__.co_filename)
        module = file.stem if file.exists() else "main"
    return f"{module.rpartition('.')[2]}.{function.__name__}"


def _refuse_twin(kind: str, name: str, before: Callable[..., Any], after: Callable[..., Any]) -> None:
    first, second = before.__code__.co_filename, after.__code__.co_filename
    # Each run of a notebook's cell is another file to Python.
    again = before.__module__ == after.__module__ == "__main__"
    if first != second and not again:
        raise SlotDefinitionError(
            f"The {kind} {name!r} is declared in {first} and again in {second}; give one of them another name with name=."
        )
