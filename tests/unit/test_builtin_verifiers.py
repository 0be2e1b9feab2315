"""The core's verifiers score what is right, and say what is wrong with a set-up that cannot be scored."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from sia_core.errors import SiaError, UsageError
from sia_core.types import LARGEST_REWARD, Instance, Score, Verifier, VerifierContext
from sia_runtime import bounded_command, builtin_verifiers
from sia_runtime.bounded_command import KEPT_BYTES, run_command
from sia_runtime.builtin_verifiers import Command, Exact, Numeric, PythonFunction


def _no_run(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is to be run")


CONTEXT = VerifierContext(_no_run, 0, _no_run)
CASE = hashlib.sha256(b'{"x":1}').hexdigest()[:12]
"""The id of the case that the user calls ``a``."""


@pytest.fixture
def truth(tmp_path: Path) -> Any:
    """A file of cases, of which the case ``a`` has the answer that the test gives."""

    def _truth(answer: Any) -> str:
        cases = [{"id": "a", "input": {"x": 1}, "answer": answer}]
        cases += [{"id": f"b{index}", "input": index, "answer": 0} for index in range(7)]
        (tmp_path / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
        return str(tmp_path / "cases.jsonl")

    return _truth


def score(verifier: Verifier, answer: Any, case: str = CASE) -> Score:
    return verifier.score(Instance(case, "gate", {"x": 1}), answer, CONTEXT)


# exact


@pytest.mark.parametrize(
    ("answer", "true", "right"),
    [
        ("theft", "theft", True),
        (" theft\n", "theft", True),
        ("Theft", "theft", False),
        ("", "theft", False),
        (1, 1.0, True),
        (0.1, 0.1, True),
        (10**30, 10**30 + 1, False),
        (1, True, False),
        (0, False, False),
        (True, True, True),
        ("1", 1, False),
        (None, None, True),
        (None, 0, False),
        ([1, 2], [1.0, 2.0], True),
        ([1, 2], [2, 1], False),
        ([1], [True], False),
        ([1], [1, 1], False),
        ({"a": 1, "b": [" x "]}, {"b": ["x"], "a": 1.0}, True),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ({"a": 1}, ["a"], False),
        ([], {}, False),
    ],
)
def test_exact_is_right_where_the_answer_is_the_cases(truth: Any, answer: Any, true: Any, right: bool) -> None:
    assert score(Exact(truth(true)), answer) == Score(float(right))


def test_a_case_that_is_not_in_the_file_is_an_error_and_no_zero(truth: Any) -> None:
    with pytest.raises(SiaError, match=r"cases\.jsonl: no case gone"):
        score(Exact(truth(1)), 1, "gone")
    with pytest.raises(SiaError, match="no case a"):  # the user's own id is not what an instance is known by
        score(Exact(truth(1)), 1, "a")


def test_two_verifiers_of_one_path_do_not_share_what_they_read(truth: Any) -> None:
    assert score(Exact(truth("old")), "old").reward == 1.0
    assert score(Exact(truth("new")), "new").reward == 1.0


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        score(Exact(str(tmp_path / "nowhere")), 1)


# numeric


@pytest.mark.parametrize(
    ("answer", "true", "tolerance", "right"),
    [
        (3.14159, 3.14159, "0", True),
        ("3.14159", 3.14159, "0.001", True),
        (3.14, "3.14159", "0.001", True),
        (3.1, 3.14159, "0.001", False),
        (1010, 1000, "0.01", True),
        (1011, 1000, "0.01", False),
        (-1010, -1000, "0.01", True),
        (0.005, 0, "0.01", True),
        (0.02, 0, "0.01", False),
        (1e300, 1, "1", False),
    ],
)
def test_numeric_is_right_within_its_tolerance(truth: Any, answer: Any, true: Any, tolerance: str, right: bool) -> None:
    assert score(Numeric(truth(true), tolerance), answer).reward == float(right)


@pytest.mark.parametrize("answer", ["three", "nan", "inf", "", None, True, [3], {"a": 3}, 10**400])
def test_numeric_finds_what_is_no_number_invalid(truth: Any, answer: Any) -> None:
    assert score(Numeric(truth(3)), answer) == Score(0.0, valid=False, feedback="the answer is not a number")


def test_numeric_gives_the_error_as_a_metric(truth: Any) -> None:
    assert score(Numeric(truth(3)), 5).metrics == {"error": 2.0}


@pytest.mark.parametrize(
    ("answer", "true"), [(1e305, 3), ("-1.7e308", 3), (10**120, 3), (1.7e308, -1.7e308), (1, 1e300)]
)
def test_an_answer_that_is_far_off_earns_nothing_and_does_not_end_the_run(truth: Any, answer: Any, true: Any) -> None:
    far = score(Numeric(truth(true)), answer)
    assert far.reward == 0.0
    assert far.metrics["error"] == LARGEST_REWARD  # more of a metric stops the run


@pytest.mark.parametrize(
    "answer", ["1,059", "theft", "", "5%", "$5", "nan", "-inf", "1e999", None, True, [3], {"a": 3}, "1 059"]
)
def test_numeric_refuses_at_the_start_a_case_whose_answer_is_no_number_by_its_line_alone(
    truth: Any, answer: Any
) -> None:
    with pytest.raises(UsageError, match="--data, line 1: the answer is no number") as raised:
        Numeric(truth(answer))
    assert "1059" in str(raised.value)
    if isinstance(answer, str) and answer:
        assert answer not in str(raised.value)  # it may be a sealed one


def test_numeric_refuses_a_tolerance_that_would_find_everything_right(truth: Any) -> None:
    with pytest.raises(UsageError, match="line 1: the answer is too large for this tolerance"):
        Numeric(truth(1e300), "1e10")


@pytest.mark.parametrize("answer", [1059, "1059", " -1.5e3 ", "0.5", ".5", "+3", 0])
def test_numeric_takes_what_spells_a_number(truth: Any, answer: Any) -> None:
    assert score(Numeric(truth(answer)), answer).reward == 1.0


@pytest.mark.parametrize("argument", ["", "x", "-1", "nan", "inf"])
def test_numeric_refuses_what_is_no_tolerance(truth: Any, argument: str) -> None:
    with pytest.raises(UsageError, match=f"--verifier numeric:{argument}: the tolerance must be a number such as"):
        Numeric(truth(3), argument)


# command

CHECK = """
import json, os, sys
case = json.load(sys.stdin)
print("looking at", case["id"])
assert case["id"] == "a", case
assert set(os.environ) <= {"PATH", "LANG", "LC_CTYPE"}, os.environ
right = case["answer"] == case["truth"] and case["input"] == {"x": 1}
score = {"reward": right / 2, "metrics": {"length": len(case["answer"])}, "feedback": "so\\u2028so"}
print(json.dumps(score, ensure_ascii=False))
"""


def command(tmp_path: Path, source: str) -> str:
    (tmp_path / "check.py").write_text(source, encoding="utf-8")
    return shlex.join([sys.executable, "-I", "-S", str(tmp_path / "check.py")])


@pytest.mark.real
def test_a_command_reads_a_case_and_prints_its_score(
    truth: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    verifier = Command(truth("条"), command(tmp_path, CHECK))
    assert score(verifier, "条") == Score(0.5, True, {"length": 1.0}, "so\u2028so")
    assert score(verifier, "别的").reward == 0.0


@pytest.mark.real
def test_a_command_may_call_an_answer_invalid(truth: Any, tmp_path: Path) -> None:
    source = """print('{"reward": 0, "valid": false, "feedback": "not a plan"}')"""
    assert score(Command(truth(1), command(tmp_path, source)), 1) == Score(0.0, False, {}, "not a plan")


@pytest.mark.real
def test_a_command_may_print_half_of_a_character_and_a_mark_of_the_order_of_bytes(truth: Any, tmp_path: Path) -> None:
    source = """print('\ufeff{"reward": 1, "feedback": "cut \\\\ud83d"}')"""
    assert score(Command(truth(1), command(tmp_path, source)), 1) == Score(1.0, feedback="cut \ufffd")


@pytest.mark.real
def test_a_command_need_not_read_its_input(truth: Any, tmp_path: Path) -> None:
    verifier = Command(truth(1), command(tmp_path, """print('{"reward": 1}')"""))
    assert score(verifier, "x" * 200_000).reward == 1.0


@pytest.mark.real
def test_a_command_is_found_where_the_users_shell_finds_it(
    truth: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-check").write_text("#!/bin/sh\necho '{\"reward\": 1}'\n")
    (tmp_path / "my-check").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert score(Command(truth(1), "my-check"), 1).reward == 1.0


@pytest.mark.real
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import sys; sys.exit('no such model')", "ended with 1 on case a, answer 1: no such model"),
        ("import sys; sys.exit('no such model')", '{"reward": 0, "valid": false, "feedback": "why"}'),
        ("import os; os.kill(os.getpid(), 9)", "ended with -9 on case a"),
        ("", "must print a JSON object with a 'reward' on its last line"),
        ("print('right')", """such as {"reward": 1.0}; it printed "right": not JSON"""),
        ("""print('{\\n"reward": 1\\n}')""", 'it printed "}"'),
        ("print(0.5)", "must print a JSON object"),
        ("""print('{"score": 1}')""", "reward"),
        ("""print('{"reward": NaN}')""", "NaN is not a number here"),
        ("""print('{"reward": 1e999}')""", "1e999 is not a finite number"),
        ("""print('{"reward": "high"}')""", "reward=high: should be a valid number, unable"),
        ("""print('{"reward": 1}'); print('done')""", "must print a JSON object"),
    ],
)
def test_a_command_that_fails_is_an_error_and_no_zero(truth: Any, tmp_path: Path, source: str, says: str) -> None:
    with pytest.raises(SiaError) as raised:
        score(Command(truth(1), command(tmp_path, source)), 1)
    assert says in str(raised.value)


@pytest.mark.real
def test_a_long_answer_is_cut_where_a_command_fails_on_it(truth: Any, tmp_path: Path) -> None:
    with pytest.raises(SiaError, match='ended with 1 on case a, answer "条') as raised:
        score(Command(truth(1), command(tmp_path, "raise SystemExit(1)")), "条" * 5000)
    assert len(str(raised.value)) < 500


@pytest.mark.real
def test_a_command_that_takes_too_long_is_stopped(truth: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin_verifiers, "COMMAND_SECONDS", 0.05)
    with pytest.raises(SiaError, match=r"took more than 0\.05 s on case a"):
        score(Command(truth(1), command(tmp_path, "import signal; signal.pause()")), 1)


@pytest.mark.parametrize(
    ("argument", "says"),
    [("", "give the command, for example"), ("python 'check.py", "No closing quotation")],
)
def test_what_is_no_command_is_refused(truth: Any, argument: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Command(truth(1), argument)


@pytest.mark.parametrize("program", ["/no/such/check --fast", "no-such-check", "seconds=9 no-such-check"])
def test_a_command_that_is_not_there_is_named_before_anything_is_scored(truth: Any, program: str) -> None:
    with pytest.raises(UsageError, match="check' cannot be run: there is no such program"):
        Command(truth(1), program)


@pytest.mark.real
def test_a_command_has_the_seconds_that_stand_before_it(truth: Any, tmp_path: Path) -> None:
    checked = Command(truth(1), "seconds=0.05 " + command(tmp_path, "import signal; signal.pause()"))
    with pytest.raises(SiaError, match=r"took more than 0\.05 s on case a; give it longer with"):
        score(checked, 1)
    assert Command(truth(1), f"seconds=300 {sys.executable}").seconds_per_answer > 300


@pytest.mark.parametrize("seconds", ["0", "-1", "x", "", "inf", "nan"])
def test_what_is_no_time_limit_is_refused(truth: Any, seconds: str) -> None:
    with pytest.raises(UsageError, match="is no time limit; give seconds, such as 300"):
        Command(truth(1), f"seconds={seconds} python3")


LEAVES = """
import os, subprocess, sys, time
for new_session in (False, True):
    sleeps = [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"]
    helper = subprocess.Popen(sleeps, start_new_session=new_session)
    with open("PIDS", "a") as file:
        file.write(f"{helper.pid} ")
if os.path.exists("DAEMONS") and os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open("PIDS", "a") as file:
            file.write(f"{os.getpid()} ")
        open("READY", "w").close()
        time.sleep(1000)
    os._exit(0)
"""


def helpers(tmp_path: Path) -> list[int]:
    return [int(pid) for pid in (tmp_path / "pids").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def leaving(tmp_path: Path, then: str) -> str:
    names = {"PIDS": "pids", "DAEMONS": "daemons", "READY": "ready"}
    text = LEAVES + then
    for name, path in names.items():
        text = text.replace(name, str(tmp_path / path))
    return command(tmp_path, text)


@pytest.mark.real
def test_a_score_counts_though_a_helper_holds_the_output_open(truth: Any, tmp_path: Path) -> None:
    checked = Command(truth(1), leaving(tmp_path, """print('{"reward": 0.5}')"""))
    assert score(checked, 1).reward == 0.5
    of_its_group, elsewhere = helpers(tmp_path)
    try:
        assert not runs(of_its_group)
        assert runs(elsewhere)  # what went away on purpose, such as a server for all scores, is left alone
    finally:
        os.kill(elsewhere, signal.SIGKILL)


@pytest.mark.real
def test_all_that_a_command_started_is_killed_at_its_limit(
    truth: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        @staticmethod
        def monotonic() -> float:
            return 1e9 if (tmp_path / "ready").exists() else 0.0

    (tmp_path / "daemons").touch()
    monkeypatch.setattr(bounded_command, "time", Clock)
    with pytest.raises(SiaError, match="took more than 60 s"):
        score(Command(truth(1), leaving(tmp_path, "print('so far', flush=True)\ntime.sleep(1000)")), 1)
    assert len(helpers(tmp_path)) == 3
    assert not any(runs(pid) for pid in helpers(tmp_path))


@pytest.mark.real
def test_of_what_a_command_prints_without_end_the_end_is_kept(truth: Any, tmp_path: Path) -> None:
    source = """print('x' * 5_000_000); import sys; sys.stderr.write('y' * 5_000_000); print('{"reward": 1}')"""
    assert score(Command(truth(1), command(tmp_path, source)), 1).reward == 1.0
    ended = run_command([sys.executable, "-I", "-S", "-c", "print('x' * 5_000_000)"], 20.0, env={})
    assert (ended.code, len(ended.stdout)) == (0, KEPT_BYTES)


@pytest.mark.real
def test_a_large_case_is_handed_to_a_command_that_does_not_read_it(truth: Any, tmp_path: Path) -> None:
    assert score(Command(truth(1), command(tmp_path, """print('{"reward": 1}')""")), "x" * 10**6).reward == 1.0


# python


@pytest.fixture
def check(truth: Any, tmp_path: Path) -> Any:
    """The verifier by a function of a file that holds the text."""

    def _check(text: str, name: str = "score") -> PythonFunction:
        (tmp_path / "check.py").write_text(text)
        return PythonFunction(truth(1), f"{tmp_path / 'check.py'}:{name}")

    return _check


@pytest.mark.parametrize("gives", ["float('nan')", "float('inf')", "Score(float('nan'))"])
def test_a_function_that_gives_no_finite_number_is_the_users_mistake(check: Any, gives: str) -> None:
    verifier = check(f"from sia_core.types import Score\ndef score(answer, case):\n    return {gives}\n")
    with pytest.raises(UsageError, match=r"gave no score: ValueError: (nan|inf) is not a finite number"):
        score(verifier, 7)


@pytest.mark.parametrize("gives", ["answer == case['answer'] and case['id'] == 'a'", "Score(1.0, feedback='')"])
def test_a_function_scores_an_answer_beside_its_case(check: Any, gives: str) -> None:
    verifier = check(f"from sia_core.types import Score\ndef score(answer, case):\n    return {gives}\n")
    assert score(verifier, 1) == Score(1.0)


def test_a_function_that_gives_no_score_is_an_error_that_names_the_answer_and_the_line(check: Any) -> None:
    verifier = check("def score(answer, case):\n    return float(answer['x'])\n")
    with pytest.raises(SiaError, match=r"score\(7, case a\) gave no score: TypeError.*\n  check.py:2 in score"):
        score(verifier, 7)


def test_a_function_that_ends_its_process_gives_no_score(check: Any) -> None:
    verifier = check("import sys\ndef score(answer, case):\n    sys.exit('no')\n")
    with pytest.raises(UsageError, match=r"gave no score: SystemExit: no"):
        score(verifier, 7)


def test_a_function_may_import_what_lies_beside_its_file(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("beside_the_check", "json"):
        (tmp_path / f"{name}.py").write_text("WORTH = 0.5\n")
    text = "import json\nfrom beside_the_check import WORTH\nscore = lambda answer, case: WORTH * json.loads('1')\n"
    assert score(check(text), 1) == Score(0.5)


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("x = 1\n", "score", r"check\.py defines no function score"),
        ("import nothing_here\n", "score", "ModuleNotFoundError"),
        ("import sys\nsys.exit(2)\n", "score", "it cannot be loaded: SystemExit: 2"),
    ],
)
def test_a_file_that_has_no_such_function_is_refused(check: Any, text: str, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check(text, name)


@pytest.mark.parametrize("arg", ["", "check.py", "check.py:", ":score"])
def test_a_python_verifier_names_a_file_and_a_function(truth: Any, arg: str) -> None:
    with pytest.raises(UsageError, match="give a file and a function, such as"):
        PythonFunction(truth(1), arg)
