"""A harness has answers evaluated while it searches: as many as it was granted, each by the judge alone."""

from __future__ import annotations

import json
import textwrap
import threading
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import pytest

from sia_core.types import Instance, Limits, Score
from sia_runtime.worker.harness_worker import SolveRequest
from sia_runtime.worker.search_scoring import Evaluations
from sia_runtime.worker.verifier_process import Verdict, VerifierProcess

QUICK = Limits(setup_seconds=20.0, solve_seconds=1.0, processes=16)


def requests(n: int, evaluations: int) -> list[SolveRequest]:
    instances = [{"id": f"i{at}", "input": {"do": at}, "start": None} for at in range(n)]
    return [SolveRequest(str(at), each, at, evaluations=evaluations) for at, each in enumerate(instances)]


class Scores:
    """A judge to whom an answer is its own reward. Grants ``most`` to each rollout, whatever the harness was told."""

    def __init__(self, most: int = 100, slow: threading.Event | None = None) -> None:
        self.most, self.slow, self.asked = most, slow, defaultdict[str, list[str]](list)
        self._threads = ThreadPoolExecutor(4)

    def ask(self, key: str, answer: str) -> Future[Mapping[str, Any]]:
        return self._threads.submit(self._score, key, answer)

    def _score(self, key: str, answer: str) -> Mapping[str, Any]:
        if self.slow:
            self.slow.wait(2.5)
        self.asked[key].append(answer)
        if len(self.asked[key]) > self.most:
            return {"error": {"message": "no evaluation is left"}}
        return {"reward": json.loads(answer), "valid": True, "metrics": {}, "feedback": f"it is {answer}"}


def solve(bench: Any, code: str, judge: Scores, n: int = 1, evaluations: int = 3, **more: Any) -> list[Any]:
    worker = bench.worker(textwrap.dedent(code), **more)
    worker._judge = judge
    batch = requests(n, evaluations)
    results = {result.key: result for result in worker.solve(batch)}
    return [results[each.key] for each in batch]


SEARCH = """
    def solve(instance, ctx):
        best = None
        told = []
        number = instance.input["do"]
        while ctx.evaluations:
            seen = ctx.evaluate(number)
            told.append(seen.feedback)
            best = number if best is None or seen.reward > best else best
            number += 1
        return [best, told]
"""


def test_a_harness_returns_the_best_of_what_it_had_evaluated(bench: Any) -> None:
    judge = Scores()
    results = solve(bench, SEARCH, judge, n=3)
    assert [json.loads(each.answer) for each in results] == [
        [n + 2, [f"it is {n}", f"it is {n + 1}", f"it is {n + 2}"]] for n in range(3)
    ]
    assert judge.asked == {str(n): [str(n), str(n + 1), str(n + 2)] for n in range(3)}


def test_past_what_was_granted_it_is_told_so_and_the_judge_is_not_asked(bench: Any) -> None:
    judge = Scores()
    code = """
        def solve(instance, ctx):
            for number in range(2):
                ctx.evaluate(number)
            try:
                ctx.evaluate(2)
            except Exception as error:
                return str(error)
    """
    (result,) = solve(bench, code, judge, evaluations=2)
    assert result.answer == '"no evaluation is left; see ctx.evaluations"'
    assert judge.asked["0"] == ["0", "1"]


def test_a_harness_that_grants_itself_more_gets_no_more(bench: Any) -> None:
    code = """
        def solve(instance, ctx):
            ctx.evaluations = 10
            seen = []
            for number in range(3):
                try:
                    seen.append(ctx.evaluate(number).reward)
                except Exception as error:
                    seen.append(str(error))
            return seen
    """
    (result,) = solve(bench, code, Scores(most=2), evaluations=2)
    assert json.loads(result.answer) == [0, 1, "no evaluation is left"]


