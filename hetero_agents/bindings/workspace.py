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
from .lock import CacheLock, Certificate, Lock, SlotLock, Specialist, SpecialistId, Stage, update_lock

T = TypeVar("T")

CANARY_SHARE = 0.1
"""Share of the calls that a canary answers where nobody says another."""

CONFIG_NAME, LOCK_NAME, STATE_DIR = "hetero.toml", "hetero.lock", ".hetero"


@dataclass(frozen=True)
class Binding:
    """What fills a slot now: a specialist, if one is active and fits, then models in order."""

    slot: str
    specialist_id: SpecialistId | None
    """The specialist that is asked first: the active one, or while that is on its way, the one before it."""
    specialist: Specialist | None
    models: tuple[tuple[str, ModelConfig], ...]
    """(name in `[models]`, its entry), best first."""
    entry: SlotConfig
    """What `hetero.toml` says of the slot."""
    refused: str | None = None
    """Why the active specialist is not used, where it is not."""
    stage: Stage = "active"
    """How far `coming` has come."""
    coming: SpecialistId | None = None
    """The specialist on its way, where one is: in `shadow` or `canary`."""
    coming_entry: Specialist | None = None
    share: float = 0.0
    """Share of the calls that `coming` is asked first for."""
    coming_refused: str | None = None
    """Why the specialist on its way is not used, where it is not."""


class Workspace:
    """`hetero.toml`, `hetero.lock` and `.hetero/` of one folder; both files are read again when they change."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.config_path = self.root / CONFIG_NAME
        self.lock_path = self.root / LOCK_NAME
        self.state_dir = self.root / STATE_DIR
        self._config = _Watched(self.config_path, Config.load)
        self._lock = _Watched(self.lock_path, Lock.load)
        self._warned: set[tuple[SpecialistId, str]] = set()
        # A binding follows from the two files alone: made again when either was read again.
        self._bindings: dict[tuple[str, Tier, Sha256 | None, Sha256 | None], tuple[Config, Lock, Binding]] = {}

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

    def binding(self, slot: str, tier: Tier, contract: Sha256 | None, checks: Sha256 | None = None) -> Binding:
        """Return what fills a slot now.

        Args:
            slot: the slot's id, or an agent's name.
            tier: what the slot falls back on.
            contract: the contract's hash in the code; None for an agent's own model, which has no specialists.
            checks: the hash of the slot's checks in the code.

        Raises:
            ConfigError: the slot has no model: neither its own entry nor its tier names one.
        """
        config, lock = self.config, self.lock
        key = (slot, tier, contract, checks)
        known = self._bindings.get(key)
        if known is None or known[0] is not config or known[1] is not lock:
            known = self._bindings[key] = (config, lock, self._bind(config, lock, *key))
        return known[2]

    def _bind(
        self, config: Config, lock: Lock, slot: str, tier: Tier, contract: Sha256 | None, checks: Sha256 | None
    ) -> Binding:
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
        state = lock.slots.get(SlotId(slot), SlotLock())
        if contract is None:
            return Binding(slot, None, None, models, entry)

        def usable(name: SpecialistId | None) -> tuple[SpecialistId | None, Specialist | None, str | None]:
            if name is None:
                return None, None, None
            specialist = lock.specialists[name]
            reason = self._reason(name, specialist, entry, contract, checks)
            return (None, None, reason) if reason else (name, specialist, None)

        coming, coming_entry, reason = usable(state.active)
        if state.stage == "active":
            return Binding(slot, coming, coming_entry, models, entry, reason)
        name, specialist, before = usable(state.replaced[-1] if state.replaced else None)
        share = state.share or 0.0
        return Binding(slot, name, specialist, models, entry, before, state.stage, coming, coming_entry, share, reason)

    def _reason(
        self, name: SpecialistId, specialist: Specialist, entry: SlotConfig, contract: Sha256, checks: Sha256 | None
    ) -> str | None:
        """Why a specialist may not be used; said once."""
        reason = None
        if specialist.contract_sha256 != contract:
            reason = f"the contract of {specialist.slot!r} has changed since {name} was trained"
        elif specialist.withdrawn:
            reason = specialist.withdrawn
        elif entry.error_budget is not None:
            reason = uncertified(specialist.certificate, entry, checks)
        if reason and (name, reason) not in self._warned:
            self._warned.add((name, reason))
            warnings.warn(f"{name} is not used: {reason}; run `hetero distill {specialist.slot}` again.", stacklevel=2)
        return reason

    def cache_certificate(
        self, binding: Binding, after: SpecialistId | None, embedder: str, contract: Sha256, checks: Sha256
    ) -> Certificate | None:
        """Return what says which answers the cache may give by meaning; None where it may give none, which is said once.

        Args:
            binding: what fills the slot now.
            after: the specialist that passed the call on; None where nobody was asked before.
            embedder: the model that says what means the same.
            contract: the contract's hash in the code.
            checks: the hash of the slot's checks in the code.
        """
        shown = self.lock.caches.get(after or binding.slot)
        reason = cache_refused(shown, binding, after, embedder, contract, checks)
        if reason is None:
            return shown and shown.certificate
        name = after or SpecialistId(binding.slot)
        if (name, reason) not in self._warned:
            self._warned.add((name, reason))
            where = f"behind {after}" if after else f"of {binding.slot}"
            warnings.warn(f"The cache {where} answers nothing by meaning: {reason}.", stacklevel=2)
        return None

    # -- what `hetero promote`, `rollback` and `distill` write ------------------------------------

    def add_specialist(self, specialist_id: SpecialistId, specialist: Specialist) -> None:
        """Write a new candidate into the lock."""
        update_lock(
            self.lock_path,
            lambda lock: lock.model_copy(update={"specialists": {**lock.specialists, specialist_id: specialist}}),
        )

    def add_cache(self, cache: CacheLock) -> None:
        """Write what was shown of a cache by meaning into the lock, in place of what was shown before."""
        update_lock(
            self.lock_path,
            lambda lock: lock.model_copy(update={"caches": {**lock.caches, cache.after or cache.slot: cache}}),
        )

    def activate(
        self,
        slot: SlotId,
        specialist: SpecialistId,
        stage: Stage = "active",
        share: float = CANARY_SHARE,
        *,
        expected: SlotLock | None = None,
    ) -> SlotLock:
        """Make a specialist the slot's occupant, or let it come one stage further; calls in flight finish on the old one.

        Args:
            slot: the slot.
            specialist: a specialist of it.
            stage: how far it comes.
            share: of the calls that are its own as a canary.
            expected: what the caller saw; nothing is written where it is not so any more.

        Raises:
            ConfigError: another command has changed the slot since.
        """

        def change(lock: Lock) -> Lock:
            before = lock.slots.get(slot, SlotLock())
            if specialist not in lock.specialists:
                raise UnknownNameError("specialist", specialist, lock.specialists)
            if expected is not None and before != expected:
                raise ConfigError(
                    f"Another command has changed slot {slot!r} meanwhile (now {before.active}, {before.stage}); look at `hetero slots` and decide again."
                )
            replaced = before.replaced
            if before.active != specialist and before.stage == "active":
                replaced = [*replaced, before.active]
            # Who was still on the way never filled the slot, and nobody goes back to himself.
            if before.active != specialist and replaced and replaced[-1] == specialist:
                replaced = replaced[:-1]
            own = share if stage == "canary" else None
            after = SlotLock(active=specialist, stage=stage, share=own, replaced=replaced)
            return lock.model_copy(update={"slots": {**lock.slots, slot: after}})

        return update_lock(self.lock_path, change).slots[slot]

    def restore(self, slot: SlotId, *, expected: SlotLock | None = None) -> SlotLock:
        """Put back what the slot's occupant replaced.

        Raises:
            ConfigError: nothing was ever promoted into the slot, or it is not as `expected` any more.
        """

        def change(lock: Lock) -> Lock:
            before = lock.slots.get(slot, SlotLock())
            if expected is not None and before != expected:
                raise ConfigError(f"Another command has changed slot {slot!r} meanwhile; look at `hetero slots`.")
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
                now = history[-1] if history else None
                same = entry if now == entry.active else SlotLock()
                after[slot] = SlotLock(active=now, stage=same.stage, share=same.share, replaced=history[:-1])
            return lock.model_copy(update={"specialists": {**lock.specialists, **marked}, "slots": after})

        update_lock(self.lock_path, change)
        return demoted


def uncertified(certificate: Certificate | None, entry: SlotConfig, checks: Sha256 | None) -> str | None:
    """Return why a specialist may not answer alone under a slot's error budget; None where it may."""
    budget, confidence = entry.error_budget or 0.0, entry.confidence
    if certificate is None or certificate.error_budget > budget or certificate.confidence < confidence:
        return f"it was never shown to keep an error budget of {budget:g} with confidence {confidence:g}"
    if certificate.checks_sha256 != checks or certificate.compare != entry.measure:
        return "the slot's checks or comparison have changed since its error budget was certified"
    if entry.error_budget_by not in (None, certificate.by):
        return f"its error budget was not shown for each value of {entry.error_budget_by!r} on its own"
    if certificate.threshold is None:
        return f"nothing that it answers is certified for an error budget of {budget:g}: {certificate.missing}"
    return None


