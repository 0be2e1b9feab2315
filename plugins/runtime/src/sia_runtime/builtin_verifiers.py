"""The core's verifiers: ``exact``, ``numeric``, ``command`` and ``python``.

The truth is the task's own file of cases, a JSON object a line with an ``answer``.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from sia_core.errors import SiaError, UsageError, faults
from sia_core.types import LARGEST_REWARD, Instance, Score, VerifierContext
from sia_runtime.answers import InvalidAnswer, number, plain_json, time_limit
from sia_runtime.bounded_command import run_command
from sia_runtime.cases import Case, read_cases
from sia_runtime.sandbox.solving import describe
from sia_runtime.worker.cleaning import cleaned

COMMAND_SECONDS = 60.0
_MARGIN_SECONDS = 20.0
"""For the end of a command that took too long; its process is killed after that."""


class _FromCases:
    """A verifier whose truth is the ``answer`` of each case in a file."""

    def __init__(self, data: str) -> None:
        self._data = Path(data)

    def truth(self, instance: Instance) -> Any:
        return self.case(instance).answer

    def case(self, instance: Instance) -> Case:
        if instance.id not in self._cases:
            raise SiaError(f"{self._data}: no case {instance.id}")
        return self._cases[instance.id]

    @cached_property
    def _cases(self) -> dict[str, Case]:
        return {case.id: case for case in read_cases(self._data)}


class Exact(_FromCases):
    """1 where the answer equals the case's, 0 elsewhere. Strings are compared without outer white space; 1 is 1.0."""

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        return Score(float(_same(answer, self.truth(instance))))


class Numeric(_FromCases):
    """1 where the number is within a tolerance of the case's, 0 elsewhere.

    The tolerance is relative to the case's number, and absolute where that is below 1.
    ``arg`` is the tolerance, as in ``--verifier numeric:0.01``; without it, 1e-6. A case whose
    answer is no number is refused at the start, by its line alone: it may be a sealed one.
    """

    def __init__(self, data: str, arg: str = "1e-6") -> None:
        super().__init__(data)
        tolerance = number(arg)
        if tolerance is None or tolerance < 0:
            raise UsageError(f"--verifier numeric:{arg}: the tolerance must be a number such as 0.01")
        self._tolerance = tolerance
        for case in self._cases.values():
            true = number(case.answer)
            if true is None or not math.isfinite(self._allowed(true)):
                why = "is no number" if true is None else "is too large for this tolerance"
                raise UsageError(
                    f"--data, line {case.line}: the answer {why} that --verifier numeric can compare "
                    "with; write it as JSON does, such as 1059 or 0.5, leave the case out, or use --verifier exact"
                )

    def _allowed(self, true: float) -> float:
        return self._tolerance * max(1.0, abs(true))

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        case = self.case(instance)
        value, true = number(answer), number(case.answer)
        if value is None:
            return Score(0.0, valid=False, feedback="the answer is not a number")
        assert true is not None
        error = abs(value - true)
        return Score(float(error <= self._allowed(true)), metrics={"error": min(error, LARGEST_REWARD)})


class Command(_FromCases):
    """A command of the user's own: reads one JSON object on its standard input, prints one.

    In: ``{"id", "input", "answer", "truth"}``. Out, on the last line: ``{"reward": number}``
    and, if it likes, ``valid``, ``metrics`` and ``feedback``. The command is trusted; it
    is given the answer as data, and an environment that holds PATH and no key. ``arg`` is the
    command, as in ``--verifier 'command:python3 check.py'``. It has 60 seconds for an answer, or
    what stands before it, as in ``command:seconds=300 python3 check.py``. Past that all of its
    processes are killed, and the run stops.
    """

    def __init__(self, data: str, arg: str = "") -> None:
        super().__init__(data)
        try:
            self._command = shlex.split(arg)
        except ValueError as error:
            raise UsageError(f"--verifier command:{arg}: {error}") from None
        self._seconds = COMMAND_SECONDS
        if self._command and self._command[0].startswith("seconds="):
            self._seconds = time_limit(self._command.pop(0).removeprefix("seconds="), f"--verifier command:{arg}")
        if not self._command:
            raise UsageError("--verifier command: give the command, for example --verifier 'command:python3 check.py'")
        if shutil.which(self._command[0]) is None:
            raise UsageError(f"the verifier's command {self._command[0]!r} cannot be run: there is no such program")
        self.seconds_per_answer = self._seconds + _MARGIN_SECONDS

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        case = self.case(instance)
        question = {"id": case.name, "input": case.input, "answer": answer, "truth": case.answer}
        try:
            result = run_command(
                self._command,
                self._seconds,
                stdin=json.dumps(question, ensure_ascii=False).encode(),
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
            )
        except OSError as error:
            raise UsageError(f"the verifier's command {self._command[0]!r} cannot be run: {error.strerror}") from None
        if result.code is None:
            raise UsageError(
                f"the verifier's command took more than {self._seconds:g} s on case {case.name}; "
                "give it longer with --verifier 'command:seconds=300 ...'"
            )
        if result.code:
            tail = result.stderr.decode(errors="replace").strip()[-500:]
            raise UsageError(
                f"the verifier's command ended with {result.code} on case {case.name}, answer "
                f"{json.dumps(answer, ensure_ascii=False)[:200]}: {tail}\nIt has to judge every answer: for one that "
                'it cannot use, print {"reward": 0, "valid": false, "feedback": "why"}.'
            )
        return _printed_score(result.stdout.decode(errors="replace"), self._command[0])


