"""The verifier ``evaluate``: a task folder's own ``evaluate.py``, over the answers to one part of the questions."""

from __future__ import annotations

import ast
import importlib.util
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_core.errors import HarnessError, SiaError, UsageError
from sia_core.harness import check_path
from sia_core.types import Instance, Score, VerifierContext
from sia_released.folder import DEALT, EVALUATE, Part, TaskFolder
from sia_released.task import name_of
from sia_runtime.answers import InvalidAnswer, number, plain_json, time_limit
from sia_runtime.bounded_command import run_command
from sia_runtime.metrics import metric_of

RESULTS = "results.json"
TAIL = 2000


class Evaluate:
    """Runs the script in a separate folder, with the part's answers as private data and the agent's files beside it.

    The script is the task author's and trusted, as the verifier ``command`` is. It gets
    no environment but PATH, and is started outside of the folder that the agent filled.
    """

    def __init__(
        self,
        folder: str,
        seed: int = 0,
        items: str = "",
        metric: str = "accuracy",
        scale: str = "1",
        seconds: str = "100",
    ) -> None:
        self._folder, self._metric = TaskFolder(Path(folder)), metric_of(metric).name
        script = self._folder.evaluate
        if script is None:
            raise UsageError(f"--task-dir {folder}: no {EVALUATE}, so nothing says what an answer is worth; write one")
        self._place, self._script = script
        _check(Path(folder) / self._place, self._script)
        self._seconds = time_limit(seconds, f"--set evaluate_seconds={seconds}")
        self.seconds_per_answer = self._seconds + 20
        divisor = number(scale)
        if divisor is None or divisor <= 0:
            raise UsageError(f"--set scale={scale}: not a number above 0")
        self._scale = divisor
        dealt = self._folder.dealt(seed, int(items) if items else None)
        self._parts = {name_of(part): part for split in DEALT for part in dealt[split]}

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        """The metric; 0, and not valid, where the script finds nothing that it can use."""
        part = self._parts.get(instance.id)
        if part is None:
            raise SiaError(f"{self._folder.path}: no part {instance.id}; give the verifier the task's own settings")
        with tempfile.TemporaryDirectory(prefix="sia-evaluate-") as name:
            root = Path(name)
            try:
                self._lay_out(root, part, answer["files"])
            except (HarnessError, OSError) as error:
                return Score(0.0, valid=False, feedback=f"the files of the answer cannot be laid out: {error}")
            output = self._run(root)
            results = root / "answer" / RESULTS
            feedback = output if instance.split == "search" else ""
            if not results.is_file():
                return Score(0.0, valid=False, feedback=feedback or "evaluate.py could make nothing of the answer")
            return Score(self._read(results), feedback=feedback)

    def _lay_out(self, root: Path, part: Part, files: Mapping[str, str]) -> None:
        """The folder as the script expects it, and beside it what the agent left."""
        for name, content in {**self._folder.shown, **self._folder.asked(part)}.items():
            _write(root / "task" / "data" / "public" / name, content)
        for name, content in self._folder.answered(part).items():
            _write(root / "task" / "data" / "private" / name, content)
        (root / "answer").mkdir()
        for name, text in files.items():
            if name != RESULTS:  # the script's own word, never the agent's
                _write(root / "answer" / check_path(name), text.encode())

    def _run(self, root: Path) -> str:
        script = root / "task" / self._place
        _write(script, self._script)
        result = run_command(
            [sys.executable, str(script), "--gen-dir", str(root / "answer")],
            self._seconds,
            cwd=root,
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": str(root)},
        )
        if result.code is None:
            (root / "answer" / RESULTS).unlink(missing_ok=True)  # it may have been in the middle of it
            return f"evaluate.py took more than {self._seconds:g} s; give it longer with --set evaluate_seconds=300"
        return (result.stdout + result.stderr).decode(errors="replace")[-TAIL:]

    def _read(self, results: Path) -> float:
        try:
            content = plain_json(results.read_text(encoding="utf-8-sig"))
        except (InvalidAnswer, OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{EVALUATE} of {self._folder.path} wrote a {RESULTS} that cannot be read: {error}"
            ) from None
        figures = content if isinstance(content, dict) else {}
        summary = figures.get("summary")
        value = figures.get(self._metric, summary.get(self._metric) if isinstance(summary, dict) else None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            names = ", ".join(key for key, each in figures.items() if isinstance(each, int | float))
            raise UsageError(
                f"{RESULTS} has no number {self._metric!r} but {names or 'none'}; name one with --set metric="
            )
        return value / self._scale


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _check(script: Path, content: bytes) -> None:
    """UsageError where the script cannot run here: it would call every answer unusable."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{script}: {error}") from None
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in (each.partition(".")[0] for each in names):
            if importlib.util.find_spec(name) is None and not script.with_name(f"{name}.py").is_file():
                raise UsageError(f"{script} imports {name}, which is not installed here: `pip install {name}`")
