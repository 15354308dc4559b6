"""The folder with `hetero.toml`, and what it binds to each slot now."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from ..contract import Sha256, SlotId
from ..errors import ConfigError, UnknownNameError
from .config import Config, ModelConfig, SlotConfig, Tier
from .lock import Lock, SlotLock, Specialist, SpecialistId, update_lock

T = TypeVar("T")

CONFIG_NAME, LOCK_NAME, STATE_DIR = "hetero.toml", "hetero.lock", ".hetero"


@dataclass(frozen=True)
class Binding:
    """What fills a slot now: a specialist, if one is active and fits, then models in order."""

    slot: str
    specialist_id: SpecialistId | None
    specialist: Specialist | None
    models: tuple[tuple[str, ModelConfig], ...]
    """(name in `[models]`, its entry), best first."""
    entry: SlotConfig
    """What `hetero.toml` says of the slot."""
    refused: str | None = None
    """Why the active specialist is not used, where it is not."""


class Workspace:
    """`hetero.toml`, `hetero.lock` and `.hetero/` of one folder; both files are read again when they change."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.config_path = self.root / CONFIG_NAME
        self.lock_path = self.root / LOCK_NAME
        self.state_dir = self.root / STATE_DIR
        self._config = _Watched(self.config_path, Config.load)
        self._lock = _Watched(self.lock_path, Lock.load)
        self._warned: set[tuple[SpecialistId, Sha256]] = set()
        # A binding follows from the two files alone: made again when either was read again.
        self._bindings: dict[tuple[str, Tier, Sha256 | None], tuple[Config, Lock, Binding]] = {}

    @classmethod
    def find(cls, start: Path | None = None) -> Workspace:
        """Return the workspace of the nearest `hetero.toml`, upwards from a folder (the working directory).

        Raises:
            ConfigError: there is none.
        """
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / CONFIG_NAME).is_file():
                return cls(folder)
        raise ConfigError(f"There is no {CONFIG_NAME} in {here} or above it; `hetero init` writes one.")

    @property
    def config(self) -> Config:
        """`hetero.toml` as it is now."""
        return self._config.get()

    @property
    def lock(self) -> Lock:
        """`hetero.lock` as it is now."""
        return self._lock.get()

    def ensure_state_dir(self) -> Path:
        """Return `.hetero`, made with access for its owner only, and ignored by git."""
        if not self.state_dir.is_dir():
            self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore = self.state_dir / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
        return self.state_dir

    def slot_config(self, slot: str) -> SlotConfig:
        """Return `[slots."id"]`, empty where there is none."""
        return self.config.slots.get(slot, SlotConfig())

    def model(self, name: str) -> ModelConfig:
        """Return an entry of `[models]`.

        Raises:
            UnknownNameError: there is none of that name.
        """
        models = self.config.models
        if name not in models:
            raise UnknownNameError("model", name, models, hint="name one in [models] of hetero.toml")
        return models[name]

    def binding(self, slot: str, tier: Tier, contract: Sha256 | None) -> Binding:
        """Return what fills a slot now.

        Args:
            slot: the slot's id, or an agent's name.
            tier: what the slot falls back on.
            contract: the contract's hash in the code; None for an agent's own model, which has no specialists.

        Raises:
            ConfigError: the slot has no model: neither its own entry nor its tier names one.
        """
        config, lock = self.config, self.lock
        key = (slot, tier, contract)
        known = self._bindings.get(key)
        if known is None or known[0] is not config or known[1] is not lock:
            known = self._bindings[key] = (config, lock, self._bind(config, lock, slot, tier, contract))
        return known[2]

    def _bind(self, config: Config, lock: Lock, slot: str, tier: Tier, contract: Sha256 | None) -> Binding:
        entry = config.slots.get(slot, SlotConfig())
        base = config.tiers.get(tier)
        if entry.model is None and base is None:
            raise ConfigError(
                f"Nothing fills slot {slot!r}: give [tiers] an entry {tier} = {{ model = ... }} "
                f'or [slots."{slot}"] a model in {self.config_path}.'
            )
        names = [entry.model] if entry.model else [base.model] if base else []
        names += entry.fallback if entry.fallback is not None else base.fallback if base else []
        models = tuple((name, config.models[name]) for name in dict.fromkeys(names))
        active = lock.slots.get(SlotId(slot), SlotLock()).active
        specialist = lock.specialists[active] if active and contract else None
        reason = None
        if active and specialist and specialist.contract_sha256 != contract:
            reason = f"the contract of {slot!r} has changed since {active} was trained"
        elif specialist and specialist.withdrawn:
            reason = specialist.withdrawn
        if active and specialist and reason:
            if (active, specialist.contract_sha256) not in self._warned:
                self._warned.add((active, specialist.contract_sha256))
                warnings.warn(f"{active} is not used: {reason}; run `hetero distill {slot}` again.", stacklevel=2)
            return Binding(slot, None, None, models, entry, refused=reason)
        return Binding(slot, active if specialist else None, specialist, models, entry)

    # -- what `hetero promote`, `rollback` and `distill` write ------------------------------------

    def add_specialist(self, specialist_id: SpecialistId, specialist: Specialist) -> None:
        """Write a new candidate into the lock."""
        update_lock(
            self.lock_path,
            lambda lock: lock.model_copy(update={"specialists": {**lock.specialists, specialist_id: specialist}}),
        )

    def activate(self, slot: SlotId, specialist: SpecialistId) -> SlotLock:
        """Make a specialist the slot's occupant; calls in flight finish on the old one."""

        def change(lock: Lock) -> Lock:
            before = lock.slots.get(slot, SlotLock())
            if specialist not in lock.specialists:
                raise UnknownNameError("specialist", specialist, lock.specialists)
            if before.active == specialist:
                return lock
            after = SlotLock(active=specialist, replaced=[*before.replaced, before.active])
            return lock.model_copy(update={"slots": {**lock.slots, slot: after}})

        return update_lock(self.lock_path, change).slots[slot]

    def restore(self, slot: SlotId) -> SlotLock:
        """Put back what the slot's occupant replaced.

        Raises:
            ConfigError: nothing was ever promoted into the slot.
        """

        def change(lock: Lock) -> Lock:
            before = lock.slots.get(slot, SlotLock())
            if before.active is None:
                raise ConfigError(f"Slot {slot!r} has no active specialist, so there is nothing to roll back.")
            after = SlotLock(active=before.replaced[-1] if before.replaced else None, replaced=before.replaced[:-1])
            return lock.model_copy(update={"slots": {**lock.slots, slot: after}})

        return update_lock(self.lock_path, change).slots[slot]

    def withdraw(self, specialists: Collection[SpecialistId], reason: str) -> list[SpecialistId]:
        """Let specialists never be used again, and put back in their slots what they replaced; return those that were active."""
        demoted: list[SpecialistId] = []

        def change(lock: Lock) -> Lock:
            marked = {name: lock.specialists[name].model_copy(update={"withdrawn": reason}) for name in specialists}
            after: dict[SlotId, SlotLock] = {}
            for slot, entry in lock.slots.items():
                if entry.active and entry.active in specialists:
                    demoted.append(entry.active)
                history = [name for name in (*entry.replaced, entry.active) if name not in specialists]
                after[slot] = entry.model_copy(
                    update={"active": history[-1] if history else None, "replaced": history[:-1]}
                )
            return lock.model_copy(update={"specialists": {**lock.specialists, **marked}, "slots": after})

        update_lock(self.lock_path, change)
        return demoted


class _Watched(Generic[T]):
    """A file's parsed content, parsed again when the file's identity, size or time changes."""

    def __init__(self, path: Path, load: Callable[[Path], T]) -> None:
        self._path = path
        self._load = load
        self._seen: tuple[tuple[int, int, int] | None, T] | None = None

    def get(self) -> T:
        try:
            stat = os.stat(self._path)
            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        except OSError:
            stamp = None
        if self._seen is None or self._seen[0] != stamp:
            self._seen = (stamp, self._load(self._path))
        return self._seen[1]