def cache_refused(
    shown: CacheLock | None,
    binding: Binding,
    after: SpecialistId | None,
    embedder: str,
    contract: Sha256,
    checks: Sha256,
) -> str | None:
    """Return why a cache may give nothing by meaning; None where it may."""
    entry, run = binding.entry, f"run `hetero distill {binding.slot} --cache-only`"
    if entry.error_budget is None:
        return f'[slots."{binding.slot}"] needs an error_budget, against which its errors count'
    if shown is None:
        return f"it was never certified; {run}"
    if shown.contract_sha256 != contract or shown.embedder != embedder:
        return f"the contract or what compares meanings has changed since it was certified; {run}"
    if shown.model != binding.models[0][1].model:
        return f"it was certified on answers of {shown.model}, which the chain asks no more; {run}"
    own = entry.model_copy(update={"confidence": entry.shown_with}) if after else entry
    if (reason := uncertified(shown.certificate, own, checks)) is not None:
        return f"{reason}; {run}"
    standing = next((s for n, s in _specialists(binding) if n == after), None) if after else None
    if after and (standing is None or uncertified(standing.certificate, own, checks)):
        return f"{after} was certified with less confidence than {entry.shown_with:g}, which leaves none to the cache; run `hetero distill {binding.slot}`"
    return None


def _specialists(binding: Binding) -> list[tuple[SpecialistId | None, Specialist | None]]:
    return [(binding.specialist_id, binding.specialist), (binding.coming, binding.coming_entry)]


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
