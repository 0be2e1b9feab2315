"""The promises of the gate, by simulation: false promotions over whole runs, adversaries, power, and final gains.

    python bench/gate.py [--runs 2000] [--rows 4000] [--write docs/gate.md]

Prints the tables of docs/gate.md, or writes them into it. The same command gives the same tables.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gate_simulation import (
    ADVERSARIES,
    GATES,
    LONG,
    NULLS,
    RULES,
    SMALL,
    WHOLE,
    Edits,
    Resubmits,
    Setup,
    power,
    promoting,
    rare_failures,
    real_gain,
    simulate,
)

from sia_core.run.gate import RUN_ERROR
from sia_core.run.intervals import estimate
from sia_core.run.power import repeated, smallest_gain, to_halve
from sia_core.run.rollouts import BATCH

BEGIN, END = "<!-- tables: python bench/gate.py --write docs/gate.md -->", "<!-- end of tables -->"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rate(count: int, runs: int) -> str:
    low, high = estimate([1.0] * count + [0.0] * (runs - count)).ci95
    return f"{count / runs:.1%} ({low:.1%} to {high:.1%})"


def error_table(runs: int) -> str:
    lines = [[world.name, *(rate(promoting(world, rule, runs, LONG), runs) for rule in RULES)] for world in NULLS]
    return table(["rewards", *RULES], lines)


def small_table(runs: int) -> str:
    lines = []
    for world in NULLS:
        counts = [promoting(world, "best on search", runs, Setup(gate=gate)) for gate in SMALL]
        lines.append([world.name, *(rate(count, runs) for count in counts)])
    return table(["rewards", *(f"{gate} instances" for gate in SMALL)], lines)


def adversary_table(runs: int) -> str:
    lines = []
    for world in ADVERSARIES:
        for gate in GATES[1:4]:
            rule = "best on search" if isinstance(world, Resubmits) else "the incumbent"
            outcome = simulate(world, rule, runs, LONG, gate)
            bound = RUN_ERROR + gate.earned * outcome.promotions.mean()
            figures = outcome.promotions.mean(), outcome.false.mean(), outcome.levels.mean(), bound
            lines.append([world.name, gate.name, *(f"{each:.3f}" for each in figures)])
    header = ["improver", "gate", "promotions a run", "of these false", "levels used", "5% and what was earned"]
    return table(header, lines)


def gain_table(runs: int) -> str:
    header = [
        "gate",
        *(world.name for world in WHOLE),
        "50 candidates",
        "false",
        "worse",
        "rollouts",
        "without any gain",
    ]
    lines = []
    for gate in GATES:
        cells = []
        for world, setup in [*((world, Setup()) for world in WHOLE), (WHOLE[0], Setup(generations=25))]:
            outcomes = [simulate(world, rule, runs, setup, gate) for rule in RULES[:2]]
            first = world.begin + world.win
            cells.append(" / ".join(f"{100 * (each.gain.mean() - first):.2f}" for each in outcomes))
            if (world, setup) == (WHOLE[0], Setup()):
                usual = outcomes[0]
        none = simulate(Edits("no gain", 0.0, losses=0.0, wins=lambda at: False), RULES[0], 2 * runs, gate=gate)
        without = f"{(none.promotions > 0).mean():.1%}"
        figures = f"{usual.false.mean():.3f}", f"{usual.worse.mean():.3f}", f"{usual.rollouts.mean() / 1000:.1f}k"
        lines.append([gate.name, *cells, *figures, without])
    return table(header, lines)


SIZES = (256, 1314)
GAINS = (0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06)
LEVELS = (RUN_ERROR / 16, 0.0125)


def power_table(rows: int) -> str:
    lines = []
    for gain in GAINS:
        line = [f"{gain:.1%}"]
        for n, level in itertools.product(SIZES, LEVELS):
            alone, looked, _ = power(gain, n, level, rows, np.random.default_rng([2, n, round(1000 * gain)]))
            line.append(f"{alone:.1%} / {looked:.1%}")
        lines.append(line)
    return table(["true gain", *(f"{n:,}, level {level:.4f}" for n, level in itertools.product(SIZES, LEVELS))], lines)


def saving_table(rows: int) -> str:
    lines = []
    for gain in (-0.05, -0.02, -0.01, 0.0, 0.01, 0.02, 0.03):
        random = np.random.default_rng([3, round(1000 * gain) + 1000])
        saved = [power(gain, n, LEVELS[0], rows, random)[2] for n in SIZES]
        lines.append([f"{gain:+.0%}", *(f"{each:.0%}" for each in saved)])
    return table(["true gain", *(f"{n:,} instances" for n in SIZES)], lines)


def figure_table() -> str:
    shares, lines = (0.03, 0.06, 0.10, 0.20), []
    for n, level in itertools.product((64, 256, 1314, 5000), LEVELS):
        gains = [f"{100 * smallest_gain(n, level, share):.2f}" for share in shares]
        lines.append([f"{n:,}", f"{level:.4f}", *gains, f"{to_halve(n, level, 0.06):,}"])
    return table(
        ["gate instances", "level", *(f"{share:.0%} differ" for share in shares), "more halve it at 6%"], lines
    )


def real_table(rows: int) -> str:
    lines = []
    for n in (14, 40, 300):
        gains = [real_gain(n, level, rows // 4) for level in LEVELS]
        lines.append(
            [f"{n}", *(f"{gain:.2f}" for gain in gains), *(f"{rare_failures(n, each, rows):.1%}" for each in LEVELS)]
        )
    head = [f"smallest gain at {level:.4f}" for level in LEVELS]
    return table(["gate instances", *head, *(f"rare failures pass at {level:.4f}" for level in LEVELS)], lines)


def repeats_table() -> str:
    """The smallest gain seen with repeats, and with as many rollouts on more instances."""
    level, n, lines = LEVELS[0], 300, []
    for within in (0.0, 0.02, 0.05, 0.1, 0.2):
        gains = [smallest_gain(n, level, repeated(within, repeats)) for repeats in (1, 2, 4, 8)]
        wider = smallest_gain(4 * n, level, repeated(within, 1))
        lines.append([f"{within:.2f}", *(f"{gain:.3f}" for gain in gains), f"{wider:.3f}"])
    return table(["variance within an instance", "1 time", "2", "4", "8", "1 time on 1,200 instances"], lines)


def tables(runs: int, rows: int) -> str:
    few = runs // 4
    return f"""## False promotions

