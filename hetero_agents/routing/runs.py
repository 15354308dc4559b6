"""What runs have done, so that a killed one resumes: kept by DBOS in `.hetero/runs.db`, sealed with the agent's key.

Every kept thing (a slot's answer, a role's result, a side effect) is a DBOS workflow of one function, under an id made of
what it depends on, not of the order in which it ran: roles run in parallel, and DBOS numbers the steps inside one workflow as the clock has it.

Imported where a run is to be kept, and nowhere else: DBOS is in the extra `[durable]`.
"""

from __future__ import annotations

import asyncio
import base64
import contextvars
import hashlib
import hmac
import json
import logging
import os
import re
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from dbos import DBOS, DBOSConfig, Serializer, SetWorkflowID
from pydantic_core import to_jsonable_python

from ..bindings.lock import exclusive
from ..contract import json_bytes
from ..errors import EffectError, HeteroError, UnknownNameError, UserError
from .ledger import Spent
from .steps import Json, steps_now

Ask = Callable[[str, Json], Awaitable[bool]]
"""Asked with name and key of an effect that may have happened: True if it has, False to do it again."""

KEEP_DAYS = 7.0
"""Days for which a run is kept after it began; the next one that begins deletes older ones."""

_NONCE_BYTES = 12
_VERSION = "hetero-1"
"""Of what is stored. Never left to DBOS, which would hash the source of its workflows."""

_THREADS = 64
"""Of DBOS, which would start one for each step that runs. `asyncio.to_thread` of roles uses them too."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class _Sealed(Serializer):
    """JSON under AES-GCM: all that DBOS stores of inputs, outputs and errors."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(HKDF(SHA256(), 32, None, b"hetero runs sealed").derive(key))

    def serialize(self, data: Any) -> str:
        if isinstance(data, BaseException):
            data = {"error": f"{type(data).__name__}: {data}"}
        nonce = os.urandom(_NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, json_bytes(data), None)).decode()

    def deserialize(self, serialized_data: str) -> Any:  # DBOS names it so
        blob = base64.b64decode(serialized_data)
        data: dict[str, Any] = json.loads(self._cipher.decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], None))
        return HeteroError(data["error"]) if "error" in data else data

    def name(self) -> str:
        return _VERSION


@dataclass(frozen=True)
class _Scope:
    """The kept thing inside which others are asked for; how often each was asked for there."""

    id: str
    asked: Counter[str] = field(default_factory=Counter[str])


_work: contextvars.ContextVar[Callable[[], Awaitable[Json]]] = contextvars.ContextVar("hetero_work")
_scope: contextvars.ContextVar[_Scope] = contextvars.ContextVar("hetero_scope")


@DBOS.workflow(name="hetero.step")
async def _step() -> Json:
    return await _work.get()()


@DBOS.workflow(name="hetero.effect")
async def _effect() -> Json:
    return await _work.get()()


