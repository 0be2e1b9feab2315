"""A candidate's module stays open and is called: what it returns is data, and whatever else it tries costs it alone."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sia_core.errors import HarnessError, SandboxError
from sia_core.types import Called, Limits
from sia_runtime.sandbox import bwrap, namespaces, process, program_guest, program_host, tree
from sia_runtime.sandbox.contract import SandboxSpec
from sia_runtime.sandbox.process_handle import resource_limits
from sia_runtime.sandbox.program_host import Program, open_program

pytestmark = pytest.mark.real

LIMITS = Limits(setup_seconds=30.0, solve_seconds=30.0, processes=16, file_bytes=16 * 2**20)

# What an attack begins with: the channel, and the order that is being answered.
INSIDE = """
import json, os, stat, struct, sys, threading, time
import numpy as np
def channel():
    for number in range(3, 1024):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                return number
        except OSError:
            pass
def frame(**header):
    text = json.dumps(header).encode()
    return struct.pack(">II", len(text), 0) + text
def order():
    at = sys._getframe()
    while "header" not in at.f_locals:
        at = at.f_back
    return at.f_locals["header"]
def reply(**changed):
    whole = {"token": order()["token"], "ended": "ok", "value": "forged", "message": "", "arrays": []}
    os.write(channel(), frame(**{**whole, **changed}))
def honest(x=1):
    return x
"""


def opened(sandbox: Any, code: str, **more: Any) -> Program:
    return open_program(sandbox, {"kernel.py": (INSIDE + code).encode()}, "kernel", limits=LIMITS, **more)


def call(sandbox: Any, code: str, *arguments: Any, **more: Any) -> Called:
    with opened(sandbox, code) as program:
        return program.call("attack", arguments, **more)


SHARES = """
import mmap
kept = []
def attack(x, *handles):
    kept.extend(mmap.mmap(handle, 4096) for handle in handles)
    for memory in kept:
        memory[0] += int(x.sum())
    return len(handles)
"""


def test_what_descriptors_stand_for_is_shared_from_the_call_on(sandbox: Any) -> None:
    memory, other = (os.memfd_create("shared") for _ in range(2))
    for each in (memory, other):
        os.ftruncate(each, 4096)
    with opened(sandbox, SHARES) as program:
        numbers = [program.call("attack", [np.ones(3)], handles=handles).value for handles in ([memory, other], [])]
        assert program.call("attack", [np.ones(0)], handles=[other]).value == 1
        with pytest.raises(SandboxError, match="5 descriptors cannot be handed"):
            program.call("attack", [np.ones(3)], handles=[memory] * 5)
    assert (numbers, os.pread(memory, 1, 0), os.pread(other, 1, 0)) == ([2, 0], bytes([6]), bytes([6]))
    os.close(memory)
    os.close(other)


COUNTS = """
import mmap
def count(memory):
    while True:
        memory[0] = (memory[0] + 1) % 256
def attack(handle):
    threading.Thread(target=count, args=[mmap.mmap(handle, 4096)], daemon=True).start()
