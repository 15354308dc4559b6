"""The sandbox holds what nobody has read: each attack by each isolation that this machine has."""

import asyncio
import fcntl
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Generator
from dataclasses import replace
from pathlib import Path

import pytest

from hetero_agents.errors import UserError
from hetero_agents.tools import sandbox
from hetero_agents.tools.confine import landlock, seccomp
from hetero_agents.tools.sandbox import Isolation, Limits, Ran, run_sandboxed

HAS_LANDLOCK = seccomp.supported() and landlock.abi() >= landlock.NEEDED_ABI

ISOLATIONS = [
    pytest.param(
        "bubblewrap", marks=pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
    ),
    pytest.param(
        "landlock", marks=pytest.mark.skipif(not HAS_LANDLOCK, reason="Landlock with signal scopes is Linux 6.12's")
    ),
]

needs_any = pytest.mark.skipif(sandbox.isolation() == "none", reason="nothing here can confine a command")

LIMITS = Limits(
    wall_seconds=8,
    cpu_seconds=5,
    memory_mb=128,
    disk_mb=8,
    file_mb=4,
    files=100,
    processes=16,
    output_bytes=4_000,
)

Attack = Callable[..., Awaitable[Ran]]


@pytest.fixture(params=ISOLATIONS)
def isolation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Isolation:
    if request.param == "bubblewrap" and sandbox.isolation() != "bubblewrap":
        pytest.skip("bubblewrap may not make namespaces here")
    monkeypatch.setattr(sandbox, "isolation", lambda: request.param)
    return request.param


@pytest.fixture
def root(tmp_path: Path) -> Generator[Path]:
    folder = tmp_path / "root"
    folder.mkdir()
    yield folder
    # Folders nested by the thousand are too deep for pytest's own removal.
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture
def attack(isolation: Isolation, root: Path) -> Attack:
    """Runs a program in the sandbox."""

    async def run(code: str, limits: Limits = LIMITS, stdin: str = "") -> Ran:
        return await run_sandboxed([sys.executable, "-c", textwrap.dedent(code)], root=root, limits=limits, stdin=stdin)

    return run


def run(awaitable: Awaitable[Ran]) -> Ran:
    async def wait() -> Ran:
        return await awaitable

    return asyncio.run(wait())


# -- what works in it ------------------------------------------------------------------------------


def test_a_program_reads_its_input_writes_its_root_and_ends_with_its_code(attack: Attack, root: Path) -> None:
    ran = run(attack("import sys; open('x', 'w').write(input()); print('out'); sys.exit(3)", stdin="hello\n"))
    assert (ran.returncode, ran.stdout, ran.stderr, ran.killed) == (3, "out\n", "", None)
    assert (root / "x").read_text() == "hello"


def test_packages_of_this_interpreter_can_be_imported(attack: Attack) -> None:
    ran = run(attack("import pytest, sys; print(sys.prefix)"))
    assert ran.stdout == f"{sys.prefix}\n", ran.stderr


def test_a_program_starts_others_and_has_a_folder_for_temporary_files(attack: Attack) -> None:
    code = """
        import asyncio, tempfile
        async def main():
            with tempfile.NamedTemporaryFile("w") as file:
                file.write("hello"); file.flush()
                process = await asyncio.create_subprocess_exec("cat", file.name)
                await process.wait()
        asyncio.run(main())
    """
    ran = run(attack(code))
    assert ran.stdout == "hello", ran.stderr


