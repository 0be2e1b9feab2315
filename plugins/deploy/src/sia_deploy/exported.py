"""Runs the agent in this folder: a case a line in, a JSON object a line out, in the same order.

    python run.py < my-inputs.jsonl > agent-answers.jsonl

Written by `sia export`; README.md says what a line is. Needs Python 3.11 and what
requirements.txt names.
"""

import hashlib
import importlib.util
import json
import logging
import math
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, BinaryIO

HERE = Path(__file__).resolve().parent
MODULE = "harness"
CASE_KEYS = {"id", "input", "answer", "split"}

# As in SIA's sandbox. A pool of threads that was started before a fork hangs after it.
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
}


def main() -> int:
    forks = hasattr(os, "fork")
    if forks and any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.environ.update(ENVIRONMENT)  # Python reads some of them when it starts
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    about = json.loads((HERE / "agent.json").read_text(encoding="utf-8"))
    cases, answers = take_streams()
    policy = Policy() if about.get("policy") else None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        try:
            agent = Agent(about["entry"], Path(scratch), policy)
        except KeyboardInterrupt:
            return 130
        except BaseException:  # SystemExit too: without its set-up there is no agent
            traceback.print_exc()
            return 1
        solver = Forks(agent, about["stateless"], (cases.fileno(), answers.fileno())) if forks else agent
        try:
            for case in read_cases(cases):
                answers.write((case if isinstance(case, bytes) else solve_one(solver, case, scratch)) + b"\n")
                answers.flush()
        except (KeyboardInterrupt, BrokenPipeError):
            return 130
        finally:
            solver.close()
            if policy:
                policy.close()
    return 0


def take_streams() -> tuple[BinaryIO, BinaryIO]:
    """The cases and the answers, for us alone: the harness reads nothing, and what it prints goes to standard error."""
    cases, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return cases, answers


def read_cases(lines: BinaryIO) -> Iterator["dict[str, Any] | bytes"]:
    """A case for each line that is not blank; its answer, already, where the line cannot be read."""
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.strip():
            continue
        try:
            yield read_case(text)
        except (ValueError, RecursionError) as error:
            yield failure(f"line {number} is not JSON: {error}")


def read_case(line: bytes) -> dict[str, Any]:
    """A case from its input, or from a whole line of a file of cases. Id and seed derive from the input alone."""
    value = json.loads(line.decode(), parse_constant=no_constant)
    if isinstance(value, dict) and "input" in value and value.keys() <= CASE_KEYS:
        value = value["input"]
    if not isinstance(value, dict):
        value = {"text": value}
    content = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(content.encode(errors="backslashreplace"))
    return {"id": digest.hexdigest()[:12], "input": value, "seed": int.from_bytes(digest.digest()[:6])}


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is not in JSON")


