"""A seccomp filter: which system calls a process and its children may make (seccomp(2)).

Everything is allowed but what leads out of the sandbox. No socket can be made, connected or named in the strict filter; a pair
of connected ones can, since event loops need it. The loose filter is for what already lives in namespaces of its own.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

from .kernel import PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, prctl

_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_OUTSIDE = (
    # Into other processes, and past other filters.
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register", "bpf", "perf_event_open", "userfaultfd"),
    # Keyrings and the kernel's log belong to the whole machine.
    *("add_key", "request_key", "keyctl", "syslog"),
    # Other views of the file system.
    *("mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "open_tree", "move_mount", "fsopen", "fsconfig"),
    *("fsmount", "fspick", "mount_setattr", "open_by_handle_at"),
    # Memory that no limit counts or that outlives its process.
    *("memfd_create", "memfd_secret", "shmget", "msgget", "semget", "mq_open"),
)
_NETWORK = ("socket", "connect", "bind", "listen", "accept", "accept4")
_ATTRIBUTES = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"),
    *(
        "setxattr",
        "lsetxattr",
        "fsetxattr",
        "setxattrat",
        "removexattr",
        "lremovexattr",
        "fremovexattr",
        "removexattrat",
    ),
    *("utime", "utimes", "futimesat", "utimensat", "file_setattr"),
)
"""Landlock does not know of these, so they would reach every file of the user; they do nothing, and say nothing, since much
that copies files would fail on a refusal."""
_OWN_ONLY = {"prlimit64": (0,), "setpriority": (0, 1), "ioprio_set": (0, 1), "sched_setaffinity": (0,)} | dict.fromkeys(
    ("sched_setscheduler", "sched_setparam", "sched_setattr", "migrate_pages", "move_pages"), (0,)
)
"""Which arguments have to be 0, "myself": limits and priorities of the user's other processes are out of reach."""
_ABSENT = ("clone3",)
"""Said not to exist, so that the C library takes the older call, whose flags a filter can see."""
_NEW_NAMESPACES = 0x7E020000
_FAMILIES = (1, 2, 10, 16)
"""UNIX, IPv4, IPv6 and netlink: those that a network namespace holds in."""

_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "accept": (43, 202),
    "accept4": (288, 242),
    "add_key": (248, 217),
    "bind": (49, 200),
    "bpf": (321, 280),
    "chmod": (90, None),
    "chown": (92, None),
    "chroot": (161, 51),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "file_setattr": (469, 469),
    "fremovexattr": (199, 16),
    "fsconfig": (431, 431),
    "fsetxattr": (190, 7),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "futimesat": (261, None),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "lchown": (94, None),
    "listen": (50, 201),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "removexattr": (197, 14),
    "removexattrat": (466, 466),
    "request_key": (249, 218),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "utime": (132, None),
    "utimensat": (280, 88),
    "utimes": (235, None),
}
"""Numbers on x86_64 and aarch64 (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h)."""

# Classic BPF (linux/bpf_common.h): each instruction is a code, two relative jumps and a constant.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16

_Instruction = tuple[int, int, int, int]


def supported() -> bool:
    """Whether the numbers of this machine's system calls are known here."""
    return sys.platform == "linux" and sys.maxsize > 2**32 and platform.machine() in _ARCHITECTURE


def restrict(*, strict: bool) -> None:
    """From now on this process and its children are bound by the filter.

    Args:
        strict: without namespaces around: no sockets, no SysV memory, no changes of permissions, owners and times.

    Raises:
        OSError: the kernel refuses.
    """
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _program(strict=strict))
    instructions = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(instructions))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, 2, ctypes.create_string_buffer(program, len(program)))


def _program(*, strict: bool) -> list[_Instruction]:
    machine = platform.machine()
    program: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, _ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _KILL),  # 32-bit calls have other numbers
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL)]  # x32 has other numbers too
    column = list(_ARCHITECTURE).index(machine)

    def on(name: str, *then: _Instruction) -> None:
        if (number := _NUMBERS[name][column]) is not None:
            program.extend([(_EQUAL, 0, len(then), number), *then])

    refused = (_RETURN, 0, 0, _ERROR | errno.EPERM)
    for name in (*_OUTSIDE, *(_NETWORK if strict else ())):
        on(name, refused)
    for name in _ABSENT:
        on(name, (_RETURN, 0, 0, _ERROR | errno.ENOSYS))
    on("clone", _argument(0), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), refused, (_RETURN, 0, 0, _ALLOW))
    if not strict:
        checks = [(_EQUAL, len(_FAMILIES) - index, 0, family) for index, family in enumerate(_FAMILIES)]
        on("socket", _argument(0), *checks, refused, (_RETURN, 0, 0, _ALLOW))
        return [*program, (_RETURN, 0, 0, _ALLOW)]
    for name in _ATTRIBUTES:
        on(name, (_RETURN, 0, 0, _ERROR))
    for name, arguments in _OWN_ONLY.items():
        checks = [step for index in arguments for step in (_argument(index), (_EQUAL, 1, 0, 0), refused)]
        on(name, *checks, (_RETURN, 0, 0, _ALLOW))
    # A stream: a pair of datagram sockets could still be pointed at an address.
    on("socketpair", _argument(1), (_AND, 0, 0, 0xF), (_EQUAL, 1, 0, 1), refused, (_RETURN, 0, 0, _ALLOW))
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _argument(index: int) -> _Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)  # the lower half: these machines are little-endian
