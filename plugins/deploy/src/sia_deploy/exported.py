"""Runs the agent in this folder: a case a line in, a JSON object a line out, in the same order.

    python run.py < my-inputs.jsonl > agent-answers.jsonl

Written by `sia export`; README.md says what a line is. Needs Python 3.11 and what
requirements.txt names.
"""

import hashlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

HERE = Path(__file__).resolve().parent
HARNESS = str(HERE / "harness")
sys.path.insert(0, str(HERE / "runtime"))

from sia_runtime.sandbox import solving  # noqa: E402 - the modules of SIA's sandbox that lie in runtime/

del sys.path[0]

USAGE = "python run.py < my-inputs.jsonl > agent-answers.jsonl"
CASE_KEYS = {"id", "input", "answer", "split"}


def main() -> int:
    if sys.argv[1:]:
        helps = sys.argv[1] in ("-h", "--help")
        print(__doc__ if helps else f"run.py takes no arguments: {USAGE}", file=sys.stdout if helps else sys.stderr)
        return 0 if helps else 2
    if sys.stdin and sys.stdin.isatty():
        print(f"It waits for cases on standard input: {USAGE}", file=sys.stderr)
    forks = hasattr(os, "fork")
    if forks and any(os.environ.get(name) != value for name, value in solving.ENVIRONMENT.items()):
        os.environ.update(solving.ENVIRONMENT)  # Python reads some of them when it starts
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if not forks:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # else it would be a failure of the case that it interrupts
    for name in [name for name in sys.modules if name.partition(".")[0] == "sia_runtime"]:
        del sys.modules[name]  # so that a distribution that needs SIA itself can be imported
    about = json.loads((HERE / "agent.json").read_text(encoding="utf-8"))
    (HERE / "harness" / about["entry"]).stat()  # or the folder was copied in part
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
    """The answer to a case, as JSON; it has its own scratch folder."""
    folder = tempfile.mkdtemp(dir=scratch)
    try:
        return solver.solve({**case, "scratch": folder})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def failure(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


class Policy:
    """The model that the harness asks: a separate process, a JSON object a line each way."""

    def __init__(self) -> None:
        argv = [sys.executable, str(HERE / "policy.py")]
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def ask(self, case: str, seed: int, what: str, request: bytes) -> tuple[dict[str, object], bytes]:
        """One call in the shape of chat completions: a header, with the ``error`` if there is one, and the reply."""
        source, sink = self._process.stdout, self._process.stdin
        assert source
        assert sink
        number = f"{os.getpid()}/{random.SystemRandom().random()}"
        call = {"id": number, "case": case, "seed": seed, "request": json.loads(request)}
        write(sink.fileno(), json.dumps(call).encode() + b"\n")
        while line := read_line(source.fileno()):
            message = json.loads(line)
            if message["id"] != number:
                continue  # for a case that ended before its reply came
            reply: dict[str, Any] = message["reply"]
            if "error" in reply:
                return {"error": reply["error"]["message"], "code": reply["error"].get("code")}, b""
            return {}, json.dumps(reply).encode()
        return {"error": "the policy's process has ended; standard error says why"}, b""

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
        self._state = None
        self._module = solving.load(HARNESS, entry)
        if hasattr(self._module, "setup"):
            self._state = self._module.setup(self._context(str(scratch), 0))
        sys.stdout.flush()  # else each fork would print it again

    def solve(self, case: dict[str, Any]) -> bytes:
        scratch, seed = case["scratch"], case["seed"]
        # By its scratch folder, which no other case has: one with the same input is asked anew.
        ask = partial(self._policy.ask, scratch, seed) if self._policy else None
        instance = {"id": case["id"], "input": case["input"], "start": None}
        result, answer = solving.solve(self._module, instance, self._context(scratch, seed, ask), HARNESS)
        return b'{"answer": %b}' % answer if result["outcome"] == "ok" else failure(str(result["message"]))

    def _context(self, scratch: str, seed: int, ask: solving.Ask | None = None) -> solving.Context:
        has_model = self._policy is not None
        return solving.Context(str(HERE / "public"), scratch, seed, self._state, has_model=has_model, ask=ask)

    def close(self) -> None:
        os.chdir(HERE)  # a folder that is in use cannot be removed everywhere


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
        return line[:-1] if answered else failure(solving.ended_as(self._status)[1])

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
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        print(f"run.py: {error}; its folder has to be whole, and its streams open", file=sys.stderr)
        sys.exit(1)
