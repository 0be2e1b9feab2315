"""Harnesses that break, hang, flood and lie: each costs its own instance, and the next works as if nothing was.

``sia_attacks`` has what a whole run can tell; here is what only a worker's own results show.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sia_core.types import Limits
from sia_runtime.sandbox.frames import OUTCOMES
from sia_runtime.worker import harness_worker as worker_module
from sia_runtime.worker.harness_worker import SolveResult

pytestmark = pytest.mark.real

MB = 2**20
QUICK = Limits(setup_seconds=20.0, solve_seconds=1.0, processes=16)
ROOMY = replace(QUICK, solve_seconds=20.0)

# What an attacking solve may use: the frame of a result, as a guest would write it, to every descriptor it has.
FORGE = """
    import json, os, struct, sys
    def frame(header, body=b""):
        text = json.dumps(header).encode()
        return struct.pack(">II", len(text), len(body)) + text + body
    def result(body, **changes):
        return frame({"op": "done", "outcome": "ok", "message": "", "rewards": [], **changes}, body)
    def is_open(descriptor):
        try:
            return bool(os.fstat(descriptor))
        except OSError:
            return False
    def send(data):
        for descriptor in range(3, 1024):
            try:
                os.write(descriptor, data)
            except OSError:
                pass
"""


def check_all(
    bench: Any, attacks: Mapping[str, str], *, limits: Limits = ROOMY, prelude: str = "", **more: Any
) -> dict[str, SolveResult]:
    """Solve with each attack and with good instances before, between and after them; results of the attacks."""
    code = textwrap.dedent(prelude)
    for number, attack in enumerate(attacks.values()):
        code += f"\ndef attack_{number}(instance, ctx):\n{textwrap.indent(attack.strip(), '    ')}\n"
    code += "\ndef solve(instance, ctx):\n    number = instance.input['do']\n"
    code += "    return 42 if number is None else globals()[f'attack_{number}'](instance, ctx)\n"
    inputs: list[int | None] = [None, *(each for number in range(len(attacks)) for each in (number, None))]
    results = bench.solve(code, inputs, limits=limits, **more)
    for good in results[::2]:
        assert (good.outcome, good.answer) == ("ok", "42"), good
    return dict(zip(attacks, results[1::2], strict=True))


def check(bench: Any, attack: str, outcomes: set[str], **more: Any) -> SolveResult:
    """The same with one attack, which ends as one of these outcomes."""
    result = check_all(bench, {"": attack}, **more)[""]
    assert result.outcome in outcomes, result
    return result


BROKEN = {
    "exit": ("import sys; sys.exit(3)", "crash", "SystemExit: 3"),
    "exit at once": ("import os; os._exit(3)", "crash", "exit code 3"),
    "interrupt": ("raise KeyboardInterrupt", "crash", "KeyboardInterrupt"),
    "segmentation fault": ("import ctypes; ctypes.string_at(0)", "killed", "signal 11"),
    "kills itself": ("import os; os.kill(os.getpid(), 9)", "killed", "signal 9"),
    "closes its descriptors": ("import os; os.closerange(0, 1024)", "crash", "exit code"),
    "deep recursion": ("def f(): f()\nf()", "crash", "RecursionError"),
    "a text that raises": (
        "class E(Exception):\n    def __str__(self): raise E\nraise E",
        "crash",
        "cannot be had",
    ),
    "a text without end": ("class E(Exception):\n    def __str__(self): return 'x' * 10**8\nraise E", "crash", "xxx"),
    "a text that exits": (
        "import os\nclass E(Exception):\n    def __str__(self): os._exit(4)\nraise E",
        "crash",
        "4",
    ),
    "a text that is no text": ("raise ValueError('\\ud800')", "crash", "ValueError: ?"),
}
HANGING = {
    "stops itself": ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "timeout", "1 seconds"),
    "closes its descriptors and hangs": ("import os; os.closerange(0, 1024)\nwhile True: pass", "timeout", ""),
}


@pytest.mark.parametrize(("broken", "limits"), [(BROKEN, ROOMY), (HANGING, QUICK)], ids=["broken", "hanging"])
def test_an_instance_that_breaks_costs_itself_alone(
    bench: Any, broken: dict[str, tuple[str, str, str]], limits: Limits
) -> None:
    results = check_all(bench, {name: each[0] for name, each in broken.items()}, limits=limits)
    for name, (_, outcome, message) in broken.items():
        assert results[name].outcome == outcome, name
        assert message in results[name].message, name


ANSWERS = {
    "no json": "return {1, 2}",
    "half a surrogate pair": "return '\\ud800'",
    "holds itself": "a = []; a.append(a); return a",
    "very deep": "a = []\nfor _ in range(10**5): a = [a]\nreturn a",
    "deep": "a = []\nfor _ in range(200): a = [a]\nreturn a",
}


def test_an_answer_that_means_nothing_is_refused(bench: Any) -> None:
    for name, result in check_all(bench, ANSWERS).items():
        assert (result.outcome, result.answer) == ("not-json", None), name
        assert result.message, name


FORGED = {
    "not unicode": ("send(result(b'\"\\xff\"'))", "not-json"),
    "empty": ("send(result(b''))", "not-json"),
    "too large": ("send(result(b'1' * (2**20 + 1)))", "answer-too-large"),
    "no message": ("send(result(b'1', message=None))", "protocol"),
    "rewards that are none": ("send(result(b'1', rewards=[float('inf')]))", "protocol"),
    "rewards without end": ("send(result(b'1', rewards=[1] * 10**4))", "protocol"),
    "no frame": ("send(b'hello, this is not a frame')", "protocol"),
    "a frame of four gigabytes": ("send(b'\\xff' * 8)", "protocol"),
    "no object": ("send(struct.pack('>II', 2, 0) + b'[]')", "protocol"),
    "a deep header": ("send(struct.pack('>II', 2 * 10**5, 0) + b'[' * 10**5 + b']' * 10**5)", "protocol"),
    "a model call that nobody answers": ("send(frame({'op': 'model'}, b'{}'))", "protocol"),
}


def test_frames_that_a_harness_forges_cost_its_instance(bench: Any) -> None:
    attacks = {name: attack + "\nwhile True: pass" for name, (attack, _) in FORGED.items()}
    for name, result in check_all(bench, attacks, prelude=FORGE).items():
        assert result.outcome == FORGED[name][1], (name, result)


def test_two_answers_to_one_instance_are_one(bench: Any) -> None:
    assert check(bench, "send(result(b'1') + result(b'2'))", {"ok", "protocol"}, prelude=FORGE).answer in ("1", None)


def test_the_hosts_channel_is_not_a_solves(bench: Any) -> None:
    # Only setup code can hand the descriptor on, and what is written there is checked by the host.
    hand_on = (
        FORGE
        + """
    def setup(ctx):
        copies = []
        for descriptor in [each for each in range(3, 1024) if is_open(each)]:
            copies.append(os.dup(descriptor))
        return copies
    def send_to_host(data, copies):
        for copy in copies:
            try:
                os.write(copy, data)
            except OSError:
                pass
    """
    )
    for lie in (
        "b'\\xff' * 64",
        "frame({'op': 'done', 'job': 10**6})",
        "frame({'op': 'model', 'job': 1}, b'{}')",
        "frame({'op': 'ready'})",
    ):
        attack = f"send_to_host({lie}, ctx.state)\nwhile True: pass"
        check(bench, attack, {"protocol"}, prelude=hand_on, limits=ROOMY)


def test_printing_without_end_is_a_flood(bench: Any) -> None:
    result = check(bench, "while True: print('x' * 1000)", {"flood"}, limits=ROOMY)
    assert len(result.log) == ROOMY.output_bytes


def test_a_flood_from_set_up_is_cut(bench: Any) -> None:
    code = "import os\nwhile True: os.write(2, b'x' * 10**5)\ndef solve(instance, ctx): ..."
    (result,) = bench.solve(code, [0], limits=replace(QUICK, setup_seconds=1.0))
    assert result.outcome == "setup-timeout"
    assert len(result.message) < 10_000


SHARED = """
import mmap, os, signal
for _ in range(8):
    if os.fork() == 0:
        x = mmap.mmap(-1, 60 * 2**20)
        x[:] = b"x" * len(x)
        while True: signal.pause()
