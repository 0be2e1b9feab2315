"""The system call filter, run on paper: both architectures, without a kernel."""

from __future__ import annotations

import errno
import struct

import pytest

from sia_runtime.sandbox import seccomp

ALLOW, KILL = "allow", "kill"
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def judge(program: bytes, machine: str, number: int, *args: int, arch: int | None = None) -> str:
    """The filter's verdict, by a small classic BPF interpreter."""
    data = struct.pack("<IIQ6Q", number, arch or ARCHES[machine], 0, *(args + (0,) * 6)[:6])
    steps = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x54:
            accumulator &= value
        elif code in (0x15, 0x35, 0x45):
            matches = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += yes if matches else no
        elif value >= 0x80000000:
            return KILL
        elif value == 0x7FFF0000:
            return ALLOW
        else:
            return errno.errorcode[value & 0xFFFF]


@pytest.fixture(params=list(ARCHES))
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[(True, True), (False, True), (False, False)])
def program(request: pytest.FixtureRequest, machine: str) -> bytes:
    own_files, own_user = request.param
    return seccomp.sandbox_filter(machine, own_files=own_files, own_user=own_user)


def test_every_listed_call_is_refused_and_the_usual_ones_are_not(program: bytes, machine: str) -> None:
    column = list(ARCHES).index(machine)
    for name, numbers in seccomp._REFUSED.items():
        if numbers[column] is not None:
            assert judge(program, machine, numbers[column], 1, 1, 1) == "EPERM", name
    usual = {"x86_64": (0, 1, 3, 9, 59, 60, 202, 231, 257), "aarch64": (63, 64, 57, 222, 221, 93, 98, 94, 56)}
    for number in usual[machine]:
        assert judge(program, machine, number) == ALLOW


def test_another_architecture_is_killed(program: bytes, machine: str) -> None:
    for arch in (0x40000003, 0x40000028, 0xC0000015):
        assert judge(program, machine, 0, arch=arch) == KILL
    assert judge(program, machine, 0x40000000 + 1) == KILL


def test_calls_newer_than_the_list_do_not_exist(program: bytes, machine: str) -> None:
    assert {judge(program, machine, number) for number in range(457, 600)} == {"ENOSYS"}
    assert judge(program, machine, 435) == "ENOSYS"


def test_clone_makes_processes_and_threads_and_no_namespaces(program: bytes, machine: str) -> None:
    clone = {"x86_64": 56, "aarch64": 220}[machine]
    assert judge(program, machine, clone, 17) == ALLOW
    assert judge(program, machine, clone, 0x3D0F00) == ALLOW
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert judge(program, machine, clone, flag | 17) == "EPERM"


def test_sockets(machine: str) -> None:
    make, pair, connect, bind = {"x86_64": (41, 53, 42, 49), "aarch64": (198, 199, 203, 200)}[machine]
    own, shared = (seccomp.sandbox_filter(machine, own_files=own, own_user=True) for own in (True, False))
    for family in (2, 10, 16, 17, 38, 40):
        assert judge(own, machine, make, family, 1) == judge(shared, machine, make, family, 1) == "EPERM"
        assert judge(own, machine, pair, family, 1) == judge(shared, machine, pair, family, 1) == "EPERM"
    assert [judge(own, machine, call, 1, 1) for call in (make, pair, connect, bind)] == [ALLOW] * 4
    assert [judge(shared, machine, call, 1, 1) for call in (make, connect, bind)] == ["EPERM"] * 3
    assert judge(shared, machine, pair, 1, 1 | 0o2000000 | 0o4000) == ALLOW
    assert judge(shared, machine, pair, 1, 5) == ALLOW
    for program in (own, shared):
        assert judge(program, machine, pair, 1, 2) == judge(program, machine, pair, 1, 2 | 0o2000000) == "EPERM"


