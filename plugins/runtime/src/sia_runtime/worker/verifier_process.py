"""The verifier's process: started by the orchestrator, holds the hidden truth, runs no candidate code.

Answers reach it as JSON text over its own socket, and scores come back as
JSON. Instances of the sealed split are scored only by a process that was started
for them, which the loop does once a run is closed.

Run as a module, this file is that process.
"""

from __future__ import annotations

import hmac
import json
import math
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from numbers import Real
from typing import Any

from sia_core.errors import PluginError, SiaError, UsageError, excerpt
from sia_core.plugins import ALLOW_VARIABLE, Plugins
from sia_core.run.ledger import canonical
from sia_core.run.record import INVALID, OUT_OF_BOUNDS
from sia_core.run.rollouts import new_secret
from sia_core.types import LARGEST_REWARD, Instance, OfferRef, Score, Task, Verifier, VerifierContext
from sia_runtime.answers import InvalidAnswer, read_answer
from sia_runtime.sandbox.program_host import open_program
from sia_runtime.sandbox.run_once import run_program
from sia_runtime.sandbox.solving import describe

ENVIRONMENT = (
    "HOME",
    "PATH",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "LANG",
    "XDG_CACHE_HOME",
    "VIRTUAL_ENV",
    "TMPDIR",
    "CUDA_VISIBLE_DEVICES",
    ALLOW_VARIABLE,
)
"""Environment variables that the verifier's process inherits: paths and locale, and no key."""

SECONDS_PER_ANSWER = 120.0
START_SECONDS = 300.0


@dataclass(frozen=True)
class Question:
    """One answer to score: its instance, the raw JSON text, the rollout's seed, and whether it is final."""

    instance: Instance
    answer: str
    seed: int
    final: bool = True


@dataclass(frozen=True)
class Verdict:
    """A score, or why there is none. ``outcome`` is ``ok``, ``invalid-answer`` or ``out-of-bounds``.

    Its reward is a run's, of which more is always better.
    """

    outcome: str
    score: Score
    message: str = ""