"""


def test_what_is_done_at_the_reply_is_done_before_the_program_stands_still(sandbox: Any) -> None:
    memory = os.memfd_create("shared")
    os.ftruncate(memory, 4096)
    calls: list[int] = []

    def changes() -> None:
        first = os.pread(memory, 1, 0)
        while os.pread(memory, 1, 0) == first:
            time.sleep(0)
        calls.append(1)

    with opened(sandbox, COUNTS) as program:
        assert program.call("attack", handles=[memory], at_reply=changes).ended == "ok"
        assert calls == [1]
        still = os.pread(memory, 1, 0)
        time.sleep(0.02)
        assert os.pread(memory, 1, 0) == still
    os.close(memory)


def test_values_and_arrays_go_there_and_back(sandbox: Any) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    sent: list[Any] = [
        {"weights": {"a": array, "b": array.T}, "array": 1},
        [np.array(2.5), np.zeros((0, 3), np.int8), np.array([True, False]), np.arange(3, dtype=">i4")],
        (None, True, 3, "ü", array.astype(np.float16)),
    ]
    with opened(sandbox, "def same(*x): return x") as program:
        for _ in range(2):
            called = program.call("same", sent)
            assert called.ended == "ok", called
            first, second, third = called.value
            assert first["array"] == 1
            np.testing.assert_array_equal(first["weights"]["a"], array)
            np.testing.assert_array_equal(first["weights"]["b"], array.T)
            assert [(each.dtype.kind, each.shape) for each in second] == [
                ("f", ()),
                ("i", (0, 3)),
                ("b", (2,)),
                ("i", (3,)),
            ]
            assert second[0] == 2.5
            assert second[2].tolist() == [True, False]
            assert second[3].tolist() == [0, 1, 2]
            assert third[:4] == [None, True, 3, "ü"]
            assert third[4].dtype == np.float16
            assert 0 < called.seconds < 60


BUSY = """
def attack():
    started = time.process_time()
    while time.process_time() - started < 0.02:
        pass
    return time.process_time() - started