class PythonFunction(_FromCases):
    """A function of the user's in a Python file: ``(answer, case)`` in, a number or a Score out.

    ``arg`` is ``FILE:FUNCTION``, as in ``--verifier python:check.py:score``. The case is a mapping of
    its ``id``, ``input`` and ``answer``. The function is trusted, and runs in the verifier's process;
    modules beside its file can be imported.
    """

    def __init__(self, data: str, arg: str = "") -> None:
        super().__init__(data)
        file, _, self._name = arg.rpartition(":")
        if not file or not self._name.isidentifier():
            raise UsageError(f"--verifier python:{arg}: give a file and a function, such as python:check.py:score")
        self._file = file
        try:
            names = vars(_module(Path(file)))
        except OSError as error:
            raise UsageError(f"--verifier python:{arg}: {file} cannot be read: {error.strerror}") from None
        except (Exception, SystemExit) as error:  # a script that ends where it is loaded, too
            raise UsageError(f"--verifier python:{arg}: it cannot be loaded: {describe(error)}") from error
        if not callable(names.get(self._name)):
            raise UsageError(f"--verifier python:{arg}: {file} defines no function {self._name}")
        self._function = names[self._name]

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        case = self.case(instance)
        try:
            score = self._function(answer, {"id": case.name, "input": case.input, "answer": case.answer})
            score = score if isinstance(score, Score) else Score(float(score))
            if not abs(score.reward) <= LARGEST_REWARD:
                raise ValueError(f"{score.reward:g} is not a finite number of at most {LARGEST_REWARD:g}")
            return score
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"the verifier {self._name}({json.dumps(answer, ensure_ascii=False)[:200]}, case {case.name}) gave no "
                f"score: {describe(error, str(Path(self._file).parent))}\n"
                "It has to judge every answer: return a number, or a Score"
            ) from error


def _module(file: Path) -> ModuleType:
    """A Python file as a module, from its source as it is now."""
    module = ModuleType("verifier")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses look for it there
    sys.path.append(str(file.absolute().parent))  # at the end, so that no file there stands in for a library
    exec(compile(file.read_bytes(), str(file), "exec", dont_inherit=True), vars(module))
    return module


class _Printed(BaseModel):
    reward: float
    valid: bool = True
    metrics: dict[str, float] = {}
    feedback: str = ""


def _printed_score(output: str, command: str) -> Score:
    last = output.strip().split("\n")[-1].lstrip("\ufeff")
    try:
        return Score(**_Printed.model_validate(cleaned(plain_json(last))).model_dump())
    except InvalidAnswer as error:
        why = str(error)
    except ValidationError as error:
        why = faults(error)
    raise UsageError(
        f"the verifier's command {command!r} must print a JSON object with a 'reward' on its last line, such as "
        f'{{"reward": 1.0}}; it printed {json.dumps(last[:200], ensure_ascii=False)}: {why}'
    )


def _same(value: Any, true: Any) -> bool:
    if isinstance(value, str) and isinstance(true, str):
        return value.strip() == true.strip()
    if isinstance(value, list) and isinstance(true, list):
        return len(value) == len(true) and all(map(_same, value, true))
    if isinstance(value, dict) and isinstance(true, dict):
        return value.keys() == true.keys() and all(_same(value[key], true[key]) for key in true)
    # To Python true is 1, to JSON it is not.
    return isinstance(value, bool) == isinstance(true, bool) and bool(value == true)
