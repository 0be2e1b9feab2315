"""Answers that are made worse on purpose, to see whether the reward pays for it.

Each cheat is made of the first harness's answers and scored on the same instances. It paid where its
reward is above theirs and a metric that stands beside the reward (``Metric.beside``) is worse, both by more
than twice the standard error of the paired differences.

Cheats of any JSON answer are here. Where answers are of another kind, such as code, a task adds its own by a
method ``cheats(answer)``, which returns worse answers by name.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles, stdev
from typing import Any

from sia_audit.bench import FAILED, Bench, Judged
from sia_audit.findings import Finding
from sia_audit.separation import labelled_answers
from sia_audit.similar import Weights, cosine, essence
from sia_core.types import Instance, Metric
from sia_runtime.answers import strict_json

SECONDS = 30.0
"""About how long all cheats may take."""

MOST_CHEATS = 12
"""Tried of those that a task names."""

ERRORS = 2.0
"""Standard errors by which a difference counts."""

Path = tuple[Any, ...]
Place = tuple[Path, Any]


@dataclass(frozen=True)
class Cheat:
    """A way to make answers worse, and the means on the instances where it could be scored.

    ``before`` and ``after`` have the reward and each metric beside it, by name; ``paid`` names the metrics that
    became worse while the reward rose. ``refused`` counts the answers that the verifier did not accept.
    """

    name: str
    instances: int
    refused: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    earned: bool
    paid: Sequence[str]


def try_cheats(bench: Bench) -> list[Cheat]:
    """Score each cheat beside the answers that it was made of; none where no metric stands beside the reward."""
    metric = bench.task.metric
    if not metric.beside:
        return []
    honest = [(each.instance, each.answer) for each in bench.tried if each.answer is not None]
    honest = honest[: bench.size_of_samples(asks=MOST_CHEATS, seconds=SECONDS)]
    base = [each for each in (bench.judge(*pair) for pair in honest) if each.outcome == "ok"]
    if not base:
        return []
    answers = worse_answers([strict_json(each.answer) for each in base])
    answers.update(_of_public_cases(bench, [each.instance for each in base]))
    answers.update(_of_task(bench, base))
    return [_scored(bench, name, base, values) for name, values in list(answers.items())[:MOST_CHEATS]]


def judge_cheats(cheats: Sequence[Cheat], metric: Metric) -> list[Finding]:
    """A finding on each cheat: bad where it paid, a look where it earned more and nothing beside it is worse."""
    if not metric.beside:
        says = "no metric stands beside the reward, so a run could not see a cheat either (`Metric(beside=...)`)"
        return [Finding("cheats", "none tried", "ok", says)]
    return [_finding(each, metric) for each in cheats]


def worse_answers(values: Sequence[Any]) -> dict[str, list[Any]]:
    """Answers made worse, by cheat: as many as there are, in their order; only cheats that change any."""
    at: dict[Path, list[float]] = defaultdict(list)
    for value in values:
        for path, leaf in _leaves(value):
            if _is_number(leaf):
                at[path].append(float(leaf))
    means = {path: fmean(leaves) for path, leaves in at.items()}
    bounds = {path: _central(leaves) for path, leaves in at.items()}
    cheats = {
        "mass moved to the largest": [_lists(value, _moved) for value in values],
        "clipped": [_lists(_clipped(value, bounds), _clip) for value in values],
        "constant": [_numbers(value, lambda path, leaf: means.get(path, leaf)) for value in values],
        "halfway to the mean": [_numbers(value, lambda path, leaf: (leaf + means[path]) / 2) for value in values],
        "texts twice": [_texts(value) for value in values],
    }
    return {name: worse for name, worse in cheats.items() if worse != list(values)}


def _scored(bench: Bench, name: str, base: Sequence[Judged], values: Sequence[Any]) -> Cheat:
    pairs, refused = [], 0
    for honest, value in zip(base, values, strict=True):
        judged = bench.judge(honest.instance, json.dumps(value, ensure_ascii=False))
        refused += judged.outcome != "ok"
        if judged.outcome == FAILED:
            break
        if judged.outcome == "ok":
            pairs.append((honest, judged))
    metric = bench.task.metric
    before, after = (_means([pair[side] for pair in pairs], metric) for side in (0, 1))
    earned = _rose([after_.reward - before_.reward for before_, after_ in pairs])
    worse = [
        beside
        for beside, better in metric.beside.items()
        if _rose([_worse(pair, beside, better) for pair in pairs if beside in pair[0].metrics])
    ]
    return Cheat(name, len(pairs), refused, before, after, earned, tuple(worse) if earned else ())


def _worse(pair: tuple[Judged, Judged], name: str, better: str) -> float:
    """How much worse the second answer's metric is than the first's."""
    before, after = pair[0].metrics[name], pair[1].metrics.get(name, math.nan)
    return before - after if better == "maximize" else after - before


def _means(judged: Sequence[Judged], metric: Metric) -> dict[str, float]:
    """The mean of the metric, in its own units, and of each beside it."""
    if not judged:
        return {}
    beside = {name: [each.metrics[name] for each in judged if name in each.metrics] for name in metric.beside}
    means = {name: fmean(numbers) for name, numbers in beside.items() if numbers}
    return {metric.name: metric.reward(fmean(each.reward for each in judged)), **means}


def _rose(differences: Sequence[float]) -> bool:
    """True if the mean is above 0 by more than its error."""
    if len(differences) < 2 or not all(map(math.isfinite, differences)):
        return False
    error = stdev(differences) / math.sqrt(len(differences))
    return fmean(differences) > max(ERRORS * error, 1e-9)


def _finding(cheat: Cheat, metric: Metric) -> Finding:
    if not cheat.instances:
        return Finding("cheats", cheat.name, "ok", f"refused, all {cheat.refused}")
    before, after = cheat.before[metric.name], cheat.after[metric.name]
    says = f"earns {after:.3f}, the answers that it is made of {before:.3f}"
    if cheat.refused:
        says += f"; {cheat.refused} of {cheat.instances + cheat.refused} were refused"
    if cheat.paid:
        parted = ", ".join(f"{name} {cheat.before[name]:.3f} -> {cheat.after[name]:.3f}" for name in cheat.paid)
        return Finding("cheats", cheat.name, "bad", f"{says}, while {parted}: the reward pays for worse answers")
    if cheat.earned:
        return Finding("cheats", cheat.name, "look", f"{says}, and no metric beside it is worse")
    return Finding("cheats", cheat.name, "ok", says)


def _of_task(bench: Bench, base: Sequence[Judged]) -> dict[str, list[Any]]:
    """The task's own cheats, those that it names for every answer."""
    cheats: Callable[[Any], Mapping[str, Any]] | None = getattr(bench.task, "cheats", None)
    if cheats is None:
        return {}
    answers = [cheats(strict_json(each.answer)) for each in base]
    return {name: [each[name] for each in answers] for name in answers[0] if all(name in each for each in answers)}