"""


def test_a_call_says_how_long_it_used_a_processor(sandbox: Any) -> None:
    with opened(sandbox, BUSY) as program:
        first, second = (program.call("attack") for _ in range(2))
    for each in (first, second):
        assert each.value <= each.processor_seconds <= each.seconds + 1


def test_it_keeps_what_it_loaded_from_call_to_call(sandbox: Any) -> None:
    files = {
        "kernel.py": b"from pack import helper\nimport numpy\ncount = 0\n"
        b"def up():\n    global count\n    count += helper.STEP\n    return count",
        "pack/helper.py": b"STEP = 2",
    }
    with open_program(sandbox, files, "kernel", limits=LIMITS) as program:
        assert [program.call("up").value for _ in range(3)] == [2, 4, 6]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def attack():\n    raise KeyError('what')", "KeyError: 'what'\n  kernel.py:"),
        ("", "has no attribute 'attack'"),
        ("def attack(): return object()", "neither JSON nor an array"),
        ("def attack(): return np.array(['text'])", "neither JSON nor an array"),
        ("def attack(): return {1: 2}", "names are not text"),
        ("def attack(): return float('nan')", "not JSON"),
        ("def attack(): return 'x' * 10**6", "more than 262144 bytes"),
        ("def attack(): return np.zeros(17 * 2**20, np.uint8)", "16777216 are accepted"),
        ("def attack():\n    x = []\n    x.append(x)\n    return x", "RecursionError"),
        ("import sys\ndef attack(): sys.exit(3)", "SystemExit"),
    ],
)
def test_a_call_that_fails_says_why_and_the_program_goes_on(sandbox: Any, code: str, says: str) -> None:
    with opened(sandbox, code) as program:
        called = program.call("attack")
        assert called.ended == "error"
        assert says in called.message
        assert program.call("honest").value == 1


@pytest.mark.parametrize(
    ("code", "ended", "says"),
    [
        ("1 / 0", "error", "ZeroDivisionError"),
        ("def f(:", "error", "SyntaxError"),
        ("import sia_core", "error", "ModuleNotFoundError"),
        ("os._exit(3)", "killed", "exit 3"),
        ("os.kill(os.getpid(), 11)", "killed", "signal 11"),
        ("while True: pass", "timeout", "not loaded within"),
        ("os.write(channel(), b'x' * 100)", "protocol", ""),
        ("os.write(channel(), frame(message=3))\ntime.sleep(30)", "error", ""),
    ],
)
def test_a_module_that_cannot_be_loaded_is_told_by_each_call(sandbox: Any, code: str, ended: str, says: str) -> None:
    limits = Limits(setup_seconds=3.0 if ended == "timeout" else 30.0, processes=16)
    with open_program(sandbox, {"kernel.py": (INSIDE + code).encode()}, "kernel", limits=limits) as program:
        for _ in range(2):
            called = program.call("honest")
            assert called.ended == ended, called
            assert says in called.message


@pytest.mark.parametrize(
    ("code", "ended", "says"),
    [
        ("def attack(): os._exit(3)", "killed", "exit 3"),
        ("def attack(): os.kill(os.getpid(), 9)", "killed", "signal 9"),
        ("def attack(): os.abort()", "killed", "signal 6"),
        ("def attack(): os.closerange(0, 1024)", "killed", ""),
        ("def attack(): time.sleep(100)", "timeout", "no answer within 1 seconds"),
        ("def attack():\n    while True: pass", "timeout", "no answer within 1 seconds"),
    ],
)
def test_however_it_ends_it_says_so_and_stays_ended(sandbox: Any, code: str, ended: str, says: str) -> None:
    with opened(sandbox, code) as program:
        called = program.call("attack", seconds=1.0 if ended == "timeout" else 30.0)
        assert called.ended == ended, called
        assert says in called.message
        assert program.call("honest") == called


def test_its_memory_is_bounded(sandbox: Any) -> None:
    code = "def attack():\n    x = [np.ones(2**23) for _ in range(64)]\n    time.sleep(30)"
    limits = Limits(total_memory_bytes=2**29, processes=16)
    with open_program(sandbox, {"kernel.py": (INSIDE + code).encode()}, "kernel", limits=limits) as program:
        assert program.call("attack").ended == "memory"


@pytest.mark.parametrize(
    "changed",
    [
        "arrays=[['|O', [1]]], value={'array': 0}",
        "arrays=[['<V8', [1]]], value={'array': 0}",
        "arrays=[[['<f4'], [1]]], value={'array': 0}",
        "arrays=[['<f4', [-1]]], value={'array': 0}",
        "arrays=[['<f4', [True]]], value={'array': 0}",
        "arrays=[['<f4', [1.0]]], value={'array': 0}",
        "arrays=[['<f4', [2**60]]], value={'array': 0}",
        "arrays=[['<f4', [2**40, 2**40, 0]]], value={'array': 0}",
        "arrays=[['<f4', [1] * 17]], value={'array': 0}",
        "arrays=[['<f4', [2**23]]], value={'array': 0}",
        "arrays=[['|u1', []]] * 2000",
        "arrays=None",
        "arrays={}",
        "value={'array': 0}",
        "value={'array': -1}",
        "value={'array': True}",
        "value={'object': [1]}",
        "value={'other': 1}",
        "value={}",
        "value=float('inf')",
        "ended='promoted'",
        "ended=None",
        "token=None",
        "token='0' * 32",
        "padding='x' * 300000",
    ],
)
def test_a_reply_that_no_honest_program_sends_ends_it(sandbox: Any, changed: str) -> None:
    called = call(sandbox, f"def attack():\n    reply({changed})\n    time.sleep(30)")
    assert (called.ended, called.value) == ("protocol", None), called


@pytest.mark.parametrize("data", ["b'\\xff' * 64", "struct.pack('>II', 4, 0) + b'null'", "struct.pack('>II', 2, 9)"])
def test_noise_on_its_channel_ends_it(sandbox: Any, data: str) -> None:
    assert call(sandbox, f"def attack():\n    os.write(channel(), {data})\n    time.sleep(30)").ended == "protocol"


def test_a_second_answer_is_no_answer_to_the_next_call(sandbox: Any) -> None:
    with opened(sandbox, "def attack():\n    reply()\n    return 'late'") as program:
        called = program.call("attack")
        following = program.call("honest")
    assert (called.ended, called.value) in [("ok", "forged"), ("protocol", None)]
    assert following.ended == "protocol"


def test_an_answer_before_the_order_ends_it(sandbox: Any) -> None:
    code = "def attack():\n    threading.Thread(target=early, args=(order()['token'],)).start()\n    time.sleep(30)\n"
    code += "def early(token):\n    os.write(channel(), 2 * frame(token=token, ended='ok', value=2, arrays=[]))"
    with opened(sandbox, code) as program:
        program.call("attack")
        assert program.call("honest").ended == "protocol"


def test_what_it_does_to_its_inputs_reaches_nobody(sandbox: Any) -> None:
    array = np.ones(2**16)
    with opened(sandbox, "def attack(x):\n    x[:] = 7\n    return x") as program:
        assert (program.call("attack", [array]).value == 7).all()
        assert (array == 1).all()
        assert (program.call("honest", [array]).value == 1).all()


def test_inputs_are_gone_after_their_call(sandbox: Any) -> None:
    code = "kept = []\ndef keep(x): kept.append(x)\ndef attack(): return float(kept[0].sum())"
    with opened(sandbox, code) as program:
        assert program.call("keep", [np.ones(2**16)]).ended == "ok"
        called = program.call("attack")
    assert called.ended == "killed"
    assert "signal 7" in called.message


CHANGES = """
held = []
def attack():
    out = np.zeros(2**16)
    def change():
        while True:
            for number in range(3, 1024):
                try:
                    os.pwrite(number, b"\\xff" * 2**16, 0)
                except OSError:
                    pass
            out[:] += 1
    threading.Thread(target=change, daemon=True).start()
    held.append(out)
    return np.zeros(2**16)
