"""Every test leaves the registry as it found it, and sees none of the machine's settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import pytest
from pydantic_ai.models import Model

from hetero_agents.bindings import Workspace
from hetero_agents.cli import main
from hetero_agents.slots import App, registry
from hetero_agents.testing import MemoryVault

from .support import TOML, Answers, Done, FakeEngines, Hetero, write_workspace

OpenApp = Callable[..., App]


@pytest.fixture(autouse=True, scope="session")
def keys_of_the_tests_own(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """Private keys that a test's vault makes go here, not to the account's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("keys")
        patch.setenv("HETERO_KEYS", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def same_registry_afterwards() -> Generator[None]:
    slots, agents, app = dict(registry.slots), dict(registry.code_agents), registry.opened
    yield
    if (opened := registry.opened) is not None and opened is not app:
        opened.close()
    registry.use(app)
    registry.slots, registry.code_agents = slots, agents


@pytest.fixture(autouse=True)
def no_telemetry_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("OTEL_", "HETERO_")) and name != "HETERO_KEYS":
            monkeypatch.delenv(name)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace with the models `big` and `small`."""
    return Workspace(write_workspace(tmp_path))


@pytest.fixture
def open_app(tmp_path: Path) -> Generator[OpenApp]:
    """Opens a workspace in which models answer from lists, and makes it the process's app."""
    opened: list[App] = []

    def open_(models: Mapping[str, Answers | Model | Exception], toml: str = TOML) -> App:
        app = App.of(Workspace(write_workspace(tmp_path, toml)), MemoryVault())
        app.engines = FakeEngines(tmp_path, models=models)
        opened.append(app)
        registry.use(app)
        return app

    yield open_
    for app in opened:
        app.close()


@pytest.fixture
def hetero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Hetero:
    """Runs a command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, "clidesk", sys)  # so that its end takes the module away again
    monkeypatch.delitem(sys.modules, "clidesk")

    def run(*arguments: str) -> Done:
        registry.use(None)
        monkeypatch.setattr(sys, "argv", ["hetero", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        registry.use(None)
        printed = capsys.readouterr()
        return Done(ended.value.code, printed.out, printed.err)

    return run
