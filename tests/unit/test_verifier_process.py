"""The verifier's process, a real one: what it scores, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plugin_sites import write_plugin

from sia_core.errors import SiaError, UsageError
from sia_core.run.record import INVALID, OUT_OF_BOUNDS
from sia_core.types import Instance, OfferRef, Score
from sia_runtime.worker.verifier_process import Question, Verdict, VerifierProcess

pytestmark = pytest.mark.real

SECRET = "5e" * 32

PLUGIN = """
from sia_core.hookspecs import Offer, hookimpl
sia_api = 1
@hookimpl
def sia_tasks(): return [Offer("strange", "s", "strange_parts:Strange")]
@hookimpl
def sia_verifiers(): return [Offer("strange", "s", "strange_parts:Verifier")]
@hookimpl
def sia_sandboxes(): return [Offer("strange", "s", "strange_parts:Sandbox")]
"""

PARTS = """
import os, signal, sys
from pydantic import BaseModel
from sia_core.errors import SandboxError, UsageError
from sia_core.types import Metric, Score

class Sandbox:
    def start(self, spec):
        raise SandboxError("no namespaces here")

class Answer(BaseModel):
    say: str

class Strange:
    name, kind, brief, answer, failure_reward, fingerprint = "strange", "solve", "", Answer, -1.0, ""
    metric = Metric("m", bounds=(-1.0, 1.0))

class Verifier:
    def __init__(self, fails=False, seconds=None):
        if fails:
            raise RuntimeError("no data")
        if seconds is not None:
            self.seconds_per_answer = seconds
        print("noise on standard output", flush=True)

    def score(self, instance, answer, ctx):
        say = answer["say"]
        if say == "environment": return Score(0.0, feedback=" ".join(sorted(os.environ)))
        if say == "seed": return Score(0.0, feedback=f"{ctx.seed} {ctx.data_seed} {instance.input['x']} {sys.path[0]}")
        if say == "raise": raise KeyError("boom")
        if say == "leave": raise SystemExit(3)
        if say == "usage": raise UsageError("--data: wrong file")
        if say == "exit": os._exit(3)
        if say == "hang": signal.pause()
        if say == "nan": return Score(float("nan"))
        if say == "huge": return Score(-1e300)
        if say == "digits": return Score(10**5000)
        if say == "metrics": return Score(0.0, metrics={"a": 1e300, "b": "1", "c": 1.0})
        if say == "metric": return Score(0.0, metrics={"a": float("inf")})
        if say == "large": return Score(2.0)
        if say == "text": return Score("1")
        if say == "float": return 1.0
        if say == "invalid": return Score(0.9, valid=False, feedback="cheat")
        if say == "surrogate": return Score(0.0, feedback="\\ud800")
        if say == "run": ctx.run({"a.py": b""}, ["python", "a.py"])
        return Score(0.5, metrics={"n": 1}, feedback="fine")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's plugin, in a folder that only PYTHONPATH names."""
    return write_plugin(tmp_path_factory.mktemp("site"), "strange", PLUGIN, PARTS)


Started = Callable[..., VerifierProcess]


