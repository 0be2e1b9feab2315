"""The program that runs a harness in a sandbox: sets it up once, then solves each instance in a fresh fork.

This process is the template. It forks, passes frames between its forks and the
host, holds each fork to its time, and kills what a fork leaves. The harness's
set-up runs in it, so the host trusts nothing that it sends and measures time itself.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType

from sia_runtime.sandbox import solving, tree
from sia_runtime.sandbox.forks import FLOOD, READ, Fork, Place, Solve
from sia_runtime.sandbox.frames import (
    MODEL_BYTES,
    OF_A_FORK,
    FrameReader,
    Header,
    ProtocolError,
    check,
    encode,
    model_request,
    strict_json,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sia_runtime.sandbox.launch import World


class Template:
    """Forks one process an instance, several at once."""

    def __init__(self, channel: int, world: World, order: dict[str, Any]) -> None:
        self._channel, self._world = channel, world
        self._slots: int = order["slots"]
        self._stateless: bool = order["stateless"]
        self._seconds: float = order["solve_seconds"]
        self._output_bytes: int = order["output_bytes"]
        self._answer_bytes: int = order["answer_bytes"]
        self._model: bool = order["model"]
        self._body_bytes = max(MODEL_BYTES, self._answer_bytes)
        self._public = world.mounts["public"]
        self._setup_scratch = f"{world.scratch}/setup"
        os.mkdir(self._setup_scratch)
        # Made now, as nobody can once the harness's code is there: each place is used by one process after the other.
        self._places: list[Place] = []
        for number in range(self._slots):
            scratch = f"{world.scratch}/{number}"
            os.mkdir(scratch)
            self._places.append((scratch, world.rules(scratch, [self._setup_scratch])))
        world.settle()
        self._queue: list[Solve] = []
        self._forks: list[Fork] = []
        self._cleaners: dict[int, tuple[int, Place]] = {}
        self._count = 0
        self._state: Any = None

    def set_up(self, entry: str) -> ModuleType:
        """Load the harness and run its ``setup``."""
        os.environ["TMPDIR"] = os.environ["HOME"] = self._setup_scratch
        module = solving.load(self._world.mounts["harness"], entry)
        if hasattr(module, "setup"):
            ctx = solving.Context(self._public, self._setup_scratch, 0, None, has_model=self._model)
            self._state = module.setup(ctx)
        import random  # noqa: F401 - loaded once here, as every fork seeds it

        gc.collect()
        gc.freeze()
        return module

    def serve(self, module: ModuleType) -> None:
        """Serve the host until it closes the channel."""
        reader = FrameReader(sys.maxsize, sys.maxsize)
        while True:
            self._start_waiting(module)
            ready = self._wait()
            if self._channel in ready:
                data = os.read(self._channel, READ)
                if not data:
                    return
                for header, body in reader.feed(data):
                    self._from_host(header, body)
            for fork in list(self._forks):
                self._attend(fork, ready)
            for pid in [pid for pid, (handle, _) in self._cleaners.items() if handle in ready]:
                os.waitpid(pid, 0)
                handle, place = self._cleaners.pop(pid)
                os.close(handle)
                self._places.append(place)
            self._reap_strays()

    def _reap_strays(self) -> None:
        """Orphans of what set-up started come here when they end."""
        pids = {fork.pid for fork in self._forks} | self._cleaners.keys()
        try:
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in pids:
                    return
                os.waitpid(ended.si_pid, 0)
        except ChildProcessError:
            pass

    def _from_host(self, header: Header, body: bytes) -> None:
        if "seed" in header:
            fields = {name: header.get(name) for name in ("seed", "token", "evaluations")}
            self._queue.append(Solve(int(str(header["job"])), body, fields))
            return
        for fork in self._forks:
            if fork.job is None or fork.job.number != header["job"]:
                continue
            if header.get("op") == "wait":
                fork.wait(begins=bool(header["begins"]))
            elif fork.asked:
                fork.asked = False
                fork.wait(begins=False)
                fork.post({name: header[name] for name in ("error", "code") if name in header}, body)

    def _wait(self) -> set[int]:
        """The descriptors with something to read, or to write where something waits; at the latest a deadline."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        deadlines = []
        for fork in self._forks:
            for descriptor in fork.open:
                poll.register(descriptor, select.POLLIN)
            if fork.unsent:
                poll.register(fork.requests, select.POLLOUT)
            if fork.job is not None and not fork.waits:
                deadlines.append(fork.deadline)
        for handle, _ in self._cleaners.values():
            poll.register(handle, select.POLLIN)
        timeout = max(0.0, min(deadlines) - time.monotonic()) * 1000 + 1 if deadlines else None
        return {descriptor for descriptor, _ in poll.poll(timeout)}

    # A fork's life.

    def _start_waiting(self, module: ModuleType) -> None:
        while self._queue:
            idle = next((fork for fork in self._forks if fork.job is None), None)
            if idle is None:
                if not self._places:
                    return
                try:
                    idle = self._fork(module)
                except OSError as error:
                    if self._forks or self._cleaners:
                        return  # another may hold the processes or the disk that it takes; it will end
                    outcome = "processes" if isinstance(error, BlockingIOError) else solving.outcome_of(error)
                    self._send_done(self._queue.pop(0), outcome, f"no process could be started: {error}")
                    continue
            idle.take_on(self._queue.pop(0), self._seconds)

    def _fork(self, module: ModuleType) -> Fork:
        self._count += 1
        place, rules = self._places[-1]
        scratch = f"{place}/{self._count}"
        os.mkdir(scratch)
        pipes = [os.pipe() for _ in range(3)]
        (source, requests), (results, sink), (output, printed) = pipes
        theirs = [source, sink, printed]
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError:
            _close(*theirs, requests, results, output)
            os.rmdir(scratch)
            raise
        if pid == 0:
            self._become_solver(module, scratch, rules, pipes)
        os.setpgid(pid, pid)
        _close(*theirs)
        os.set_blocking(requests, False)
        os.set_blocking(output, False)
        fork = Fork(pid, scratch, self._places.pop(), (requests, results, output), self._body_bytes)
        self._forks.append(fork)
        return fork

    def _become_solver(self, module: ModuleType, scratch: str, rules: int | None, pipes: list[tuple[int, int]]) -> None:
        """The new process: never returns."""
        (source, requests), (results, sink), (output, printed) = pipes
        try:
            os.setpgid(0, 0)
            os.dup2(printed, 1)
            os.dup2(printed, 2)
            _close(self._channel, requests, results, output, printed)
            _close(*(handle for handle, _ in self._cleaners.values()))
            for fork in self._forks:
                _close(*fork.descriptors())
            self._world.confine(rules)
            places = [
                *self._places,
                *(fork.place for fork in self._forks),
                *(each for _, each in self._cleaners.values()),
            ]
            _close(*(rules for _, rules in places if rules is not None))
            self._solve_all(module, scratch, solving.Asking(source, sink, self._body_bytes))
        finally:
            os._exit(70)

    def _solve_all(self, module: ModuleType, scratch: str, pipes: solving.Asking) -> None:
        served = 0
        while (frame := pipes.receive()) is not None:
            header, body = frame
            folder = scratch
            if self._stateless:
                served += 1
                folder = f"{scratch}/{served}"
                os.mkdir(folder)
            if self._world.port is not None:
                os.environ["OPENAI_BASE_URL"] = f"http://127.0.0.1:{self._world.port}/v1"
                os.environ["OPENAI_API_KEY"] = str(header["token"])
            ctx = solving.Context(
                self._public,
                folder,
                int(str(header["seed"])),
                self._state,
                has_model=self._model,
                evaluations=int(str(header["evaluations"])),
                ask=pipes.ask,
            )
            result, answer = solving.solve(module, json.loads(body), ctx, self._world.mounts["harness"])
            if len(answer) > self._answer_bytes:
                message = f"the answer has {len(answer)} bytes as JSON; at most {self._answer_bytes} are accepted"
                result, answer = {"outcome": "answer-too-large", "message": message}, b""
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except BaseException:
                    continue  # closed or replaced by the harness
            pipes.send({**result, "op": "done", "rewards": ctx.step_rewards}, answer)
            if self._stateless:
                os.chdir(scratch)
                _tidy(tree.remove, folder)
        os._exit(0)

    def _attend(self, fork: Fork, ready: set[int]) -> None:
        """Look after one fork: its frames, its output, its end, and its time."""
        if fork.requests in ready:
            fork.flush()
        if fork.output in ready:
            fork.collect(self._output_bytes)
        if fork.results in ready and not self._read_results(fork):
            return
        if fork.printed > FLOOD * self._output_bytes:
            self._end(fork, "flood", f"it printed more than {FLOOD * self._output_bytes} bytes")
        elif fork.handle in ready:
            self._end(fork)
        elif fork.job is not None and not fork.waits and time.monotonic() >= fork.deadline:
            self._end(fork, "timeout", f"no answer within {self._seconds:g} seconds")

    def _read_results(self, fork: Fork) -> bool:
        """Handle its frames; False when it has been ended over them."""
        data = os.read(fork.results, READ)
        if not data:
            fork.open.discard(fork.results)  # it can answer no more: its end or its deadline will tell
        try:
            for header, body in fork.reader.feed(data):
                if fork.job is None or fork.asked:
                    raise ProtocolError("a frame that nothing asked for")
                name = check(header, OF_A_FORK)
                if name == "done":
                    self._finish(fork, header, body)
                    if not self._stateless:
                        return False
                    continue
                if not (self._model if name == "model" else fork.job.evaluates):
                    raise ProtocolError("a question that nobody answers")
                (model_request if name == "model" else strict_json)(body)
                fork.asked = True
                fork.wait(begins=True)
                self._send({"op": name, "job": fork.job.number}, body)
        except ProtocolError as error:
            self._end(fork, "protocol", str(error))
            return False
        return True

    def _finish(self, fork: Fork, header: Header, answer: bytes) -> None:
        """A fork has answered; one that is not stateless ends with that."""
        fork.collect(self._output_bytes)
        outcome, message, rewards = header.get("outcome"), header.get("message"), header.get("rewards")
        if fork.printed > FLOOD * self._output_bytes:
            outcome, message, answer = "flood", f"it printed more than {FLOOD * self._output_bytes} bytes", b""
        if fork.job is not None:
            self._send_done(fork.job, outcome, message, answer, rewards, fork)
            fork.job = None
        if not self._stateless:
            self._end(fork)

    def _end(self, fork: Fork, outcome: str = "", message: str = "") -> None:
        """Kill a fork and all that it started, report its instance if it has not answered, and clear up after it."""
        os.killpg(fork.pid, signal.SIGKILL)
        status = os.waitpid(fork.pid, 0)[1]
        self._reap_group(fork.pid)
        self._forks.remove(fork)
        if fork.job is not None:
            fork.collect(self._output_bytes)
            if not outcome:
                outcome, message = solving.ended_as(status)
            self._send_done(fork.job, outcome, message, fork=fork)
        _close(*fork.descriptors())
        self._clear(fork.scratch, fork.place)

    def _reap_group(self, group: int) -> None:
        with suppress(ChildProcessError):
            while True:
                os.waitid(os.P_PGID, group, os.WEXITED)

    def _clear(self, scratch: str, place: Place) -> None:
        """Empty a place for the next process; another process does it where that may take long."""
        try:
            os.rmdir(scratch)
            clean = not os.listdir(place[0])
        except OSError:
            clean = False
        try:
            pid = -1 if clean else os.fork()
        except OSError:
            pid = -1
            _tidy(tree.empty, place[0])
        if pid < 0:
            self._places.append(place)
            return
        if pid == 0:
            try:
                tree.empty(place[0])
            finally:
                os._exit(0)
        self._cleaners[pid] = os.pidfd_open(pid), place

    def _send_done(
        self,
        job: Solve,
        outcome: object,
        message: object,
        answer: bytes = b"",
        rewards: object = (),
        fork: Fork | None = None,
    ) -> None:
        seconds = time.monotonic() - fork.started if fork else 0.0
        log = fork.log if fork else b""
        header = {"op": "done", "job": job.number, "outcome": outcome, "message": message, "rewards": rewards}
        self._send({**header, "seconds": seconds, "answer": len(answer)}, answer + log)

    def _send(self, header: Header, body: bytes = b"") -> None:
        send(self._channel, header, body)


def _tidy(how: Callable[[str], None], folder: str) -> None:
    with suppress(OSError):  # made to be hard to remove; the sandbox's end removes it
        how(folder)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def send(channel: int, header: Header, body: bytes = b"") -> None:
    """Write one frame to the host."""
    data = memoryview(encode(header, body))
    while data:
        data = data[os.write(channel, data) :]


def main(channel: int, world: World) -> None:
    """Set the harness up as the host's first frame says, and serve."""
    reader = FrameReader(0)
    frames: list[tuple[Header, bytes]] = []
    while not frames:
        frames = reader.feed(os.read(channel, READ))
    order: dict[str, Any] = frames[0][0]
    try:
        template = Template(channel, world, order)
        module = template.set_up(order["entry"])
    except BaseException as error:
        send(channel, {"op": "failed", "message": solving.describe(error, world.mounts["harness"])})
        return
    send(channel, {"op": "ready"})
    template.serve(module)