def test_the_environment_of_the_caller_does_not_reach_the_command(
    attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    names = run(attack("import os; print(sorted(os.environ))")).stdout
    assert "OPENAI_API_KEY" not in names
    assert "HOME" in names


def test_a_program_that_does_not_exist_ends_with_127(isolation: Isolation, root: Path) -> None:
    ran = run(run_sandboxed(["no-such-program"], root=root))
    assert (ran.returncode, ran.stderr) == (127, "There is no program 'no-such-program' here.")


def test_nothing_is_left_in_the_folder_for_temporary_files(
    attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    code = """
        import os
        os.chdir(os.environ["TMPDIR"])
        os.mkdir("shut"); open("shut/x", "w").close(); os.chmod("shut", 0)
        os.mkdir("closed", mode=0)
    """
    assert run(attack(code)).returncode == 0
    assert list((tmp_path / "temporary").iterdir()) == []


# -- what is contained -----------------------------------------------------------------------------


def test_a_program_that_forks_without_end_gets_no_more_processes_than_allowed(attack: Attack) -> None:
    code = """
        import os, time
        made = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60)
                made += 1
        except BlockingIOError:
            print(made)
    """
    assert 1 <= int(run(attack(code)).stdout) < LIMITS.processes


def test_a_fork_bomb_is_over_when_its_time_is(attack: Attack) -> None:
    code = """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """
    ran = run(attack(code, replace(LIMITS, wall_seconds=0.4)))
    assert ran.timed_out
    assert ran.seconds < 2


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        ("open(f'{name}', 'wb').write(bytes(2**20))", "disk"),
        (
            "open(os.environ['TMPDIR'] + f'/{name}', 'wb').write(bytes(2**20))",
            "disk",
        ),
        ("kept.append(open('x', 'wb')); kept[-1].write(bytes(2**20)); kept[-1].flush(); os.unlink('x')", "disk"),
        ("open(f'{name}', 'wb')", "files"),
        ("os.mkdir('d' * 200); os.chdir('d' * 200)", "files"),
    ],
    ids=["files", "temporary files", "deleted files", "empty files", "folders in folders"],
)
def test_a_program_that_fills_the_disk_is_ended(attack: Attack, write: str, reason: str) -> None:
    code = f"import os\nname, kept = 0, []\nwhile True:\n    name += 1\n    {write}\n"
    assert (
        run(attack(code, replace(LIMITS, open_files=4096, files=100 if reason == "files" else 10_000))).killed == reason
    )


def test_one_file_gets_no_larger_than_allowed(attack: Attack, root: Path) -> None:
    ran = run(attack("open('x', 'wb').write(bytes(6 * 2**20))"))
    assert "File too large" in ran.stderr
    assert (root / "x").stat().st_size <= LIMITS.file_mb * 2**20
    shell = run(attack("import os; os.execlp('sh', 'sh', '-c', 'head -c 6000000 /dev/zero > y')"))
    assert shell.returncode != 0


def test_a_program_that_asks_for_all_memory_is_refused_it(attack: Attack) -> None:
    ran = run(attack("kept = []\nwhile True:\n    kept.append(bytearray(2**24))"))
    assert "MemoryError" in ran.stderr


def test_processes_that_use_too_much_memory_together_are_ended(attack: Attack) -> None:
    code = """
        import mmap, os, time
        for _ in range(8):
            if os.fork() == 0:
                shared = mmap.mmap(-1, 40 * 2**20)
                shared.write(b"x" * len(shared))
                time.sleep(60)
        time.sleep(60)
    """
    assert run(attack(code)).killed == "memory"


@needs_any
def test_a_program_that_computes_without_end_is_ended(root: Path) -> None:
    command = [sys.executable, "-c", "while True:\n    pass"]
    assert run(run_sandboxed(command, root=root, limits=replace(LIMITS, cpu_seconds=1))).killed == "cpu"


def test_a_program_that_ignores_signals_or_stops_itself_is_ended(attack: Attack) -> None:
    code = """
        import os, signal
        for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
            try:
                signal.signal(number, signal.SIG_IGN)
            except OSError:
                pass
        os.kill(os.getpid(), signal.SIGSTOP)
    """
    assert run(attack(code, replace(LIMITS, wall_seconds=0.4))).timed_out


def test_output_without_end_is_cut(attack: Attack) -> None:
    code = "import sys\nwhile True:\n    print('x' * 999); print('y' * 999, file=sys.stderr)"
    ran = run(attack(code, replace(LIMITS, wall_seconds=0.4)))
    for text in (ran.stdout, ran.stderr):
        assert len(text) < LIMITS.output_bytes + 100
        assert text.endswith("more bytes were cut]")