def solve_one(solver: "Agent | Forks", case: dict[str, Any], scratch: str) -> bytes:
    """The answer to a case, as JSON; it has a scratch folder of its own."""
    folder = tempfile.mkdtemp(dir=scratch)
    try:
        return solver.solve({**case, "scratch": folder})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def failure(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


def describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return type(error).__name__  # its text cannot be had


class Policy:
    """The model that the harness asks: a process of its own, a JSON object a line each way."""

    def __init__(self) -> None:
        argv = [sys.executable, str(HERE / "policy.py")]
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def ask(self, case: str, seed: int, request: dict[str, Any]) -> dict[str, Any]:
        """One call in the shape of chat completions; RuntimeError where it fails."""
        source, sink = self._process.stdout, self._process.stdin
        assert source
        assert sink
        number = f"{os.getpid()}/{random.SystemRandom().random()}"
        write(
            sink.fileno(), json.dumps({"id": number, "case": case, "seed": seed, "request": request}).encode() + b"\n"
        )
        while line := read_line(source.fileno()):
            told = json.loads(line)
            if told["id"] != number:
                continue  # for a case that ended before its reply came
            reply: dict[str, Any] = told["reply"]
            if "error" in reply:
                raise RuntimeError(reply["error"]["message"])
            return reply
        raise RuntimeError("the policy's process has ended; standard error says why")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def read_line(descriptor: int) -> bytes:
    """A line, read without a buffer that forks would share; empty at the end."""
    data = bytearray()
    while not data.endswith(b"\n"):
        part = os.read(descriptor, 1)
        if not part:
            return b""
        data += part
    return bytes(data)


class Agent:
    """The harness: loaded, set up, and asked in this process."""

    def __init__(self, entry: str, scratch: Path, policy: Policy | None = None) -> None:
        self._policy = policy
        os.chdir(scratch)
        os.environ["TMPDIR"] = os.environ["HOME"] = str(scratch)
        self._module = load(entry)
        self._state = self._module.setup(context(scratch, 0, None)) if hasattr(self._module, "setup") else None
        sys.stdout.flush()  # else each fork would print it again

    def solve(self, case: dict[str, Any]) -> bytes:
        scratch, seed = case["scratch"], case["seed"]
        random.seed(seed)
        if "numpy.random" in sys.modules:
            sys.modules["numpy.random"].seed(seed & 0xFFFFFFFF)
        tempfile.tempdir = None  # it remembers the folder of the case before
        os.environ["TMPDIR"] = os.environ["HOME"] = scratch
        os.chdir(scratch)
        instance = SimpleNamespace(id=case["id"], input=case["input"], start=None)
        try:
            answer = self._module.solve(instance, context(Path(scratch), seed, self._state, self._asking(case)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return failure(describe(error))
        try:
            return json.dumps({"answer": answer}, allow_nan=False, ensure_ascii=False).encode()
        except BaseException as error:
            return failure(f"the answer is not JSON: {describe(error)}")

    def _asking(self, case: dict[str, Any]) -> Callable[..., Any] | None:
        policy = self._policy
        if policy is None:
            return None

        def model(messages: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
            # By its scratch folder, which no other case has: one with the same input is asked anew.
            return policy.ask(case["scratch"], case["seed"], {**settings, "messages": messages})

        return model

    def close(self) -> None:
        os.chdir(HERE)  # a folder that is in use cannot be removed everywhere


def load(entry: str) -> ModuleType:
    """The harness's entry point as a module, with the folders beside it importable as for a script."""
    path = HERE / "harness" / entry
    sys.path[:0] = list(dict.fromkeys((str(path.parent), str(HERE / "harness"))))
    spec = importlib.util.spec_from_file_location(MODULE, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{entry} is not a Python file")
    module = sys.modules[MODULE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def context(scratch: Path, seed: int, state: Any, model: Callable[..., Any] | None = None) -> SimpleNamespace:
    """What ``setup`` and ``solve`` are given beside the instance."""
    log = logging.getLogger(MODULE)
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)
        log.propagate = False
    return SimpleNamespace(
        public=HERE / "public",
        scratch=scratch,
        log=log,
        has_model=model is not None,
        model=model or no_model,
        reward=reward,
        seed=seed,
        state=state,
    )


def no_model(*_: object, **__: object) -> None:
    raise RuntimeError("there is no policy to ask: set-up has none, nor has an agent that was exported without one")


def reward(value: float) -> None:
    if not math.isfinite(float(value)):
        raise ValueError(f"a step reward is a finite number, not {value}")


class Forks:
    """Asks the agent in a fork of this process: a fresh one each time, or one until it ends if it is stateless."""

    def __init__(self, agent: Agent, stateless: bool, ours: tuple[int, ...]) -> None:
        self._agent, self._stateless, self._ours = agent, stateless, ours
        self._pid = self._status = self._to = self._from = 0

    def solve(self, case: dict[str, Any]) -> bytes:
        if self._pid and self._ended():
            self.close()
        if not self._pid:
            self._start()
        with suppress(BrokenPipeError):  # it has ended: there will be nothing to read
            write(self._to, json.dumps(case).encode() + b"\n")
        line = self._read()
        answered = line.endswith(b"\n")
        if not (answered and self._stateless):
            self.close()
        return line[:-1] if answered else failure(ending(self._status))

    def _start(self) -> None:
        source, self._to = os.pipe()
        self._from, sink = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.setpgid(0, 0)  # so that what it starts can be found and ended with it
                for descriptor in (*self._ours, self._to, self._from):
                    os.close(descriptor)
                self._serve(source, sink)
            finally:
                os._exit(1)
        os.close(source)
        os.close(sink)

    def _serve(self, source: int, sink: int) -> None:
        with open(source, "rb") as cases:
            for line in cases:
                result = self._agent.solve(json.loads(line))
                for stream in (sys.stdout, sys.stderr):
                    with suppress(Exception):  # closed or replaced by the harness
                        stream.flush()
                write(sink, result + b"\n")

    def _read(self) -> bytes:
        """A line from the fork; less than one where it ended."""
        data = bytearray()
        while not data.endswith(b"\n"):
            if select.select([self._from], [], [], 0.5)[0]:
                part = os.read(self._from, 1 << 16)
                if not part:
                    break
                data += part
            elif self._ended():  # something that it started holds the pipe open
                break
        return bytes(data)

    def _ended(self) -> bool:
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def close(self) -> None:
        """End the fork and what it started."""
        if self._pid:
            for end in (os.killpg, os.kill):  # by its own id where it has not made its group yet
                with suppress(ProcessLookupError, PermissionError):
                    end(self._pid, signal.SIGKILL)
            self._status = os.waitpid(self._pid, 0)[1]
            os.close(self._to)
            os.close(self._from)
            self._pid = 0


def write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"killed by signal {-code} ({signal.strsignal(-code)})"
    return f"its process ended with exit code {code} before it answered"


if __name__ == "__main__":
    sys.exit(main())
