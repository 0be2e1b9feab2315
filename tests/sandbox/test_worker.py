"""A worker solves instances with a harness, each in its own fork, and brings back what they did."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sandbox.policies import Policy

from sia_core.errors import HarnessError, SandboxError
from sia_core.types import Limits
from sia_runtime.worker.harness_worker import SolveRequest

pytestmark = pytest.mark.real

QUICK = Limits(setup_seconds=20.0, solve_seconds=0.5, processes=16)
ECHO = """
    def solve(instance, ctx):
        return {"id": instance.id, "got": instance.input, "start": instance.start, "seed": ctx.seed}
"""
STATE = """
    import os
    def setup(ctx):
        (ctx.scratch / "model").write_text("made by setup")
        return os.urandom(8).hex()
    def solve(instance, ctx):
        return ctx.state
"""


def test_an_answer_comes_back_as_json_text(bench: Any) -> None:
    (result,) = bench.solve(ECHO, [[1, "ü\u2028", None]])
    assert result.outcome == "ok", result
    assert json.loads(result.answer) == {"id": "i0", "got": {"do": [1, "ü\u2028", None]}, "start": None, "seed": 0}
    assert result.seconds > 0


def test_many_instances_each_come_once(bench: Any) -> None:
    results = bench.solve(ECHO, list(range(50)), slots=4)
    assert [json.loads(result.answer)["got"]["do"] for result in results] == list(range(50))


def test_a_second_call_uses_the_same_set_up(bench: Any) -> None:
    worker = bench.worker(STATE)
    answers = {result.answer for _ in range(2) for result in bench.run(worker, [1, 2])}
    assert len(answers) == 1


def test_files_of_the_harness_public_files_and_libraries_can_be_used(bench: Any) -> None:
    code = """
        import helper, numpy
        def solve(instance, ctx):
            return [helper.name(), (ctx.public / "cases.txt").read_text(), int(numpy.arange(4).sum())]
    """
    (result,) = bench.solve(code, [0], files={"helper.py": "def name(): return __name__"}, requires=("numpy",))
    assert json.loads(result.answer) == ["helper", "public", 6]


def test_what_a_harness_does_not_require_is_not_there(bench: Any) -> None:
    code = """
        import importlib.util, sys
        def solve(instance, ctx):
            names = ["numpy", "pluggy", "pytest", "pip", "sia_core", "sia_lawbench", "sia_program"]
            return [name for name in names if importlib.util.find_spec(name) or name in sys.modules]
    """
    (result,) = bench.solve(code, [0])
    assert result.answer == "[]"


def test_a_part_of_sia_cannot_be_required(bench: Any) -> None:
    with pytest.raises(HarnessError, match="sia-core"):
        bench.solve(ECHO, [0], requires=("sia-core",))


def test_set_up_leaves_files_that_every_solve_may_read_and_none_may_change(bench: Any) -> None:
    code = """
        def setup(ctx):
            (ctx.scratch / "model").write_text("made by setup")
            return str(ctx.scratch / "model")
        def solve(instance, ctx):
            text = open(ctx.state).read()
            try:
                open(ctx.state, "w")
            except OSError:
                return text
    """
    assert [result.answer for result in bench.solve(code, [0, 1])] == ['"made by setup"'] * 2


def test_log_output_and_step_rewards_come_back(bench: Any) -> None:
    code = """
        import subprocess, sys
        def solve(instance, ctx):
            ctx.log.info("a line")
            print("printed")
            print("complained", file=sys.stderr)
            ctx.reward(0.5)
            ctx.reward(1)
            return None
    """
    (result,) = bench.solve(code, [0])
    assert sorted(result.log.splitlines()) == ["INFO a line", "complained", "printed"]
    assert result.step_rewards == (0.5, 1.0)
    assert result.answer == "null"


def test_the_log_is_cut_at_its_limit(bench: Any) -> None:
    code = "def solve(instance, ctx): print('x' * 5000)"
    (result,) = bench.solve(code, [0], limits=Limits(output_bytes=1000))
    assert (result.outcome, result.log) == ("ok", "x" * 1000)


def test_a_crash_has_the_harnesss_own_lines(bench: Any) -> None:
    code = """
        import helper
        def solve(instance, ctx):
            return helper.divide(instance.input["do"])
    """
    crashed, fine = bench.solve(code, [0, 4], files={"helper.py": "def divide(n):\n    return 8 / n\n"})
    assert crashed.outcome == "crash"
    assert crashed.message.splitlines() == [
        "ZeroDivisionError: division by zero",
        '  harness.py:4 in solve: return helper.divide(instance.input["do"])',
        "  helper.py:2 in divide: return 8 / n",
    ]
    assert fine.answer == "2.0"


@pytest.mark.parametrize("stateless", [False, True])
def test_a_hung_instance_costs_itself_alone(bench: Any, stateless: bool) -> None:
    code = """
        import signal
        def solve(instance, ctx):
            while instance.input["do"] == "hang": signal.pause()
            return 1
    """
    results = bench.solve(
        code, ["hang", 1, 2, "hang", 3], limits=replace(QUICK, solve_seconds=3.0), stateless=stateless
    )
    assert [result.outcome for result in results] == ["timeout", "ok", "ok", "timeout", "ok"]


def test_a_stateless_harness_may_keep_what_it_knows_and_gets_a_scratch_folder_each_time(bench: Any) -> None:
    code = """
        seen = []
        def solve(instance, ctx):
            seen.append(1)
            (ctx.scratch / "file").write_text("x")
            return [len(seen), len(list(ctx.scratch.iterdir()))]
    """
    results = bench.solve(code, [0, 1, 2], stateless=True, slots=1)
    assert [json.loads(result.answer) for result in results] == [[1, 1], [2, 1], [3, 1]]


def test_nothing_passes_from_one_instance_to_the_next(bench: Any) -> None:
    code = """
        import os
        seen = []
        def solve(instance, ctx):
            seen.append(1)
            places = [ctx.scratch, ctx.scratch.parent, ctx.scratch.parent / "setup", "/dev/shm", "/tmp", "/sia", "."]
            left = []
            for place in places:
                try:
                    with open(f"{place}/left-behind", "x") as file:
                        file.write("state")
                except FileExistsError:
                    left.append(str(place))
                except OSError:
                    pass
            return [len(seen), [place for place in left if place != "."], os.listdir(ctx.scratch)]
    """
    results = bench.solve(code, [0, 1, 2], slots=1)
    assert [json.loads(result.answer) for result in results] == [[1, [], ["left-behind"]]] * 3


def test_the_order_and_number_at_once_change_no_answer(bench: Any) -> None:
    code = """
        import random
        import numpy, numpy.random
        random.random()
        def solve(instance, ctx):
            return [random.random(), float(numpy.random.rand()), hash("text"), list({"a", "b", "c"})]
    """
    answers = []
    for slots, order in ((1, [0, 1, 2, 3]), (3, [3, 1, 0, 2])):
        worker = bench.worker(code, slots=slots, requires=("numpy",))
        from_key = {result.key: result.answer for result in worker.solve([_request(i) for i in order])}
        answers.append(from_key)
    assert answers[0] == answers[1]
    assert len({answers[0][key].split(",")[0] for key in answers[0]}) == 4


def _request(seed: int) -> Any:
    return SolveRequest(str(seed), {"id": str(seed), "input": {}, "start": None}, seed)


ASK = """
    def solve(instance, ctx):
        try:
            return ctx.model([{"role": "user", "content": instance.input["do"]}], temperature=0.5)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