class RunStore:
    """DBOS, open for this process: once, for all runs and event loops, until the app is closed."""

    def __init__(self, path: Path, key: bytes, *, postgres: str | None = None) -> None:
        """Open it; blocks for about a tenth of a second.

        Args:
            path: the file, and beside it those that lock runs.
            key: the agent's 32 bytes.
            postgres: a database in place of the file.

        Raises:
            UserError: the program uses DBOS itself.
        """
        self._locks, self._key, self._pid = path.parent / "runs", key, os.getpid()
        executor = f"hetero-{uuid.uuid4().hex}"  # its own: DBOS recovers nothing behind a run's back
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if postgres is None:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            with closing(sqlite3.connect(path, timeout=30)) as connection:
                connection.execute(
                    "PRAGMA journal_mode = WAL"
                )  # stays in the file; a fifth of the time of DBOS's default
        logging.getLogger("dbos").addHandler(
            logging.NullHandler()
        )  # else DBOS prints to stderr, and does not propagate
        config: DBOSConfig = {
            "name": "hetero-agents",
            "system_database_url": postgres or f"sqlite:///{path}",
            "serializer": _Sealed(key),
            "application_version": _VERSION,
            "executor_id": executor,
            "log_level": "ERROR",
            "max_executor_threads": _THREADS,
            "notification_listener_polling_interval_sec": 0.05,  # closing waits for that thread's sleep
        }
        DBOS(config=config)  # where one exists, it is returned and the settings are ignored
        if DBOS.executor_id != executor:
            raise UserError(
                "This program has a DBOS of its own, which would not seal what runs store; run the crew in another process."
            )
        try:
            DBOS.launch()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop DBOS's threads and close the file."""
        DBOS.destroy()
        with suppress(RuntimeError):  # a loop that runs gets a new pool, as DBOS's was its default
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))

    @contextmanager
    def held(self, id: str) -> Generator[None]:
        """Hold a run, so that no other process of this machine resumes it at the same time.

        Raises:
            UserError: another process does, or that is no id.
        """
        if not _ID.fullmatch(id):
            raise UserError(f"{id!r} is no id of a run: letters, digits, dots, dashes and underscores make one.")
        self._locks.mkdir(mode=0o700, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(exclusive(self._locks / f"{id}.lock", wait=False))
            except BlockingIOError:
                raise UserError(
                    f"Run {id} goes on in another process; wait for its end, or end that process first."
                ) from None
            yield

    async def known(self, crew: str) -> list[str]:
        """Return the ids of a crew's runs that can be resumed, newest first."""
        self._check()
        rows = await DBOS.list_workflows_async(name=["hetero.step"], load_input=False, sort_desc=True)
        starts = [row for row in rows if row.workflow_id.endswith("/start#0") and row.status == "SUCCESS"]
        return [row.workflow_id.partition("/")[0] for row in starts if _value(row.output, {}).get("crew") == crew]

    async def begin(self, id: str, header: Json, ask: Ask | None) -> RunSteps:
        """Begin a run, and delete those that are older than `KEEP_DAYS`.

        Args:
            id: the run's: no slash.
            header: JSON; what it begins with.
            ask: decides on effects that may have happened.

        Raises:
            UserError: there is one of that id.
        """
        self._check()
        if await DBOS.list_workflows_async(workflow_id_prefix=f"{id}/", limit=1, load_input=False, load_output=False):
            raise UserError(f"There is a run {id} already; resume it, or give this one another id.")
        await self._delete_old()
        steps = RunSteps(id, self._key, {}, ask)
        await steps.start(header)
        return steps

    async def resume(self, id: str, crew: str, ask: Ask | None) -> RunSteps:
        """Read what a run has done.

        Args:
            id: the run's.
            crew: whose it is.
            ask: decides on effects that may have happened.

        Raises:
            UnknownNameError: there is no such run.
            HeteroError: it was sealed with another key.
        """
        self._check()
        rows = await DBOS.list_workflows_async(workflow_id_prefix=f"{id}/", load_input=False)
        statuses = {row.workflow_id: row.status for row in rows}
        if statuses.get(f"{id}/start#0") != "SUCCESS":
            raise UnknownNameError("run", id, await self.known(crew), hint="runs are kept for a week")
        steps = RunSteps(id, self._key, statuses, ask)
        for row in rows:
            if row.status == "SUCCESS" and row.name == "hetero.step":
                if isinstance(row.output, str):  # what cannot be opened comes as it is stored
                    raise _other_key(id)
                told = _value(row.output, {})
                steps.spent += Spent(**told["spent"]) if "spent" in told else Spent()
        await steps.start(None)
        return steps

    async def _delete_old(self) -> None:
        """Delete runs in which nothing was done for `KEEP_DAYS`, unless they go on."""
        before = time.time() - KEEP_DAYS * 86400
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(before))
        old = await DBOS.list_workflows_async(end_time=moment, load_input=False, load_output=False)
        new = await DBOS.list_workflows_async(start_time=moment, load_input=False, load_output=False) if old else []
        live = {row.workflow_id.partition("/")[0] for row in new}
        for id in {row.workflow_id.partition("/")[0] for row in old} - live:
            with suppress(UserError), self.held(id):
                ids = [row.workflow_id for row in old if row.workflow_id.startswith(f"{id}/")]
                await DBOS.delete_workflows_async(ids)
                (self._locks / f"{id}.lock").unlink(missing_ok=True)

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise UserError("This process was forked from one that keeps runs; start it with spawn.")
        if DBOS.workflow_id is not None:
            raise UserError("A durable crew cannot run inside a DBOS workflow; call it from plain code.")