while True: signal.pause()
"""


def test_memory_that_children_share_is_bounded(bench: Any) -> None:
    check(bench, SHARED, {"memory"}, limits=replace(ROOMY, total_memory_bytes=256 * MB))


def test_a_file_cannot_be_made_longer_than_any_may_be(bench: Any) -> None:
    attack = "import os; os.truncate(os.open(ctx.scratch / 'file', os.O_CREAT | os.O_RDWR), 2**40)"
    check(bench, attack, {"disk"}, limits=replace(ROOMY, scratch_bytes=20 * MB, file_bytes=4 * MB))


def test_threads_without_end_are_bounded(bench: Any) -> None:
    threads = """
import threading
while True:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
"""
    check(bench, threads, {"crash", "timeout", "processes"}, limits=QUICK)


def test_what_a_solve_starts_ends_with_it(bench: Any) -> None:
    # The child would write the next instance's answer for it, or keep its pipes open, were it left.
    code = """
    import os, signal, time
    def solve(instance, ctx):
        if instance.input["do"] == "leave":
            if os.fork() == 0:
                try:
                    os.setsid()
                except OSError:
                    pass
                if os.fork():
                    os._exit(0)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                while True: signal.pause()
            return os.getpid()
        try:
            os.killpg(instance.input["do"], 0)
            return "it is still there"
        except ProcessLookupError:
            return "gone"
        except PermissionError:
            return "it is still there"
    """
    worker = bench.worker(code, slots=1)
    (before,) = bench.run(worker, ["leave"])
    (after,) = bench.run(worker, [json.loads(before.answer)])
    assert (before.outcome, after.answer) == ("ok", '"gone"')


TEMPLATE_KILLERS = {
    "exits": "os._exit(7)",
    "is stopped by an error": "os.abort()",
    "segmentation fault": "__import__('ctypes').string_at(0)",
}


@pytest.mark.parametrize("name", TEMPLATE_KILLERS)
def test_a_harness_that_always_kills_its_worker_is_given_up(bench: Any, name: str) -> None:
    code = f"""
    import os
    os.register_at_fork(before=lambda: {TEMPLATE_KILLERS[name]})
    def solve(instance, ctx): return 1
    """
    results = bench.solve(code, list(range(40)))
    assert {result.outcome for result in results} == {"killed"}


def test_an_instance_that_kills_the_worker_is_found_among_its_neighbours(bench: Any) -> None:
    code = """
    import os, threading
    def setup(ctx):
        source, sink = os.pipe()
        threading.Thread(target=lambda: os.read(source, 1) and os._exit(9), daemon=True).start()
        return sink
    def solve(instance, ctx):
        if instance.input["do"] == "kill":
            os.write(ctx.state, b"!")
            while True: pass
        return 42
    """
    results = bench.solve(code, [1, 2, "kill", 3, 4, "kill", 5, 6], slots=3, limits=ROOMY)
    assert [result.outcome for result in results] == ["ok", "ok", "killed", "ok", "ok", "killed", "ok", "ok"], results


def test_a_worker_that_answers_no_more_is_timed_by_the_host(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_GRACE_SECONDS", 0.0)
    code = """
    import os
    def forever():
        while True: pass
    os.register_at_fork(before=forever)
    def solve(instance, ctx): return 1
    """
    results = bench.solve(code, list(range(10)), limits=replace(QUICK, solve_seconds=0.2))
    assert {result.outcome for result in results} == {"timeout"}


SPOILT = {
    "builtins": """