The share of {runs:,} runs of 50 candidates without effect, on 300 gate and 256 search instances, that promoted
any, with its 95% interval. At most 5% are promised. The columns say whom the improver goes on from; the last one
stays where the gate said "better", and goes on from the best of the others on search where it did not.

{error_table(runs)}

The same of 16 candidates on gates so small that all sign patterns are tried, or nearly; the improver goes on from
the best on search.

{small_table(runs)}

## Improvers that play against the gate

The figures of {few:,} runs of 50 candidates on 300 gate instances. A promotion is false if the candidate is no better
than the incumbent. Expected are at most as many as the sum of the levels, which is at most 5% and what
promotions earned. The first two split a gain of 50 points into steps of 5 that nobody could miss, and try edits
without effect between. The third submits what was luckiest on search nearly unchanged, five times out of six.

{adversary_table(few)}

## Whole runs

The gain over the first win, in points, where the improver goes on from the incumbent / from the best on search:
{few:,} runs of 16 candidates on 1,314 gate and 256 search instances. The first candidate gains 30 points. Edits
change 6% of the answers; of those that are not good, half lose up to 3 points. In the fourth column runs of the
first have 50 candidates. False promotions, promotions of what is worse, and rollouts on search and gate are those
of a run of the first column; the last column is the share of {runs:,} runs in which no edit has an effect that
promote any.

{gain_table(few)}

## Power

The share promoted at a true gain, of {rows:,} candidates each that differ on 6% of the instances, by the test
alone / with looks at the sweep. The levels are those of the 16th part of the error, and of a comparison after a
promotion.

{power_table(rows)}

## What looks save

The share of a candidate's gate sweep that is not run, by its true gain ({rows:,} each, at a level of 0.0031,
6% differ; looks after {BATCH} instances, twice as many, four times as many and so on).

{saving_table(rows)}

## The smallest gain

By the formula that `sia run` prints from: in points, at 80% power, for rewards of right or wrong.

{figure_table()}

Real-valued rewards, by simulation: the smallest gain in standard deviations of the differences, where these are
normal; and how often candidates pass that gain 2 points on 96% of the instances and lose 48 on the others, so
nothing on the whole. No test that has power holds its level there.

{real_table(rows)}

## Repeats

The smallest gain on 300 gate instances where each is asked several times, for rewards from 0 to 1.

{repeats_table()}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="whole runs for each rate of false promotion")
    parser.add_argument("--rows", type=int, default=4000, help="candidates for each power")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the marks of this page")
    options = parser.parse_args()
    text = tables(options.runs, options.rows)
    if options.write is None:
        print(text)
        return
    page = options.write.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    options.write.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