def test_no_socket_leads_out(attack: Attack, root: Path, tmp_path: Path) -> None:
    (root / "paths").write_text(str(tmp_path / "unix"))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "unix"))
        local.listen()
        code = f"""
            import socket
            for family, address in (
                (socket.AF_INET, ("127.0.0.1", {server.getsockname()[1]})),
                (socket.AF_INET, ("192.0.2.1", 80)),
                (socket.AF_INET6, ("2001:db8::1", 80)),
                (socket.AF_UNIX, {str(tmp_path / "unix")!r}),
                (socket.AF_VSOCK, (2, 80)),
            ):
                # A datagram socket is connected without a packet; of its own loopback that says nothing.
                for kind in (socket.SOCK_STREAM, *([socket.SOCK_DGRAM] if address[0] != "127.0.0.1" else [])):
                    try:
                        socket.socket(family, kind).connect(address)
                        print("connected", address)
                    except OSError:
                        print("refused")
            try:
                left, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
                left.connect({str(tmp_path / "unix")!r})
                print("connected by a pair")
            except OSError:
                print("refused")
        """
        ran = run(attack(code))
    assert ran.stdout == "refused\n" * 10, ran.stderr


def test_nothing_outside_the_root_is_written_or_read(attack: Attack, tmp_path: Path, root: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (outside / "secret").chmod(0o640)
    before = (outside / "secret").stat()
    (root / "link").symlink_to(outside)
    code = f"""
        import os, sys
        secret = {str(outside / "secret")!r}
        def leaves(*act):
            for function in act:
                try:
                    function()
                except OSError:
                    continue
                print("did", function.__code__.co_firstlineno)
        leaves(
            lambda: open({str(outside / "new")!r}, "w"),
            lambda: open("link/new", "w"),
            lambda: open(sys.prefix + "/new", "w"),
            lambda: open("/etc/new", "w"),
            lambda: open("/usr/new", "w"),
            lambda: open("/new", "w"),
            lambda: open("/etc/shadow").read(),
            lambda: open("/proc/1/environ").read() and 1 / 0,
            lambda: open(secret).read(),
            lambda: os.unlink(secret),
            lambda: os.truncate(secret, 0),
            lambda: os.rename(secret, "moved"),
            lambda: os.link(secret, "linked"),
            lambda: os.listdir({str(outside)!r}),
        )
        for change in (lambda: os.chmod(secret, 0o777), lambda: os.utime(secret, (1, 1)), lambda: os.chown(secret, 1, 1)):
            try:
                change()
            except OSError:
                pass
        try:
            open("../new", "w")  # with bubblewrap in a copy of that folder, which goes
        except OSError:
            pass
    """
    ran = run(attack(code))
    assert not (tmp_path / "new").exists()
    assert (ran.stdout, ran.stderr) == ("", "")
    after = (outside / "secret").stat()
    assert (after.st_mode, after.st_mtime, after.st_uid) == (before.st_mode, before.st_mtime, before.st_uid)
    assert (outside / "secret").read_text() == "secret"
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_a_program_cannot_reach_who_started_it(attack: Attack) -> None:
    code = f"""
        import os, resource, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for pid in (os.getppid(), {os.getpid()}):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
            try:
                resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1))
            except OSError:
                pass
        os.kill(0, signal.SIGTERM)
        try:
            os.kill(-1, signal.SIGKILL)
        except OSError:
            pass
        print("alive")
    """
    before = resource.getrlimit(resource.RLIMIT_CPU)
    ran = run(attack(code))
    assert (ran.returncode, ran.stdout) == (0, "alive\n")
    assert resource.getrlimit(resource.RLIMIT_CPU) == before


def test_what_a_program_leaves_in_the_background_ends_with_it(attack: Attack, root: Path) -> None:
    code = """
        import os, time
        ready, told = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                lock = open("alive", "w")
                import fcntl
                fcntl.flock(lock, fcntl.LOCK_EX)
                os.write(told, b"x")
                time.sleep(60)
            os._exit(0)
        os.read(ready, 1)
    """
    assert run(attack(code)).returncode == 0
    assert not held(root / "alive")


def test_who_cancels_the_call_ends_the_whole_tree(attack: Attack, root: Path) -> None:
    code = """
        import fcntl, os, time
        lock = open("alive", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fork() == 0:
            os.setsid()
            print("x", file=open("ready", "w"))
        time.sleep(60)
    """
    os.mkfifo(root / "ready")

    async def start_and_cancel() -> None:
        running = asyncio.ensure_future(attack(code))
        await asyncio.to_thread((root / "ready").read_text)
        assert held(root / "alive")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(start_and_cancel())
    assert not held(root / "alive")


def test_a_command_that_is_cancelled_may_clean_up_but_not_stay(attack: Attack, root: Path) -> None:
    code = """
        import signal, time
        signal.signal(signal.SIGTERM, lambda *_: open("cleaned", "w"))
        print("x", file=open("ready", "w"))
        while True:
            time.sleep(60)
    """
    os.mkfifo(root / "ready")

    async def start_and_cancel() -> None:
        running = asyncio.ensure_future(attack(code))
        await asyncio.to_thread((root / "ready").read_text)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(start_and_cancel())
    assert (root / "cleaned").exists()


def test_a_program_has_no_file_open_but_its_three_streams(attack: Attack) -> None:
    """The warden's report above all: a command could write there how it ended."""
    code = """
        import os
        for number in range(3, 100):
            try:
                os.fstat(number)
            except OSError:
                continue
            print(number)
    """
    assert run(attack(code)).stdout == ""


@needs_any
def test_a_program_ends_with_the_process_that_called(root: Path) -> None:
    os.mkfifo(root / "ready")
    command = """
        import fcntl, time
        lock = open("alive", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        print("x", file=open("ready", "w"))
        time.sleep(60)
    """
    caller = f"""
        import asyncio, os, sys
        from pathlib import Path
        from hetero_agents.tools import sandbox
        root = Path({str(root)!r})
        async def call():
            running = asyncio.ensure_future(sandbox.run_sandboxed([sys.executable, "-c", {textwrap.dedent(command)!r}], root=root))
            await asyncio.to_thread((root / "ready").read_text)
            os._exit(3)
        asyncio.run(call())
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(caller)], check=False).returncode == 3
    with (root / "alive").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # waits until nobody holds it


def test_a_program_has_no_namespaces_to_make_and_no_process_to_trace(attack: Attack) -> None:
    code = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.unshare(0x10000000), libc.ptrace(16, os.getppid(), 0, 0), libc.syscall(425, 8, 0), libc.memfd_create(b"x", 0))
    """
    assert run(attack(code)).stdout == "-1 -1 -1 -1\n"


def test_a_command_of_root_runs_as_somebody_else(attack: Attack) -> None:
    assert int(run(attack("import os; print(os.getuid())")).stdout) != 0


# -- who may use it --------------------------------------------------------------------------------


def test_without_isolation_nothing_runs_unless_told(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(sandbox, "isolation", lambda: "none")
    with pytest.raises(UserError, match=r"install bubblewrap.*unsafe=True"):
        run(run_sandboxed(["touch", "x"], root=root))
    assert not (root / "x").exists()
    ran = run(run_sandboxed(["touch", "x"], root=root, unsafe=True))
    assert ran.returncode == 0, ran.stderr
    assert (root / "x").exists()


def test_who_starts_a_program_may_say_it_for_all_of_it(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(sandbox, "isolation", lambda: "none")
    with sandbox.unsafe_allowed():
        assert run(run_sandboxed(["true"], root=root)).returncode == 0
    with pytest.raises(UserError, match="hetero run --unsafe"):
        run(run_sandboxed(["true"], root=root))


def test_without_isolation_the_limits_still_hold(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(sandbox, "isolation", lambda: "none")
    code = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True); print(bytearray(2**28) and 1)"
    ran = run(run_sandboxed([sys.executable, "-c", code], root=root, limits=LIMITS, unsafe=True))
    assert "MemoryError" in ran.stderr


def test_nobody_waits_for_ever_where_the_warden_is_killed(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(sandbox, "isolation", lambda: "none")
    monkeypatch.setattr(sandbox, "_PATIENCE", 0.2)
    os.mkfifo(root / "warden")
    os.mkfifo(root / "end")
    code = """
        import os
        warden = os.getppid()
        if os.fork():
            print(warden, file=open("warden", "w"))
        open("end").read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]

    async def call() -> None:
        running = asyncio.ensure_future(
            run_sandboxed(command, root=root, limits=replace(LIMITS, wall_seconds=1), unsafe=True)
        )
        warden = int(await asyncio.to_thread((root / "warden").read_text))
        os.kill(warden, signal.SIGKILL)
        try:
            with pytest.raises(UserError, match="its warden was killed"):
                await running
        finally:
            os.close(os.open(root / "end", os.O_RDWR))  # what was left reads to the end of this, and ends

    asyncio.run(call())


def test_what_cannot_be_confined_is_not_run(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(sandbox, "isolation", lambda: "bubblewrap")
    which: Callable[[str], str] = lambda _: "/no/such/bwrap"  # noqa: E731
    monkeypatch.setattr(shutil, "which", which)
    with pytest.raises(UserError, match="so it was not run"):
        run(run_sandboxed(["touch", "x"], root=root))
    assert not (root / "x").exists()


@pytest.mark.parametrize("folder", ["/", sys.prefix, str(Path(__file__).parents[1]), "/no/such/folder"])
def test_a_root_that_holds_the_interpreter_or_this_package_or_is_none_is_refused(folder: str) -> None:
    with pytest.raises(UserError, match=r"root '.*' (holds /|is no folder)"):
        run(run_sandboxed(["true"], root=Path(folder)))


def test_a_command_of_nothing_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="no command to run"):
        run(run_sandboxed([], root=root))


def test_a_program_that_may_not_be_started_ends_with_127(isolation: Isolation, root: Path) -> None:
    (root / "text").write_text("no program")
    ran = run(run_sandboxed(["./text"], root=root))
    assert (ran.returncode, "Permission" in ran.stderr or "Exec format" in ran.stderr) == (127, True)


def test_other_systems_than_linux_are_refused(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match="run this on Linux"):
        run(run_sandboxed(["true"], root=root, unsafe=True))


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="processes is 0 and has to be more"):
        Limits(processes=0)


@pytest.mark.skipif(os.getuid() != 0 or not HAS_LANDLOCK, reason="only root can become another user")
def test_a_user_who_is_not_root_is_bound_as_well(tmp_path: Path) -> None:
    """The user keeps one capability, to reach the interpreter; it does not lift the limit of processes."""
    tmp_path.chmod(0o777)
    program = """
        import asyncio, os, sys, tempfile
        from pathlib import Path
        from hetero_agents.tools import sandbox
        from hetero_agents.tools.confine.identity import leave_root
        leave_root(7)
        sandbox.isolation = lambda: "landlock"
        code = '''
        import os, resource, signal, time
        made = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60)
                made += 1
        except BlockingIOError:
            pass
        caller = int(open("pid").read())
        for reach in (
            lambda: os.kill(os.getppid(), signal.SIGKILL),
            lambda: os.kill(caller, signal.SIGKILL),
            lambda: resource.prlimit(caller, resource.RLIMIT_CPU, (1, 1)),
        ):
            try:
                reach()
            except PermissionError:
                print(made)
        os.chmod(open("path").read(), 0o777)
        '''
        root = Path(sys.argv[1])
        (root / "pid").write_text(str(os.getpid()))
        _, mine = tempfile.mkstemp()
        (root / "path").write_text(mine)
        import textwrap
        command = [sys.executable, "-c", textwrap.dedent(code)]
        ran = asyncio.run(sandbox.run_sandboxed(command, root=root, limits=sandbox.Limits(processes=16)))
        print(os.getuid() != 0, ran.stdout.split(), oct(os.stat(mine).st_mode), ran.stderr)
        os.unlink(mine)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "True ['15', '15', '15'] 0o100600", done.stderr


def held(path: Path) -> bool:
    """Whether a process holds a lock on a file."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