def _of_public_cases(bench: Bench, instances: Sequence[Instance]) -> dict[str, list[Any]]:
    """The answer of the labelled case whose input is most like each instance's: memory instead of a solution."""
    labelled = labelled_answers(bench.task)
    texts = {each.id: essence(json.dumps(each.input, ensure_ascii=False)) for each in bench.task.instances("public")}
    texts = {name: text for name, text in texts.items() if name in labelled}
    if not texts:
        return {}
    weights = Weights(texts.values())
    vectors = {name: weights.vector(text) for name, text in texts.items()}
    remembered = []
    for each in instances:
        vector = weights.vector(essence(json.dumps(each.input, ensure_ascii=False)))
        nearest = max(vectors, key=lambda name: cosine(vector, vectors[name]))
        remembered.append(json.loads(labelled[nearest]))
    return {"the nearest public case's": remembered}


def _leaves(value: Any, path: Path = ()) -> Iterator[Place]:
    """Every value that is no list and no object, with its place."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(each, (*path, key))
    else:
        yield path, value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: Any, change: Callable[[Path, float], float], path: Path = ()) -> Any:
    """The value with each number changed; whole numbers stay whole."""
    if isinstance(value, dict):
        return {key: _numbers(each, change, (*path, key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_numbers(each, change, (*path, key)) for key, each in enumerate(value)]
    if not _is_number(value):
        return value
    changed = change(path, value)
    return round(changed) if isinstance(value, int) else changed


def _clipped(value: Any, bounds: Mapping[Path, tuple[float, float]]) -> Any:
    """Numbers cut to the central part of what stands at their place in all answers."""
    return _numbers(value, lambda path, leaf: min(max(leaf, bounds[path][0]), bounds[path][1]))


def _central(values: Sequence[float]) -> tuple[float, float]:
    """The central four fifths; everything where that says nothing."""
    if len(values) < 5:
        return -math.inf, math.inf
    tenths = quantiles(values, n=10, method="inclusive")
    return tenths[0], tenths[-1]


def _lists(value: Any, change: Callable[[list[float]], list[float]]) -> Any:
    """The value with each list of at least four numbers changed."""
    if isinstance(value, dict):
        return {key: _lists(each, change) for key, each in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) >= 4 and all(map(_is_number, value)):
        whole = all(isinstance(each, int) for each in value)
        return [round(each) if whole else each for each in change(value)]
    return [_lists(each, change) for each in value]


def _moved(values: list[float]) -> list[float]:
    """Seven tenths of the lower half moved to the largest."""
    order = sorted(range(len(values)), key=lambda at: values[at])
    if values[order[0]] < 0 or values[order[0]] == values[order[-1]]:
        return values
    moved = list(values)
    for at in order[: len(values) // 2]:
        moved[at] -= 0.7 * values[at]
        moved[order[-1]] += 0.7 * values[at]
    return moved


def _clip(values: list[float]) -> list[float]:
    low, high = _central(values)
    return [min(max(each, low), high) for each in values]


def _texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _texts(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_texts(each) for each in value]
    return f"{value} {value}" if isinstance(value, str) and value else value
