"""The form of `hetero.lock`, which only the command line writes, and its atomic writing.

JSON, sorted, one item a line, so that it is committed and merged like code.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NewType

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..contract import Sha256, SlotId, compact_json
from ..errors import ConfigError

SpecialistId = NewType("SpecialistId", str)
"""`slot@version`, for example `desk.extract@2`. Versions count from 1 and are never used again."""

Stage = Literal["shadow", "canary", "active"]
"""Of a slot's specialist: its answers are compared and never returned; a share of calls is its own; all are. Before, it is a candidate."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(_Form):
    """A share of right answers with its 95 % interval: Wilson's, or the bootstrap's where answers are right in part."""

    score: Annotated[float, Field(ge=0, le=1)]
    low: float
    high: float
    n: int


class Calibrator(_Form):
    """From what an engine says of an answer to the probability that it is right: a logistic function (Platt 1999)."""

    bias: float
    weights: dict[str, float]
    """By signal, as `routing.signals_of` names them."""


class Router(_Form):
    """Whether a specialist is asked at all: by one look at the input, a logistic function of its embedding."""

    embedder: str
    """What made the embeddings, as `engines.EMBEDDER` says: vectors of another say nothing here."""
    bias: float
    weights: list[float]
    """One for each number of an embedding."""
    level: float
    """Chance to be right from which the specialist is asked."""


class Shown(_Form):
    """What was shown of some answers."""

    threshold: float | None
    """Calibrated probability from which an answer is kept; None keeps none."""
    calls: int
    """Calls of the certify part, one of each cluster."""
    kept: int
    """Those of them at or above the threshold."""
    wrong: int
    """Wrong ones among the kept."""
    upper_bound: float
    """Clopper and Pearson's one-sided bound on the rate of wrong answers among the kept, at `confidence`; 1 where none is kept."""
    missing: str | None = None
    """Why nothing is kept, and how many more calls might change that; None where something is."""


class Certificate(Shown):
    """What was shown of the answers that a specialist gives alone: at most `error_budget` of them are wrong, with `confidence`.

    Learn-then-Test (Angelopoulos et al. 2021) by fixed-sequence testing. It holds for calls that are exchangeable with those
    that were certified on, each cluster of near-duplicates counted once. Where it was shown for each value of a parameter, `slices` say
    it, which share the chance to be wrong; counts are then of all of them together, the bound is the worst, the threshold the lowest.
    """

    error_budget: float
    confidence: float
    against: str
    """What an answer was compared with, and how: what "wrong" means."""
    samples: int
    """Answers that are compared with each other; 1 asks once."""
    by_field: bool = False
    """They are compared field by field, and the answer is made of each field's commonest value."""
    verified: bool = False
    """Those that the slot's checks refuse have no vote."""
    calibrator: Calibrator
    by: str | None = None
    """The parameter for each of whose values it was shown on its own; None for all calls together."""
    slices: dict[str, Shown] = {}
    """By the parameter's value as JSON text; nothing was shown of another value."""
    router: Router | None = None
    """Which calls it is not asked for; what was shown is shown of the others alone."""
    unrouted: str | None = None
    """Why there is no router, where one was wanted."""
    asked: Score | None = None
    """Share of the test part's calls that the router lets it be asked for; None without one."""
    checks_sha256: Sha256
    """Of the slot's checks and its own comparison: others ask for a new calibration."""
    compare: str
    """What `hetero.toml` said of the comparison: `compare`, `tolerance`, `judge`."""
    share: Score
    """Share of the test part's calls that are kept."""
    risk: Score | None
    """Wrong answers among those, as a share; None where none is kept."""
    calibration_error: float
    """Expected calibration error on the test part, ten bins of equal size (Naeini et al. 2015)."""
    created: str
    """ISO 8601, UTC."""

    def threshold_of(self, values: Mapping[str, Any]) -> float | None:
        """Return from which calibrated probability the answer to a call is kept; None where none is.

        Args:
            values: the call's arguments, as JSON values.
        """
        return self.threshold if self.by is None else self.threshold_at(slice_of(values, self.by))

    def threshold_at(self, slice_: str) -> float | None:
        """Return the same for a slice."""
        if self.by is None:
            return self.threshold
        return self.slices[slice_].threshold if slice_ in self.slices else None


def slice_of(values: Mapping[str, Any], by: str | None) -> str:
    """Return to which slice a call belongs: a parameter's value as JSON text; all to one where there is no parameter."""
    return "" if by is None else compact_json(values.get(by))


