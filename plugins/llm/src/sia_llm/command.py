"""The improver ``command``: a program of the user's, such as a coding agent, that gets a folder and leaves a decision.

What it left is recorded when it ends, so a resumed run does not start it again for the same decision.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from sia_core.errors import BudgetExhausted, ModelError, SiaError, UsageError, excerpt
from sia_core.evidence import Evidence, TaskView
from sia_core.given_files import read_file
from sia_core.harness import HarnessTree
from sia_core.run.record import attempt, call, decided
from sia_core.run.run_view import RunView
from sia_llm.folder import GivenFolder, Leftovers
from sia_llm.parents import DEFAULT, parents
from sia_llm.proposal import Decided
from sia_llm.toolbox import ToolError
from sia_llm.workshop import CHECKS
from sia_runtime.answers import time_limit
from sia_runtime.bounded_command import run_command

SECONDS = "3600"
TRIES = 3
"""Times that the program is started for a decision, where what it left cannot be used."""

CHECKED = "checks"
"""The folder in which a program asks for checks."""

_TICK_SECONDS = 0.05


class Command:
    """``model`` is the program with its arguments, which runs as the user; ``seconds`` the longest that it may take.

    The first agent is the task's own.
    """

    def __init__(self, model: str = "", seconds: str = SECONDS) -> None:
        try:
            self._command = shlex.split(model)
        except ValueError as error:
            raise UsageError(f"--improver command:{model}: {error}") from None
        if not self._command:
            raise UsageError("--improver command: give the program, for example --improver 'command:./my-agent'")
        self._seconds = time_limit(seconds, "--improver-set seconds")
        self._run: RunView | None = None

    def check(self) -> None:
        """UsageError where there is no such program."""
        if shutil.which(self._command[0]) is None:
            raise UsageError(f"the improver's program {self._command[0]!r} cannot be run: there is no such program")

    def equip(self, run: RunView) -> None:
        """Work on behalf of a run."""
        self._run = run

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        """The task's own harness."""
        return task.seed

    def decide(self, evidence: Evidence) -> Sequence[Decided]:
        """The program's decisions; none where it leaves none that can be tried."""
        if self._run is None:
            raise SiaError("the improver was not equipped by a run")
        begins = parents(DEFAULT[self._run.kind], evidence, self._run.rewards)
        workspace = GivenFolder(self._run, evidence, begins)
        output, why = Leftovers(), ""
        for number in range(TRIES):
            output = self._left(call(decided(evidence.generation), f"program-{number}"), workspace, output, why)
            if output.late:
                why = f"it took more than {self._seconds:g} s; --improver-set seconds=N gives it longer"
                break
            try:
                return workspace.decided(output)
            except ToolError as error:
                why = str(error)
        self._run.notice(
            f"{self._command[0]} left no decision that can be tried: {excerpt(why)}; generation {evidence.generation} "
            "passes without a change"
        )
        return []

    def _left(self, key: str, workspace: GivenFolder, before: Leftovers, objection: str) -> Leftovers:
        """The files of the program, from the record where it had ended before the run was resumed."""
        assert self._run is not None
        ledger = self._run.ledger
        recorded = ledger.get(key)
        if recorded:
            return Leftovers.from_json(recorded[0])
        started = next(each for number in count() if ledger.get(each := attempt(key, "intent", number)) is None)
        ledger.record(
            started, {"program": self._command}
        )  # before it is started: a replay, which records nothing, ends
        folder = Path(tempfile.mkdtemp(prefix="sia-improver-"))
        try:
            workspace.write(folder, self._seconds, before, objection)
            ended = self._ended(folder, workspace)
            output = workspace.read(folder) if ended else Leftovers(late=True)
        finally:
            # shutil.rmtree fails on folders in folders without end.
            subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL, check=False)
        return Leftovers.from_json(ledger.record(key, output.to_json()))

    def _ended(self, folder: Path, workspace: GivenFolder) -> bool:
        """Run the program, and answer its checks; whether it ended in time. ModelError where it failed."""
        with Checks(folder, workspace):
            try:
                result = run_command(self._command, self._seconds, env=os.environ, cwd=folder)
            except OSError as error:
                raise UsageError(
                    f"the improver's program {self._command[0]!r} cannot be run: {error.strerror}"
                ) from None
        if result.code:
            log = (result.stderr or result.stdout).decode(errors="replace").strip()[-1000:]
            raise ModelError(
                f"the improver's program {self._command[0]!r} ended with {result.code}: {log or 'it printed nothing'}. "
                "`sia resume` starts it again"
            )
        return result.code == 0


class Checks:
    """Answers what a program asks by the script ``check``, while the ``with`` block lasts.

    A program may be confined to its folder, so no answer is written through a link that it put there.
    """

    def __init__(self, folder: Path, workspace: GivenFolder) -> None:
        self._folder, self._workspace = folder, workspace
        place = folder / CHECKED
        place.mkdir()
        (place / "run").write_text(str(os.getpid()))
        self._inside = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="sia-improver-checks")
        self._remaining = CHECKS

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        os.close(self._inside)

    def _serve(self) -> None:
        requests: set[str] = set()
        while not self._ended.wait(_TICK_SECONDS):
            fresh = [each for each in os.listdir(self._inside) if each.endswith(".asked") and each not in requests]
            for request in sorted(fresh):
                requests.add(request)
                with suppress(OSError):  # the program has put something else there, and waits for itself
                    self._write(request.removesuffix(".asked"), self._answer(request))

    def _write(self, name: str, text: str) -> None:
        """Answer, with a file that appears whole."""
        kind = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(f"{name}.text", kind, 0o644, dir_fd=self._inside), "wb") as file:
            file.write(text.encode(errors="replace"))
        os.rename(f"{name}.text", f"{name}.answered", src_dir_fd=self._inside, dst_dir_fd=self._inside)

    def _answer(self, request: str) -> str:
        try:
            name = read_file(self._folder, CHECKED, request, most_bytes=1000).decode(errors="replace").strip()
            output = self._workspace.read(self._folder)
            if name == "decision":
                return f"decision.json can be used: {len(self._workspace.decided(output))} changes"
            if not self._remaining:
                return f"{CHECKS} checks were made; decide with what they showed"
            self._remaining -= 1
            return self._workspace.checked(name, output)
        except (ToolError, BudgetExhausted, SiaError, OSError) as error:
            return f"it cannot be used: {error}"