class VerifierProcess:
    """The orchestrator's end: starts the process on first use, asks it, and ends it.

    A verifier that fails, gives what is no score or takes too long is an error of the run, named
    after the verifier: no rollout is ever scored by guess. All that it draws derives from ``secret``,
    a new one by default.
    """

    def __init__(
        self, task: OfferRef, verifier: OfferRef, sandbox: str, *, sealed: bool = False, secret: str | None = None
    ) -> None:
        self._config = {
            "task": asdict(task),
            "verifier": asdict(verifier),
            "sandbox": sandbox,
            "sealed": sealed,
            "secret": secret or new_secret(),
        }
        self._name = verifier.name
        self._mutex = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection[Any, Any] | None = None
        self._closed = False
        self._seconds = SECONDS_PER_ANSWER

    def score(self, questions: Sequence[Question]) -> list[Verdict]:
        """Score answers, in order."""
        if not questions:
            return []
        with self._mutex:
            self._start()
            rows = [asdict(question) for question in questions]
            reply = self._ask(rows, self._seconds * len(questions))
            return [Verdict(each["outcome"], Score(**each["score"]), each["message"]) for each in reply["verdicts"]]

    def check(self) -> None:
        """Start the process, so that what is wrong with its settings is known before anything is spent."""
        with self._mutex:
            self._start()

    def close(self) -> None:
        """End the process for good; a thread that waits for a score of it gets an error."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()  # first, since whoever waits for it holds the mutex
        with self._mutex:
            self._stop()

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        here, there = Pipe()
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        self._process = subprocess.Popen(
            # -P: a file of the working folder must not stand in for a module.
            [sys.executable, "-P", "-m", "sia_runtime.worker.verifier_process", str(there.fileno())],
            pass_fds=[there.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        there.close()
        self._channel = here
        try:
            if self._closed:  # while it was started, so that `close` did not see it
                raise SiaError(f"verifier {self._name!r} is closed")
            self._seconds = float(self._ask(self._config, START_SECONDS)["seconds_per_answer"])
        except BaseException:
            self._stop()
            raise

    def _ask(self, message: Any, seconds: float) -> Mapping[str, Any]:
        assert self._channel is not None
        try:
            self._channel.send_bytes(json.dumps(message).encode())
            if not self._channel.poll(seconds):
                self._stop()
                raise SiaError(f"verifier {self._name!r} did not answer within {seconds:g} s and was stopped")
            reply: Mapping[str, Any] = json.loads(self._channel.recv_bytes())
        except (EOFError, OSError) as error:
            self._stop()
            raise SiaError(f"verifier {self._name!r} ended unexpectedly; its errors are above") from error
        if "usage_error" in reply:
            raise (PluginError if reply["plugin"] else UsageError)(reply["usage_error"])
        if "error" in reply:
            raise SiaError(f"verifier {self._name!r}: {reply['error']}")
        return reply

    def _stop(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class _Server:
    """The process's side."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        plugins = Plugins.discover()
        self._task: Task = plugins.create("task", config["task"]["name"], **config["task"]["settings"])
        self._verifier: Verifier = plugins.create(
            "verifier", config["verifier"]["name"], **config["verifier"]["settings"]
        )
        _, source = plugins.find("verifier", config["verifier"]["name"])
        self._label = f"verifier {config['verifier']['name']!r} of {source.distribution} {source.version}"
        sandbox = plugins.create("sandbox", config["sandbox"])
        self._run, self._open = partial(run_program, sandbox), partial(open_program, sandbox)
        self._sealed, self._secret = config["sealed"], config["secret"]
        self.seconds_per_answer = float(getattr(self._verifier, "seconds_per_answer", SECONDS_PER_ANSWER))

    def verdict(self, question: Mapping[str, Any]) -> Verdict:
        instance = Instance(**question["instance"])
        if (instance.split == "sealed") != self._sealed:
            raise SiaError(f"instance {instance.id} of split {instance.split!r} was asked of the wrong process")
        metric, failure = self._task.metric, self._task.metric.reward(self._task.failure_reward)
        try:
            answer = read_answer(question["answer"], self._task.answer)
        except InvalidAnswer as error:
            return Verdict(INVALID, Score(failure, valid=False), str(error))
        score = self._checked(self._score(instance, answer, question), instance)
        if not score.valid:
            return Verdict(INVALID, replace(score, reward=failure), score.feedback)
        low, high = metric.bounds or (-math.inf, math.inf)
        if not low <= score.reward <= high:
            says = (
                f"instance {instance.id} earned {score.reward:g}, outside of {low:g} to {high:g}, the bounds of the "
                f"metric {metric.name!r}: give the metric bounds that hold it (in --metric, or in the task's Metric), "
                "or scale the rewards to them (those of a task folder by --set scale=)"
            )
            return Verdict(OUT_OF_BOUNDS, replace(score, reward=failure, valid=False), says)
        return Verdict("ok", replace(score, reward=metric.reward(score.reward)))

    def _score(self, instance: Instance, answer: Any, question: Mapping[str, Any]) -> Any:
        try:
            return self._verifier.score(instance, answer, self._context(question))
        except SiaError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{self._label} failed on instance {instance.id}, answer {excerpt(question['answer'], 200)}: "
                f"{describe(error)}\nIt has to judge every answer: for one that it cannot use, return "
                "Score(0.0, valid=False, feedback=...)"
            ) from error

    def _context(self, question: Mapping[str, Any]) -> VerifierContext:
        """Its seeds are keyed apart: what an evaluation draws tells nothing of what the final score will draw."""
        final = bool(question["final"])
        seed = seed_of(self._secret, "final" if final else "evaluation", question["seed"])
        return VerifierContext(self._run, seed, self._open, final, seed_of(self._secret, "data"))

    def _checked(self, score: Any, instance: Instance) -> Score:
        """The score as plain JSON; PluginError where it is none."""
        if not isinstance(score, Score):
            raise PluginError(
                f"{self._label} gave instance {instance.id} a {type(score).__name__}; it must return a "
                "sia_core.types.Score, such as Score(1.0)"
            )
        numbers = {"reward": score.reward, **score.metrics}
        wrong = [
            name for name, value in numbers.items() if not (isinstance(value, Real) and abs(value) <= LARGEST_REWARD)
        ]
        if wrong:
            raise PluginError(
                f"{self._label} gave instance {instance.id} what is not a finite number of at most {LARGEST_REWARD:g} "
                f"as its {', '.join(map(str, wrong))}; for an answer without one, return Score(0.0, valid=False)"
            )
        metrics = {str(name): float(value) for name, value in score.metrics.items()}
        return Score(float(score.reward), bool(score.valid), metrics, str(score.feedback))


def seed_of(secret: str, *purpose: str | int) -> int:
    """The seed for a purpose, of 63 bits: the same for the same secret, and without it not to be told from chance."""
    return int.from_bytes(hmac.digest(secret.encode(), canonical(purpose).encode(), "sha256")[:8]) >> 1


def serve(channel: Connection[Any, Any]) -> None:
    """Answer requests until the orchestrator hangs up."""
    server = None
    while True:
        try:
            request = json.loads(channel.recv_bytes())
        except (EOFError, OSError):
            return
        reply: dict[str, Any]
        try:
            if server is None:
                server = _Server(request)
                reply = {"seconds_per_answer": server.seconds_per_answer}
            else:
                reply = {"verdicts": [asdict(server.verdict(question)) for question in request]}
        except UsageError as error:
            reply = {"usage_error": str(error), "plugin": isinstance(error, PluginError)}
        except SiaError as error:
            reply = {"error": str(error)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        channel.send_bytes(json.dumps(reply).encode())


def die_with(descriptor: int) -> None:
    """End this process when the orchestrator's end of the channel is gone, also in the middle of a score."""
    gone = select.poll()
    gone.register(descriptor, select.POLLRDHUP)

    def watch() -> None:
        gone.poll()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    serve(Connection(int(sys.argv[1])))