@pytest.fixture
def start(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """Makes verifier processes and closes them; the orchestrator's environment holds a key."""
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    processes: list[VerifierProcess] = []

    def _start(
        verifier: str = "strange", *, sealed: bool = False, secret: str | None = None, **settings: Any
    ) -> VerifierProcess:
        offer = OfferRef(verifier, settings)
        processes.append(VerifierProcess(OfferRef("strange"), offer, "strange", sealed=sealed, secret=secret))
        return processes[-1]

    yield _start
    for each in processes:
        each.close()


@pytest.fixture(scope="module")
def shared(site: Path) -> Iterator[VerifierProcess]:
    """One process for the tests that leave it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        process = VerifierProcess(OfferRef("strange"), OfferRef("strange"), "strange")
        process.score([asking("x")])
    yield process
    process.close()


def asking(say: str, *, split: Any = "gate", name: str = "i") -> Question:
    return Question(Instance(name, split, {"x": "条"}), json.dumps({"say": say}), 42)


def pid(process: VerifierProcess) -> int:
    assert process._process is not None
    return process._process.pid


def test_answers_are_scored_in_order_and_what_is_not_an_answer_fails(shared: VerifierProcess) -> None:
    texts = ['{"say": "x"}', '{"say": 1}', "{", '{"say": "a", "say": "b"}', '{"say": "\\ud800"}', '{"say": "invalid"}']
    questions = [Question(Instance(str(n), "gate", {}), text, 0) for n, text in enumerate(texts)]
    verdicts = shared.score(questions)
    assert verdicts[0] == Verdict("ok", Score(0.5, True, {"n": 1.0}, "fine"))
    assert [(each.outcome, each.score.reward, each.score.valid) for each in verdicts[1:]] == [
        (INVALID, -1.0, False)
    ] * 5
    assert "say: Input should be a valid string" in verdicts[1].message
    assert "the same key twice" in verdicts[3].message
    assert "half of a surrogate pair" in verdicts[4].message
    assert verdicts[5].message == "cheat"


def test_the_process_has_no_key_and_another_pid_and_lives_on(start: Started) -> None:
    process = start()
    assert process.score([]) == []
    names = process.score([asking("environment")])[0].score.feedback.split()
    assert "PATH" in names
    assert "ANTHROPIC_API_KEY" not in names
    first = pid(process)
    assert first != os.getpid()
    process.score([asking("x")])
    assert pid(process) == first


def test_the_working_folder_cannot_stand_in_for_a_module(
    start: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    feedback = start().score([asking("seed")])[0].score.feedback
    assert " 条 " in feedback
    assert str(tmp_path) not in feedback


def seeds(process: VerifierProcess, question: Question) -> tuple[int, int]:
    """The verifier's two seeds for a question."""
    seed, data_seed, *_ = process.score([question])[0].score.feedback.split()
    return int(seed), int(data_seed)


def test_what_a_verifier_draws_follows_from_the_secret_and_from_nothing_that_a_harness_is_told(start: Started) -> None:
    question = asking("seed")
    one, again, other = (seeds(start(secret=each), question) for each in (SECRET, SECRET, "ab" * 32))
    assert one == again
    assert not {*one} & {*other}
    assert question.seed not in {*one, *other}
    unnamed = start(), start()
    assert seeds(unnamed[0], question) != seeds(unnamed[1], question)


def test_evaluations_draw_alike_and_tell_nothing_of_the_final_draw(start: Started) -> None:
    process, final = start(secret=SECRET), asking("seed")
    evaluation, repeat = replace(final, final=False), replace(final, seed=43)
    assert seeds(process, evaluation) == seeds(process, evaluation)
    drawn = {seeds(process, each)[0] for each in (final, evaluation, repeat)}
    assert len(drawn) == 3
    assert len({seeds(process, each)[1] for each in (final, evaluation, repeat)}) == 1


def test_sealed_instances_have_a_process_of_their_own(start: Started) -> None:
    process = start()
    with pytest.raises(SiaError, match="instance i of split 'sealed' was asked of the wrong process"):
        process.score([asking("x", split="sealed")])
    sealed = start(sealed=True)
    with pytest.raises(SiaError, match="instance i of split 'gate' was asked of the wrong process"):
        sealed.score([asking("x")])
    assert sealed.score([asking("x", split="sealed")])[0].score.reward == 0.5


@pytest.mark.parametrize(
    ("say", "says"),
    [
        (
            "raise",
            "verifier 'strange' of strange 1.0 failed on instance i, answer {\"say\": \"raise\"}: KeyError: 'boom'",
        ),
        ("leave", 'verifier \'strange\' of strange 1.0 failed on instance i, answer {"say": "leave"}: SystemExit: 3'),
        (
            "nan",
            "of strange 1.0 gave instance i what is not a finite number of at most 1e+100 as its reward; for",
        ),
        ("huge", "instance i what is not a finite number of at most 1e+100 as its reward"),
        ("digits", "instance i what is not a finite number of at most 1e+100 as its reward"),
        ("metric", "instance i what is not a finite number of at most 1e+100 as its a"),
        ("metrics", "instance i what is not a finite number of at most 1e+100 as its a, b"),
        ("text", "instance i what is not a finite number of at most 1e+100 as its reward"),
        ("float", "verifier 'strange' of strange 1.0 gave instance i a float; it must return a sia_core.types.Score"),
    ],
)
def test_a_verifier_that_gives_no_score_is_named_and_its_author_told_what_to_return(
    shared: VerifierProcess, say: str, says: str
) -> None:
    with pytest.raises(UsageError) as raised:
        shared.score([asking("x"), asking(say)])
    assert says in str(raised.value)
    assert "Score(" in str(raised.value)
    assert shared.score([asking("x")])[0].score.reward == 0.5


def test_a_sandbox_that_fails_under_a_verifier_is_an_error_of_the_run(shared: VerifierProcess) -> None:
    with pytest.raises(SiaError, match=r"^verifier 'strange': no namespaces here$") as raised:
        shared.score([asking("run")])
    assert raised.value.exit_code == 1
    assert shared.score([asking("x")])[0].score.reward == 0.5


def test_a_reward_that_the_bounds_do_not_hold_is_a_failure_that_says_so(shared: VerifierProcess) -> None:
    before, outside = shared.score([asking("x"), asking("large", name="case-7")])
    assert before.outcome == "ok"
    assert (outside.outcome, outside.score.reward, outside.score.valid) == (OUT_OF_BOUNDS, -1.0, False)
    assert "instance case-7 earned 2, outside of -1 to 1, the bounds of the metric 'm'" in outside.message
    assert "give the metric bounds that hold it" in outside.message


def test_a_verifier_that_ends_is_an_error_and_is_started_again(start: Started) -> None:
    process = start()
    with pytest.raises(SiaError, match="verifier 'strange' ended unexpectedly"):
        process.score([asking("x"), asking("exit")])
    assert process.score([asking("x")])[0].score.reward == 0.5


def test_a_check_starts_the_process_and_raises_what_is_wrong_with_its_settings(start: Started) -> None:
    process = start()
    process.check()
    first = pid(process)
    assert process.score([asking("x")])[0].score.reward == 0.5
    assert pid(process) == first
    with pytest.raises(SiaError, match="no data"):
        start(fails=True).check()
    with pytest.raises(UsageError, match="no verifier named 'strnage'"):
        start("strnage").check()


def test_what_the_user_can_mend_is_passed_on_as_it_is(shared: VerifierProcess) -> None:
    with pytest.raises(UsageError, match=r"^--data: wrong file$"):
        shared.score([asking("usage")])


def test_half_a_character_in_feedback_comes_through(shared: VerifierProcess) -> None:
    assert shared.score([asking("surrogate")])[0].score.feedback == "\ud800"


@pytest.mark.parametrize(
    ("verifier", "settings", "says"),
    [
        ("strangr", {}, r"no verifier named 'strangr' \(did you mean 'strange'\?\)"),
        ("strange", {"fails": True}, "verifier 'strange' of strange 1.0 failed to start: RuntimeError: no data"),
        ("strange", {"tolerance": 1}, "does not take these settings: .*It takes: fails=False, seconds=None"),
    ],
)
def test_a_verifier_that_does_not_start_says_why_each_time_it_is_asked(
    start: Started, verifier: str, settings: dict[str, Any], says: str
) -> None:
    process = start(verifier, **settings)
    for _ in range(2):
        with pytest.raises(UsageError, match=says):
            process.score([asking("x")])
        assert process._process is None


def test_a_verifier_that_takes_longer_than_it_says_is_stopped(start: Started) -> None:
    process = start(seconds=0.01)
    process.check()
    with pytest.raises(SiaError, match=r"did not answer within 0\.01 s and was stopped"):
        process.score([asking("hang")])
    assert process._process is None


def test_a_process_that_was_killed_is_started_again(start: Started) -> None:
    process = start()
    process.score([asking("x")])
    os.kill(pid(process), 9)
    assert process._process is not None
    process._process.wait()
    assert process.score([asking("x")])[0].score.reward == 0.5


def test_closing_does_not_wait_for_an_answer(start: Started) -> None:
    process = start()
    process.score([asking("x")])
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            process.score([asking("hang")])
        except SiaError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not process._mutex.locked() and thread.is_alive():
        pass
    process.close()
    thread.join()
    assert str(errors[0]).startswith("verifier 'strange' ")
    process.close()
    with pytest.raises(SiaError, match="verifier 'strange' is closed"):
        process.score([asking("x")])