"""


def test_what_it_changes_after_its_answer_reaches_nobody(sandbox: Any) -> None:
    with opened(sandbox, CHANGES) as program:
        value = program.call("attack").value
        before = value.copy()
        program.call("honest", [np.zeros(2**18)])
        np.testing.assert_array_equal(value, before)


WORKS_ON = """
def spin():
    while True: pass
def attack():
    threading.Thread(target=spin, daemon=True).start()
    if os.fork() == 0: spin()
    os.write(1, b"")
    return 1
def used():
    return time.process_time()
"""


def test_between_calls_all_of_it_stands_still(sandbox: Any) -> None:
    with opened(sandbox, WORKS_ON) as program:
        program.call("attack")
        first = program.call("used").value
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass
        last = program.call("used")
        assert last.value - first < 0.15 + last.seconds


WAKES_ITSELF = """
import ctypes, signal
def attack():
    library, timer = ctypes.CDLL(None), ctypes.c_void_p()
    event = (ctypes.c_int * 16)(0, 0, signal.SIGCONT)
    signal.signal(signal.SIGCONT, burn)
    assert library.timer_create(time.CLOCK_MONOTONIC, event, ctypes.byref(timer)) == 0
    assert library.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 50_000_000, 0, 50_000_000), None) == 0
def burn(*_):
    started = time.process_time()
    while time.process_time() - started < 0.05:
        pass
"""


def test_a_timer_that_wakes_it_between_calls_ends_it(sandbox: Any) -> None:
    with opened(sandbox, WAKES_ITSELF) as program:
        program.call("attack")
        end = time.monotonic() + 10
        while sum(program._processor_seconds().values()) - sum(program._used.values()) < 0.02:
            if time.monotonic() > end:
                break
        assert program.call("honest").ended == "killed"


HIDES_ITS_WORK = """
import ctypes, signal
def burn(seconds):
    started = time.process_time()
    while time.process_time() - started < seconds:
        pass
def wakes(what):
    library, timer = ctypes.CDLL(None), ctypes.c_void_p()
    signal.signal(signal.SIGCONT, what)
    event = (ctypes.c_int * 16)(0, 0, signal.SIGCONT)
    assert library.timer_create(time.CLOCK_MONOTONIC, event, ctypes.byref(timer)) == 0
    assert library.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 0, 300_000_000), None) == 0
def attack():
    source, sink = os.pipe()
    if os.fork() == 0:
        burn(0.2)
        os.write(sink, b"!")
        wakes(lambda *_: os._exit(0))
        time.sleep(60)
    os.read(source, 1)
    wakes(lambda *_: burn(0.1))