@pytest.mark.parametrize("evaluations", [0, 3])
def test_where_nobody_judges_a_forged_question_costs_its_instance(bench: Any, evaluations: int) -> None:
    code = """
        def solve(instance, ctx):
            ctx._ask("evaluate", b"1")
            return 1
    """
    worker = bench.worker(textwrap.dedent(code))
    (result,) = worker.solve(requests(1, evaluations))
    assert result.outcome == "protocol", result


def test_the_time_of_the_judge_is_not_the_harnesss(bench: Any) -> None:
    judge = Scores(slow=threading.Event())
    (result,) = solve(bench, SEARCH, judge, evaluations=1, limits=replace(QUICK, solve_seconds=2.0))
    assert result.outcome == "ok", result


def test_what_is_no_json_never_reaches_the_judge(bench: Any) -> None:
    judge = Scores()
    code = """
        def solve(instance, ctx):
            ctx._ask("evaluate", b"[1, NaN]")
    """
    (result,) = solve(bench, code, judge)
    assert result.outcome == "protocol", result
    assert judge.asked["0"] == []


def test_an_answer_that_is_no_json_value_is_the_harnesss_own_error(bench: Any) -> None:
    code = """
        def solve(instance, ctx):
            ctx.evaluate({1, 2})
    """
    (result,) = solve(bench, code, Scores())
    assert result.outcome == "crash"
    assert "not JSON serializable" in result.message


class Counted:
    """A verifier that remembers what it scored."""

    def __init__(self) -> None:
        self.scored: list[str] = []

    def score(self, questions: Any) -> list[Verdict]:
        self.scored += [each.answer for each in questions]
        return [Verdict("ok", Score(1.0)) for _ in questions]


def test_an_evaluation_that_is_used_up_stays_so_and_an_answer_scored_once_is_not_scored_again() -> None:
    verifier = Counted()
    evaluations = Evaluations(cast(VerifierProcess, verifier))
    evaluations.grant("one", Instance("i0", "search", {}), 0, 2)
    replies = [evaluations.ask("one", answer).result() for answer in ("1", "2", "1", "3", "2")]
    assert ["error" in each for each in replies] == [False, False, False, True, False]
    assert verifier.scored == ["1", "2"]
    assert len(evaluations.finish("one")) == 2
    evaluations.close()


LEARN = """
    import errno, os, signal, threading
    def setup(ctx):
        source, sink = os.pipe()
        os.set_blocking(source, False)
        killing, kill = os.pipe()
        threading.Thread(target=lambda: os.read(killing, 1) and os._exit(9), daemon=True).start()
        return source, sink, kill
    def solve(instance, ctx):
        source, sink, kill = ctx.state
        for n in range(4):
            try:
                ctx.evaluate(f"{os.urandom(4).hex()} is new")
            except Exception as error:
                refused = str(error)
                break
        try:
            known = os.read(source, 1000).decode()
        except BlockingIOError:
            known = ""
        if instance.id not in known:
            os.write(sink, known.encode() + instance.id.encode())
            FAIL
        return refused
"""
AGAIN = {
    "says that the disk is full": "raise OSError(errno.ENOSPC, 'full')",
    "says that a file is too large": "raise OSError(errno.EFBIG, 'large')",
    "says that its quota is used up": "raise OSError(errno.EDQUOT, 'quota')",
    "ends its whole sandbox": "os.write(kill, b'!')\n            signal.pause()",
}


@pytest.mark.parametrize("stateless", [False, True])
@pytest.mark.parametrize("failure", AGAIN)
def test_a_harness_that_is_started_again_is_granted_nothing_again(bench: Any, failure: str, stateless: bool) -> None:
    verifier = Counted()
    judge = Evaluations(cast(VerifierProcess, verifier))
    for number in range(2):
        judge.grant(str(number), Instance(f"i{number}", "search", {}), 0, 3)
    code = LEARN.replace("FAIL", AGAIN[failure])
    solve(bench, code, cast(Any, judge), n=2, limits=replace(QUICK, solve_seconds=5.0), stateless=stateless)
    assert len(verifier.scored) == 6
    judge.close()
