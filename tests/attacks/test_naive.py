"""Attacks on whoever judges: each works on a verifier in the harness's own process, and on its printed score."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sia_attacks import arena
from sia_attacks.catalogue import HOSTILE

NAIVE = (
    *("always-equal", "builtins-patched", "checker-replaced", "frame-walk", "object-scan", "score-at-exit"),
    *("score-file", "score-printed", "time-replaced", "truth-as-number"),
)

VERIFIER = """
import json, sys, time, types

sys.path.insert(0, sys.argv[1])
checker = types.ModuleType("checker")
def check(answer, label):
    return float(answer == label)
checker.check = check
sys.modules["checker"] = checker

def judge(label, instance, ctx):
    import harness
    answer = harness.solve(instance, ctx)
    import checker
    score = checker.check(answer, label)
    if sys.argv[2] == "time-replaced":  # the next answer is timed, by this clock
        started = time.monotonic()
        sum(range(1000))
        score = float(time.monotonic() == started)
    return score

from pathlib import Path
here = Path.cwd()
ctx = types.SimpleNamespace(scratch=here, public=here)
instance = types.SimpleNamespace(id="1", input={"numbers": [0, 1]}, start=None)
label = 1 if sys.argv[2] == "truth-as-number" else "label-" + 16 * "a"
print(json.dumps({"score": judge(label, instance, ctx)}), flush=True)
"""


def score(folder: Path, attack: str, code: str) -> float:
    """The last score found by a runner that judges a harness within that harness's interpreter."""
    tree = folder / "tree" / "below"
    tree.mkdir(parents=True)
    (tree / "harness.py").write_text(code)
    (tree / "inside.py").write_bytes((Path(arena.__file__).parent / "inside.py").read_bytes())
    (tree / "targets.json").write_text(json.dumps({"limits": {"total_memory_bytes": 2**30, "processes": 64}}))
    command = [sys.executable, "-c", VERIFIER, str(tree), attack]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tree, check=False)
    for file in sorted(tree.glob("result.json")):
        return float(json.loads(file.read_text())["score"])
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    scores: dict[str, Any] = json.loads(lines[-1]) if lines else {"score": 0.0}
    return float(scores["score"])


@pytest.mark.parametrize("attack", NAIVE)
def test_a_verifier_within_the_harness_is_deceived(attack: str, tmp_path: Path) -> None:
    assert score(tmp_path, attack, (HOSTILE / f"{attack}.py").read_text()) >= 1.0


@pytest.mark.parametrize("attack", NAIVE)
def test_and_gives_a_harness_that_does_not_know_the_answer_nothing(attack: str, tmp_path: Path) -> None:
    wrong = "def solve(instance, ctx):\n    return 'no answer at all'\n"
    assert score(tmp_path, attack, wrong) < 0.9