def test_a_network_of_its_own_is_for_connecting_by_tcp(machine: str) -> None:
    make, pair, connect, listen, option = {"x86_64": (41, 53, 42, 50, 54), "aarch64": (198, 199, 203, 201, 208)}[
        machine
    ]
    own = seccomp.sandbox_filter(machine, own_files=True, own_user=True, network=True)
    for kind, protocol in ((1, 0), (1 | 0o2000000 | 0o4000, 6)):
        assert judge(own, machine, make, 2, kind, protocol) == ALLOW
    for family, kind, protocol in ((2, 2, 0), (2, 3, 1), (2, 5, 0), (2, 1, 262), (10, 1, 0), (16, 3, 0), (17, 3, 0)):
        assert judge(own, machine, make, family, kind, protocol) == "EPERM"
    assert judge(own, machine, make, 1, 1) == judge(own, machine, connect, 3) == ALLOW
    assert judge(own, machine, pair, 2, 1) == judge(own, machine, listen, 3, 5) == "EPERM"
    assert judge(own, machine, option, 3, 6, 1) == judge(own, machine, option, 3, 1, 9) == ALLOW
    for level, name in ((6, 31), (6, 19), (0, 35), (41, 26), (17, 1)):
        assert judge(own, machine, option, 3, level, name) == "EPERM"


def test_arguments_are_compared_as_the_kernel_reads_them(program: bytes, machine: str) -> None:
    # An int argument is the low half of its register: a dirty high half must change nothing.
    ioctl, prctl = {"x86_64": (16, 157), "aarch64": (29, 167)}[machine]
    for high in (0, 0xFFFFFFFF << 32):
        assert judge(program, machine, ioctl, 0, high | 0x5412) == "EPERM"
        assert judge(program, machine, prctl, high | 1) == "EPERM"
    assert judge(program, machine, ioctl, 0, 0x5401) == ALLOW
    assert judge(program, machine, prctl, 15) == ALLOW


def test_the_filter_of_a_solve_keeps_it_in_its_group(machine: str) -> None:
    program = seccomp.group_filter(machine)
    setsid, setpgid = {"x86_64": (112, 109), "aarch64": (157, 154)}[machine]
    assert judge(program, machine, setsid) == judge(program, machine, setpgid) == "EPERM"
    assert judge(program, machine, 0) == ALLOW


def test_where_the_user_is_the_hosts_his_files_and_processes_are_left_alone(machine: str) -> None:
    own, shared = (seccomp.sandbox_filter(machine, own_files=False, own_user=own) for own in (True, False))
    column = list(ARCHES).index(machine)
    for numbers in seccomp._ON_OWN_FILES.values():
        if numbers[column] is not None:
            assert judge(own, machine, numbers[column]) == ALLOW
            assert judge(shared, machine, numbers[column]) == "EPERM"
    for *numbers, index in seccomp._ON_OWN_PROCESSES.values():
        for process, verdict in ((0, ALLOW), (4321, "EPERM")):
            args = [0] * index + [process]
            assert judge(own, machine, numbers[column], *args) == ALLOW
            assert judge(shared, machine, numbers[column], *args) == verdict


def test_what_the_kernel_keeps_of_what_is_sent_has_its_usual_size(program: bytes, machine: str) -> None:
    option, control = {"x86_64": (54, 72), "aarch64": (208, 25)}[machine]
    for name in (7, 8, 32, 33):
        assert judge(program, machine, option, 3, 1, name) == "EPERM"
        with_network = seccomp.sandbox_filter(machine, own_files=True, own_user=True, network=True)
        assert judge(with_network, machine, option, 3, 1, name) == "EPERM"
    assert judge(program, machine, option, 3, 1, 9) == ALLOW
    assert judge(program, machine, control, 3, 1031) == "EPERM"
    assert judge(program, machine, control, 3, 4) == ALLOW


def test_nobody_makes_rules_once_the_sandbox_is_built(machine: str) -> None:
    for rules in (seccomp.settled_filter(machine), seccomp.group_filter(machine)):
        assert judge(rules, machine, 444) == judge(rules, machine, 445) == "EPERM"
        assert judge(rules, machine, 446) == ALLOW