"""


def test_a_harness_asks_the_policy(bench: Any) -> None:
    requests = []

    def model(key: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        requests.append((key, dict(request)))
        return {"choices": [{"message": {"content": request["messages"][0]["content"].upper()}}]}

    results = bench.solve(ASK, ["a", "b", "c"], model=Policy(model))
    assert [json.loads(result.answer)["choices"][0]["message"]["content"] for result in results] == ["A", "B", "C"]
    assert sorted(key for key, _ in requests) == ["0", "1", "2"]
    assert requests[0][1]["temperature"] == 0.5


def test_the_time_of_the_policy_is_not_the_harnesss(bench: Any) -> None:
    busy = """
        def solve(instance, ctx):
            for _ in range(3):
                ctx.model([])
            return "done"
    """
    waited = threading.Event()

    def slow(key: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        waited.wait(0.8)
        return {}

    (result,) = bench.solve(busy, [0], model=Policy(slow), limits=replace(QUICK, solve_seconds=2.0))
    assert result.outcome == "ok", result


def test_a_refused_call_is_an_exception_that_says_why(bench: Any) -> None:
    def broke(key: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if key == "0":
            return {"error": {"message": "the budget is spent"}}
        raise ValueError("key=sk-secret")

    refused, failed = bench.solve(ASK, [0, 1], model=Policy(broke))
    assert refused.answer == '"ModelError: the budget is spent"'
    assert failed.answer == '"ModelError: the call of the policy failed: ValueError"'
    (none,) = bench.solve(ASK, [0])
    assert "no policy" in none.answer


def test_a_harness_can_catch_that_its_messages_are_too_long(bench: Any) -> None:
    code = """
        def solve(instance, ctx):
            try:
                ctx.model([])
            except ctx.ContextLengthExceeded as error:
                return [str(error), isinstance(error, ctx.ModelError)]
    """
    error = {"message": "70 tokens are too long", "code": "context_length_exceeded"}
    (caught,) = bench.solve(code, [0], model=Policy(lambda key, request: {"error": error}))
    assert caught.answer == '["70 tokens are too long", true]'


def test_a_harness_knows_whether_there_is_a_policy(bench: Any) -> None:
    code = """
        def setup(ctx):
            return ctx.has_model
        def solve(instance, ctx):
            return [ctx.state, ctx.has_model]
    """
    assert bench.solve(code, [0])[0].answer == "[false, false]"
    assert bench.solve(code, [0], model=Policy(lambda key, request: {}))[0].answer == "[true, true]"


def test_the_policy_is_told_of_each_start_and_end_of_a_rollout(bench: Any) -> None:
    policy = Policy(lambda key, request: {})
    worker = bench.worker("def solve(instance, ctx): return ctx.seed", model=policy)
    request = SolveRequest("a", {"id": "a", "input": {"do": "live"}, "start": None}, 7, group=4, training=True)
    (result,) = worker.solve([request])
    assert (result.answer, policy.begun, policy.ended) == ("7", [("a", 7, 4, True)], ["a"])
    solving = worker.solve([_request(i) for i in range(5)])
    next(solving)
    solving.close()
    assert sorted(policy.ended) == sorted(key for key, *_ in policy.begun)
    assert len(policy.ended) < 6


@pytest.mark.parametrize(
    ("code", "outcome", "message"),
    [
        ("def solve(instance, ctx) return 1", "setup-crash", "SyntaxError"),
        ("import missing_library", "setup-crash", "missing_library"),
        ("x = 1", "setup-crash", "no solve"),
        ("def setup(ctx): raise SystemExit(3)\ndef solve(i, c): ...", "setup-crash", "harness.py:1 in setup"),
        ("import os\nos._exit(5)", "setup-crash", "exit 5"),
        ("import os\nos.kill(os.getpid(), 11)\nos.abort()", "setup-crash", "signal"),
        ("while True: pass", "setup-timeout", "0.5 seconds"),
        ("def setup(ctx):\n  while True: pass\ndef solve(i, c): ...", "setup-timeout", "0.5 seconds"),
    ],
)
def test_a_set_up_that_fails_fails_every_instance(bench: Any, code: str, outcome: str, message: str) -> None:
    limits = replace(QUICK, setup_seconds=0.5) if outcome == "setup-timeout" else QUICK
    results = bench.solve(code, [0, 1, 2], limits=limits)
    assert [result.outcome for result in results] == [outcome] * 3
    assert message in results[0].message


def test_what_set_up_printed_is_in_the_message(bench: Any) -> None:
    code = """
        def setup(ctx):
            ctx.log.warning("reading the index")
            raise ValueError("no index")
        def solve(instance, ctx): ...
    """
    (result,) = bench.solve(code, [0])
    assert "ValueError: no index" in result.message
    assert "WARNING reading the index" in result.message


def test_a_generator_that_is_left_early_costs_the_sandbox_and_nothing_else(bench: Any) -> None:
    worker = bench.worker(ECHO)
    next(worker.solve([_request(i) for i in range(5)]))
    assert [result.outcome for result in bench.run(worker, [0, 1])] == ["ok", "ok"]


def test_a_worker_closed_by_another_thread_stops(bench: Any) -> None:
    started = threading.Event()

    def model(key: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        started.set()
        return {}

    code = """
        def solve(instance, ctx):
            ctx.model([])
            while True: pass
    """
    worker = bench.worker(code, model=Policy(model))
    closer = threading.Thread(target=lambda: started.wait(20) and worker.close())
    closer.start()
    with pytest.raises(SandboxError, match="closed"):
        list(worker.solve([_request(0)]))
    closer.join()
    with pytest.raises(SandboxError, match="closed"):
        list(worker.solve([_request(0)]))


def test_folders_that_are_private_to_their_owner_can_be_used(bench: Any, tmp_path: Path) -> None:
    bench.public.chmod(0o700)
    worker = bench.worker("def solve(instance, ctx): return (ctx.public / 'cases.txt').read_text()")
    (tmp_path / "tree-0").chmod(0o700)
    assert bench.run(worker, [0])[0].answer == '"public"'
