"""The system call filter: what no harness needs and an attack might.

A classic BPF program over (architecture, call number, arguments). A call of
another architecture kills the process, x32 included; a refused call fails with
EPERM, so that code which only tries goes on; calls newer than this list do not
exist.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from sia_runtime.sandbox import linux

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}

# Call numbers on (x86_64, aarch64); None where the architecture lacks the call.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # Other processes' memory and state.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    # A second road to most system calls, which no filter sees.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Namespaces and mounts.
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    # Parts of the kernel with a history of holes.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "userfaultfd": (323, 282),
    "modify_ldt": (154, None),
    "personality": (135, 92),
    "uselib": (134, None),
    "sysfs": (139, None),
    "ustat": (136, None),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "_sysctl": (156, None),
    # Files by handle or by event, past every check of their path.
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    # The machine.
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "iopl": (172, None),
    "ioperm": (173, None),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    # Memory that belongs to no process's account, or that outlives its processes.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semctl": (66, 191),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # Pages of files and of processes that a pipe goes on holding when nobody else does.
    "vmsplice": (278, 75),
    "splice": (275, 76),
    "tee": (276, 77),
    "io_setup": (206, 0),
    # Attributes of files: memory that is no part of a file's size.
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
}
_FOR_CUDA = ("memfd_create",)
"""Such memory is bounded by the size of a file and the number of descriptors of a process."""

# Where the program runs as the user who started it, it owns that user's files and may tune his processes.
_ON_OWN_FILES: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
# The argument that names a process, to go with the numbers; 0 is the caller.
_ON_OWN_PROCESSES: dict[str, tuple[int, int, int]] = {
    "prlimit64": (302, 261, 0),
    "sched_setaffinity": (203, 122, 0),
    "sched_setscheduler": (144, 119, 0),
    "sched_setparam": (142, 118, 0),
    "sched_setattr": (314, 274, 0),
    "setpriority": (141, 140, 1),
    "ioprio_set": (251, 30, 1),
}
_LANDLOCK: dict[str, tuple[int | None, int | None]] = {
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
}
"""Each rule is memory of the kernel's, of which there may be four thousand million."""

_FORKS: dict[str, tuple[int | None, int | None]] = {"clone": (56, 220), "fork": (57, None), "vfork": (58, None)}
_CLONE, _CLONE3 = {"x86_64": 56, "aarch64": 220}, 435
_SOCKET, _SOCKETPAIR = {"x86_64": 41, "aarch64": 198}, {"x86_64": 53, "aarch64": 199}
_LISTEN, _SETSOCKOPT = {"x86_64": 50, "aarch64": 201}, {"x86_64": 54, "aarch64": 208}
_CONNECT, _BIND = {"x86_64": 42, "aarch64": 203}, {"x86_64": 49, "aarch64": 200}
_IOCTL, _PRCTL = {"x86_64": 16, "aarch64": 29}, {"x86_64": 157, "aarch64": 167}
_FCNTL = {"x86_64": 72, "aarch64": 25}
_SETSID, _SETPGID = {"x86_64": 112, "aarch64": 157}, {"x86_64": 109, "aarch64": 154}
_FIRST_UNKNOWN = 457
_X32_BIT = 0x40000000

_NAMESPACES = linux.NAMESPACES | linux.CLONE_NEWUSER
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_FS_IOC_SETFLAGS, _FS_IOC_FSSETXATTR = 0x40086602, 0x401C5820
_AF_UNIX, _AF_INET, _TCP, _SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPE_MASK = 1, 2, 6, 1, 5, 0xF
_SOL_SOCKET = 1
_BUFFER_OPTIONS = (7, 8, 32, 33)  # how much the kernel keeps of what is sent and was not read
_F_SETPIPE_SZ = 1031
_TCP_OPTIONS = (1, 4, 5, 6, 18)  # no delay, keep-alive, time-out: what clients set

# BPF operations, and what a filter returns.
_LOAD, _AND, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_MODE_FILTER = 2

_Code = list[tuple[int, int, int, int]]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _give(action: int) -> _Code:
    return [(_RETURN, 0, 0, action)]


def _refuse(number: int = errno.EPERM) -> _Code:
    return _give(_ERRNO | number)


def _load(offset: int) -> _Code:
    return [(_LOAD, 0, 0, offset)]


def _argument(index: int) -> _Code:
    """Load the low half of an argument; every one that is tested here is an int."""
    return _load(_ARGUMENT + 8 * index)


def _when(operation: int, value: int, body: _Code) -> _Code:
    return [(operation, 0, len(body), value), *body]


def _unless(operation: int, value: int, body: _Code) -> _Code:
    return [(operation, len(body), 0, value), *body]


def _on(call: int, body: _Code) -> _Code:
    """Judge one call by its arguments and allow it where ``body`` does not object."""
    return _when(_EQUAL, call, body + _give(_ALLOW))


def _preamble(machine: str) -> _Code:
    code = _load(_ARCH) + _unless(_EQUAL, _AUDIT_ARCH[machine], _give(_KILL)) + _load(_NUMBER)
    return code + _when(_AT_LEAST, _X32_BIT, _give(_KILL)) + _when(_AT_LEAST, _FIRST_UNKNOWN, _refuse(errno.ENOSYS))


def _sockets(machine: str, *, own_files: bool) -> _Code:
    """AF_UNIX alone, and where the file system is the host's, nothing that can name a socket of the host.

    Streams only: a pair of datagram sockets could still send to any address, and one of them keeps what many send.
    """
    only_unix = _argument(0) + _unless(_EQUAL, _AF_UNIX, _refuse())
    kind = [*_argument(1), (_AND, 0, 0, _SOCK_TYPE_MASK)]
    streams = only_unix + kind + _unless(_EQUAL, _SOCK_STREAM, _unless(_EQUAL, _SOCK_SEQPACKET, _refuse()))
    if own_files:
        return _on(_SOCKET[machine], streams) + _on(_SOCKETPAIR[machine], streams)
    refused = (_SOCKET[machine], _CONNECT[machine], _BIND[machine])
    return [step for call in refused for step in _when(_EQUAL, call, _refuse())] + _on(_SOCKETPAIR[machine], streams)