class Specialist(_Form):
    """A base model plus weights trained for one slot; its weights never change once written."""

    slot: SlotId
    base: str
    """The base's model id, for example `local:smollm2-135m-instruct`."""
    base_sha256: Sha256
    adapter: str
    """Folder of the adapter (`adapter_model.safetensors`, `adapter.gguf`), relative to the lock."""
    adapter_sha256: Sha256
    """Of `adapter_model.safetensors`, of `changed.safetensors`, or of `matcher.json`."""
    gguf_sha256: Sha256
    """Of the file that is served: `adapter.gguf`, the same weights for llama.cpp, `whole.gguf`, or `matcher.json`."""
    whole: bool = False
    """A whole model of its own (`whole.gguf`, and `changed.safetensors` in place of an adapter's)."""
    matcher: bool = False
    """It chooses by embeddings (`matcher.json`, and no adapter)."""
    contract_sha256: Sha256
    dataset_sha256: Sha256
    privacy: dict[str, Any] = {}
    """What `[privacy]` said when the data set was made; what it said when the calls were logged is not known."""
    recipe: dict[str, Any]
    examples: int
    """Training examples seen at least once."""
    train_seconds: float
    teacher: str
    scores: dict[str, Score]
    """On the test part: `specialist`, `teacher`, `base_grammar`, `base_five_shot`, plain code's, a matcher's, and the slot's occupant's."""
    compared_by: str = "exact"
    """When an answer counts as right."""
    judge_agreement: Score | None = None
    """How often the judge is right where the truth is known, where one judges."""
    max_tokens: int
    """Longest answer that is let through, in tokens of the base."""
    baked: bool = False
    """It is sent a call's values alone: instruction and names are in its weights."""
    certificate: Certificate | None = None
    """What was shown for the slot's error budget, where it has one."""
    exposure: dict[str, float] | None = None
    """What attacks found of secrets that were planted for its recipe on its data (`hetero distill --canaries`); None where nobody tried."""
    created: str
    """ISO 8601, UTC."""
    withdrawn: str | None = None
    """Why it may not be used any more, where it may not."""

    @property
    def served(self) -> str:
        """Path of the file that its engine loads, relative to the lock."""
        return f"{self.adapter}/{'matcher.json' if self.matcher else 'whole.gguf' if self.whole else 'adapter.gguf'}"


class CacheLock(_Form):
    """What was shown of answers that a slot's cache gives by meaning, to the calls that its specialist passes on or to all."""

    slot: SlotId
    after: SpecialistId | None
    """The specialist whose calls these are; None where nobody is asked before."""
    model: str
    """Id of the model whose answers are given again."""
    embedder: str
    """The model that says what means the same."""
    contract_sha256: Sha256
    certificate: Certificate

    @property
    def likeness(self) -> float | None:
        """Likeness of two questions from which on an answer is given again; None where none is."""
        threshold, calibrator = self.certificate.threshold, self.certificate.calibrator
        weight = calibrator.weights.get("likeness")
        if threshold is None or not weight or not 0 < threshold < 1:
            return None
        return (math.log(threshold / (1 - threshold)) - calibrator.bias) / weight


class SlotLock(_Form):
    """What is active in a slot, and what it replaced."""

    active: SpecialistId | None = None
    stage: Stage = "active"
    """How far the active one has come; until it is `active`, what it replaced answers the other calls."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the calls that it answers as a canary."""
    replaced: list[SpecialistId | None] = []
    """What was active before, oldest first; None is the model that `hetero.toml` names."""


class Lock(_Form):
    """The whole of `hetero.lock`."""

    version: Literal[1] = 1
    specialists: dict[SpecialistId, Specialist] = {}
    slots: dict[SlotId, SlotLock] = {}
    caches: dict[str, CacheLock] = {}
    """By the specialist's id that a cache by meaning stands behind, or the slot's where there is none."""

    @classmethod
    def load(cls, path: Path) -> Lock:
        """Read a lock; one that does not exist is empty.

        Raises:
            ConfigError: not what the command line writes, or naming a specialist that is not in it.
        """
        try:
            lock = cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise ConfigError(
                f"{path} is broken at {place} ({first['msg']}); restore it from version control."
            ) from error
        for slot, entry in lock.slots.items():
            for name in (entry.active, *entry.replaced):
                if name is not None and name not in lock.specialists:
                    raise ConfigError(
                        f"{path} names {name!r} for {slot!r} but does not hold it; restore it from version control."
                    )
        return lock

    def of_slot(self, slot: SlotId) -> dict[SpecialistId, Specialist]:
        """Return the slot's specialists, oldest first."""
        mine = {name: entry for name, entry in self.specialists.items() if entry.slot == slot}
        return dict(sorted(mine.items(), key=lambda item: version_of(item[0])))

    def next_id(self, slot: SlotId) -> SpecialistId:
        """Return the id that the slot's next specialist gets."""
        return SpecialistId(f"{slot}@{max(map(version_of, self.of_slot(slot)), default=0) + 1}")


def version_of(specialist: SpecialistId) -> int:
    """Return the version in a specialist's id."""
    return int(specialist.rpartition("@")[2])


def update_lock(path: Path, change: Callable[[Lock], Lock]) -> Lock:
    """Read, change and replace the lock as one step among all processes; return what was written."""
    with exclusive(path.parent / ".hetero" / "lock.flock"):
        for half in path.parent.glob(f".{path.name}.????????"):  # of one that was killed: nobody else writes now
            half.unlink(missing_ok=True)
        lock = change(Lock.load(path))
        text = json.dumps(lock.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode())
        return lock


def write_atomically(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file so that a reader sees the old one or the new one, and a crash leaves no half; the mode is less the umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, mode & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Generator[None]:
    """Hold a file's lock among all processes.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
    """
    with _locked(path, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


@contextmanager
def shared(path: Path) -> Generator[None]:
    """Hold a file's lock beside other processes that hold it so.

    Raises:
        BlockingIOError: another process holds it alone.
    """
    with _locked(path, fcntl.LOCK_SH | fcntl.LOCK_NB):
        yield


@contextmanager
def _locked(path: Path, operation: int) -> Generator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:  # on NFS a shared lock is a read lock
        fcntl.flock(file, operation)
        yield