import builtins
for name in ("open", "len", "dict", "map", "isinstance", "print"):
    setattr(builtins, name, None)
""",
    "json": "import json; json.dumps = json.loads = lambda *a, **k: '{}'",
    "os": "import os; os.write = os.read = os.fork = lambda *a: 0",
    "clock": "import time; time.monotonic = lambda: 0",
    "select": "import select; select.poll = None",
    "its own runner": """
import gc, types
for each in gc.get_objects():
    if isinstance(each, types.FunctionType):
        each.__code__ = (lambda *a, **k: None).__code__
""",
    "every descriptor": "import os; os.closerange(0, 1024)",
    "trace": "import sys; sys.settrace(lambda *a: 1 / 0); sys.setrecursionlimit(50)",
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_set_up_that_spoils_its_own_interpreter_hurts_nobody_else(
    bench: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_GRACE_SECONDS", 0.5)
    code = "def setup(ctx):\n" + "".join(f"    {line}\n" for line in SPOILT[name].strip().splitlines())
    code += "def solve(instance, ctx): return 42\n"
    limits = replace(QUICK, setup_seconds=1.0, solve_seconds=0.3)
    for result in bench.solve(code, [0, 1, 2], limits=limits):
        assert result.outcome in OUTCOMES | {"setup-crash", "setup-timeout"}
    (good,) = bench.solve("def solve(instance, ctx): return 42", [0])
    assert (good.outcome, good.answer) == ("ok", "42")


def test_a_result_before_a_lie_is_kept_and_comes_once(bench: Any) -> None:
    code = (
        FORGE
        + """
    def setup(ctx):
        copies = []
        for descriptor in [each for each in range(3, 1024) if is_open(each)]:
            copies.append(os.dup(descriptor))
        return copies
    def solve(instance, ctx):
        done = {"op": "done", "job": 1, "outcome": "ok", "message": "", "rewards": [], "seconds": 0, "answer": 1}
        for copy in ctx.state:
            try:
                os.write(copy, frame(done, b"7") + frame({**done, "job": 10**6}, b"7"))
            except OSError:
                pass
        while True: pass
    """
    )
    results = bench.solve(code, [0], slots=1)
    assert [(result.outcome, result.answer) for result in results] == [("ok", "7")]