def _loopback(machine: str) -> _Code:
    """TCP over a network that is the sandbox's own, to connect by: nobody inside is listened to.

    Of the options of a socket, those that clients set; the rest has a history of holes.
    """
    kind = [*_argument(1), (_AND, 0, 0, _SOCK_TYPE_MASK)]
    tcp = kind + _unless(_EQUAL, _SOCK_STREAM, _refuse())
    tcp += _argument(2) + _unless(_EQUAL, 0, _unless(_EQUAL, _TCP, _refuse())) + _give(_ALLOW)
    code = _when(_EQUAL, _SOCKET[machine], _argument(0) + _when(_EQUAL, _AF_INET, tcp) + _load(_NUMBER))
    option = _argument(2)
    for number in _TCP_OPTIONS:
        option += _when(_EQUAL, number, _give(_ALLOW))
    options = _argument(1) + _when(_EQUAL, _TCP, option + _refuse()) + _unless(_EQUAL, _SOL_SOCKET, _refuse())
    code += _when(_EQUAL, _SETSOCKOPT[machine], options + _load(_NUMBER))
    return code + _when(_EQUAL, _LISTEN[machine], _refuse())


def _buffers(machine: str) -> _Code:
    """Keep the buffers of pipes and sockets at their usual size."""
    pipe = _argument(1) + _when(_EQUAL, _F_SETPIPE_SZ, _refuse())
    of_socket = _argument(2)
    for number in _BUFFER_OPTIONS:
        of_socket += _when(_EQUAL, number, _refuse())
    return _on(_FCNTL[machine], pipe) + _on(_SETSOCKOPT[machine], _argument(1) + _when(_EQUAL, _SOL_SOCKET, of_socket))


def _same_user(machine: str) -> _Code:
    """Refuse calls on the user's other files and processes, which pass every check of a path."""
    column, code = _COLUMN[machine], _refused(machine, _ON_OWN_FILES)
    for numbers in _ON_OWN_PROCESSES.values():
        other = _argument(numbers[2]) + _unless(_EQUAL, 0, _refuse())
        code += _on(numbers[column], other)
    return code


def _refused(machine: str, calls: dict[str, tuple[int | None, int | None]]) -> _Code:
    numbers = [pair[_COLUMN[machine]] for pair in calls.values()]
    return [step for number in numbers if number is not None for step in _when(_EQUAL, number, _refuse())]


def sandbox_filter(
    machine: str, *, own_files: bool, own_user: bool, network: bool = False, cuda: bool = False
) -> bytes:
    """The filter of a whole sandbox.

    ``own_files``: its file system and abstract sockets are not the host's;
    ``own_user``: nothing outside belongs to the user that it runs as; ``network``: its
    loopback is its own, and it may connect to what the host serves there; ``cuda``: the
    driver's library may do what it cannot start without.
    """
    allowed = _FOR_CUDA if cuda else ()
    code = _preamble(machine)
    code += _refused(machine, {name: numbers for name, numbers in _REFUSED.items() if name not in allowed})
    # clone3 takes its flags in memory, out of a filter's sight; the C library falls back to clone.
    code += _when(_EQUAL, _CLONE3, _refuse(errno.ENOSYS))
    code += _on(_CLONE[machine], _argument(0) + _when(_ANY_BIT, _NAMESPACES, _refuse()))
    commands = (_TIOCSTI, _TIOCLINUX, *(() if own_user else (_FS_IOC_SETFLAGS, _FS_IOC_FSSETXATTR)))
    refused = [step for command in commands for step in _when(_EQUAL, command, _refuse())]
    code += _on(_IOCTL[machine], _argument(1) + refused)
    # A program that could take this back would outlive the process that supervises it.
    code += _on(_PRCTL[machine], _argument(0) + _when(_EQUAL, linux.PR_SET_PDEATHSIG, _refuse()))
    code += [] if own_user else _same_user(machine)
    code += _loopback(machine) if network else []
    code += _buffers(machine)
    return _assemble(code + _sockets(machine, own_files=own_files) + _give(_ALLOW))


def settled_filter(machine: str) -> bytes:
    """Refuses what a sandbox needs while it is built, and nobody in it afterwards."""
    return _assemble(_preamble(machine) + _refused(machine, _LANDLOCK) + _give(_ALLOW))


def group_filter(machine: str) -> bytes:
    """Keeps a process and its descendants in their process group, so that one kill reaches them all."""
    code = _preamble(machine) + _refused(machine, _LANDLOCK)
    for call in (_SETSID[machine], _SETPGID[machine]):
        code += _when(_EQUAL, call, _refuse())
    return _assemble(code + _give(_ALLOW))


def lone_filter(machine: str) -> bytes:
    """Keeps a process from starting another one, or a thread: the kernel's limit counts all processes of a user."""
    code = _preamble(machine)
    for numbers in _FORKS.values():
        number = numbers[_COLUMN[machine]]
        code += [] if number is None else _when(_EQUAL, number, _refuse(errno.EAGAIN))
    return _assemble(code + _give(_ALLOW))


def _assemble(code: _Code) -> bytes:
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def install(program: bytes) -> None:
    """Put a filter on this process and all that it starts, for good. Needs no_new_privs."""
    linux.prctl(linux.PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(_Program(len(program) // 8, program)))