"""


def test_the_end_of_one_process_between_calls_does_not_make_up_for_the_work_of_another(sandbox: Any) -> None:
    with opened(sandbox, HIDES_ITS_WORK) as program:
        program.call("attack")
        before, now = program._used, program._used
        while before.keys() <= now.keys() or max(now[each] - before[each] for each in now) < 0.05:
            now = program._processor_seconds()
        assert program.call("honest").ended == "killed"


STARTS_OTHERS = """
def attack():
    tries = (os.fork, lambda: os.posix_spawn("/bin/true", ["true"], {}), threading.Thread(target=print).start)
    refused = 0
    for each in tries:
        try:
            each()
        except (OSError, RuntimeError):
            refused += 1
    return refused
"""


def test_a_program_of_one_process_starts_and_starts_no_other(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # As for an ordinary user whose other processes have ended: the kernel counts all of them.
    more = {"namespaces": namespaces, "bwrap": bwrap, "process": process}[sandbox.name]
    monkeypatch.setattr(more, "resource_limits", lambda limits, count, **of: resource_limits(limits, count + 9, **of))
    files = {"kernel.py": (INSIDE + STARTS_OTHERS).encode()}
    with open_program(sandbox, files, "kernel", limits=Limits(processes=1)) as program:
        assert program.call("attack").value == 3


def test_an_ordinary_users_limit_counts_the_supervisor_too(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(namespaces, "Running", lambda config, *_: limits.append(config["limits"]["RLIMIT_NPROC"]))
    for other_user in (True, False):
        monkeypatch.setattr(namespaces.launch, "can_be_other_user", lambda result=other_user, **_: result)
        namespaces.Namespaces().start(SandboxSpec(Path(program_guest.__file__), limits=Limits(processes=1)))
    assert limits == [2, 3]


def test_who_forks_without_end_is_stopped_too(sandbox: Any) -> None:
    code = "def attack():\n    if os.fork() == 0:\n        while os.fork(): os._exit(0)\n        attack()\n    return 1"
    with opened(sandbox, code) as program:
        assert program.call("attack").ended in ("ok", "killed", "processes")
        supervisor = program._process._process.pid  # type: ignore[attr-defined]
    assert not tree.descendants(supervisor)


def test_descriptors_that_it_sends_are_not_taken(sandbox: Any) -> None:
    code = "import socket\ndef attack():\n    with socket.socket(fileno=os.dup(channel())) as end:\n"
    code += "        for _ in range(3): socket.send_fds(end, [b'\\0'], [0, 1, 2])\n    return 1"
    with opened(sandbox, code) as program:
        before = len(os.listdir("/proc/self/fd"))
        called = program.call("attack", seconds=2.0)
        assert called.ended in ("protocol", "timeout")
        assert len(os.listdir("/proc/self/fd")) <= before


def test_it_may_be_closed_twice_and_called_after(sandbox: Any) -> None:
    program = opened(sandbox, "")
    program.close()
    program.close()
    assert program.call("honest").ended == "killed"


def test_only_a_module_of_those_given_is_loaded(sandbox: Any) -> None:
    with pytest.raises(SandboxError, match="none of the modules"):
        open_program(sandbox, {"kernel.py": b""}, "os")
    with pytest.raises(HarnessError, match="not a path"):
        open_program(sandbox, {"kernel.py": b"", "../x.py": b""}, "kernel")


def test_an_argument_that_is_no_value_is_the_callers_mistake(sandbox: Any) -> None:
    with opened(sandbox, "") as program:
        with pytest.raises(TypeError, match="neither JSON nor an array"):
            program.call("honest", [object()])
        assert program.call("honest").value == 1


def test_memory_that_the_kernel_still_holds_is_sealed_a_little_later(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def busy(memory: int, command: int, seals: int) -> int:
        tries.append(seals)
        if len(tries) < 4:
            raise OSError(errno.EBUSY, "busy")
        return 0

    monkeypatch.setattr(program_host.fcntl, "fcntl", busy)
    program_host._seal_writes(7)
    assert len(tries) == 4