class RunSteps:
    """What one run has done; it holds nothing open."""

    def __init__(self, id: str, key: bytes, statuses: dict[str, str], ask: Ask | None) -> None:
        self.id = id
        self.header: Json = None
        """What the run began with."""
        self.spent = Spent()
        """What its kept steps had spent when it was resumed."""
        self._names = HKDF(SHA256(), 32, None, b"hetero runs name").derive(key)
        self._statuses = statuses
        self._before = dict(statuses)
        self._ask = ask
        self._root = _Scope(id)

    @contextmanager
    def entered(self) -> Generator[None]:
        """Keep what is done inside."""
        steps, scope = steps_now.set(self), _scope.set(self._root)
        try:
            yield
        finally:
            _scope.reset(scope)
            steps_now.reset(steps)

    async def start(self, header: Json) -> None:
        """Keep what the run begins with, or read it. Its id needs no key, so another key is noticed and begins nothing anew."""

        async def begin() -> Json:
            return header

        self.header = await self._kept(_step, f"{self.id}/start", begin)

    async def step(self, name: str, key: Json, function: Callable[[], Awaitable[Json]]) -> Json:
        """Return what the function gave for this key in this place of the run, or call it and keep what it gives.

        A call that had not finished, or raised, is made again.

        Args:
            name: of the slot or role; stored in the clear.
            key: JSON; all that the result depends on.
            function: gives JSON.
        """
        return await self._kept(_step, self._id(name, key), function)

    async def effect(self, name: str, key: Json, function: Callable[[str], Awaitable[Json]], *, safe: bool) -> Json:
        """Do something to the world once, as `hetero_agents.effect` says.

        Raises:
            EffectError: it may have happened, and nobody can be asked.
        """
        # Not numbered: a role that tries again means the same effect, with the same key.
        id = f"{self.id}/{name.replace('/', '_')}/{self._digest([_scope.get(self._root).id, 'effect', name, key])}"
        if (tries := self._tries(id)) and self._status(id, tries - 1) != "SUCCESS" and not safe:
            if self._ask is None:
                raise EffectError(
                    f"{name} may have happened before the run stopped, and nobody can be asked; resume it at a terminal."
                )
            try:
                happened = await self._ask(name, key)
            except EOFError as error:
                raise EffectError(
                    f"{name} may have happened before the run stopped, and nobody said whether; resume it again."
                ) from error
            if happened:
                return await self._kept(_effect, id, _nothing)

        async def do() -> Json:
            return to_jsonable_python(await function(id.rpartition("/")[2]), fallback=str)

        return await self._kept(_effect, id, do)

    def _id(self, name: str, key: Json) -> str:
        """Name a step. The same asked several times in one place has a number; what was finished before is handed out first."""
        scope = _scope.get(self._root)
        asked = self._digest([scope.id, name, key])
        place = f"{self.id}/{name.replace('/', '_')}"
        scope.asked[asked] += 1
        numbers: list[str] = []
        while f"{(id := f'{place}/{self._digest([asked, len(numbers) + 1])}')}#0" in self._before:
            numbers.append(id)
        numbers.sort(key=lambda id: not any(self._before.get(f"{id}#{n}") == "SUCCESS" for n in range(self._tries(id))))
        nth = scope.asked[asked]
        return numbers[nth - 1] if nth <= len(numbers) else f"{place}/{self._digest([asked, nth])}"

    def _digest(self, value: Json) -> str:
        """A name of which nobody without the key can guess what it stands for."""
        return hmac.digest(self._names, json_bytes(value), hashlib.sha256)[:16].hex()

    def _status(self, id: str, attempt: int) -> str | None:
        return self._statuses.get(f"{id}#{attempt}")

    def _tries(self, id: str) -> int:
        count = 0
        while self._status(id, count) is not None:
            count += 1
        return count

    async def _kept(
        self, workflow: Callable[[], Awaitable[Json]], id: str, function: Callable[[], Awaitable[Json]]
    ) -> Json:
        count = self._tries(id)
        done = count > 0 and self._status(id, count - 1) == "SUCCESS"
        # Attempts are only added: one that began and did not finish is what tells that an effect may have happened.
        attempt = f"{id}#{count - 1 if done else count}"
        inner = contextvars.copy_context()  # DBOS's own context ends here: what is asked for inside is no child of its
        inner.run(_scope.set, _Scope(id))

        async def awaited() -> Json:
            return await function()

        async def work() -> Json:
            return {"id": id, "value": await asyncio.create_task(awaited(), context=inner)}

        token = _work.set(work)
        self._statuses[attempt] = "SUCCESS" if done else "PENDING"
        try:
            with SetWorkflowID(attempt):
                kept = await workflow()
        except InvalidTag as error:
            raise _other_key(self.id) from error
        finally:
            _work.reset(token)
        if kept["id"] != id:
            raise HeteroError(f"What run {self.id} kept was moved about in its database; start the run again.")
        self._statuses[attempt] = "SUCCESS"
        return kept["value"]


def _value(output: Any, default: dict[str, Any]) -> dict[str, Any]:
    """What a kept step gave, where that is a JSON object that we wrote."""
    value = cast("dict[str, Any]", output)["value"] if isinstance(output, dict) else None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else default


async def _nothing() -> Json:
    return None


def _other_key(id: str) -> HeteroError:
    return HeteroError(f"What run {id} kept was sealed with another key; resume it with the key that it began with.")
