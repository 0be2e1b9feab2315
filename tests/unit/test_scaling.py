"""A run's time on many workers, by the model that ``sia plan`` prints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sia_cli import parser_of
from sia_cli.pricing import count
from sia_cli.scaling import WORKERS, Costs, scaled, stages
from sia_core.run.plan import Plan, Samples

COSTS = Costs(start=5.0, setup=2.0, rollout=0.1, booking=0.003)
PLAN = Plan(generations=3, candidates=2)


def samples() -> Samples:
    def names(size: int) -> tuple[str, ...]:
        return tuple(map(str, range(size)))

    return Samples(names(2), names(256), names(900), names(400), names(256))


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, repeats=3), replace(PLAN, generations=0)])
def test_the_stages_hold_every_rollout_of_the_run(plan: Plan) -> None:
    them = replace(samples(), repeats=plan.repeats)
    assert sum(sum(stage) for stage in stages(them, plan)) == count(them, plan, {})["run"]["most"]


def test_one_worker_does_one_rollout_after_the_other_and_more_are_never_slower() -> None:
    table = scaled(samples(), PLAN, COSTS)
    whole = count(samples(), PLAN, {})["run"]["most"] * COSTS.rollout
    assert table[0].seconds == pytest.approx(whole + COSTS.start + 9 * COSTS.setup, abs=0.1)
    assert [row.workers for row in table] == list(WORKERS)
    assert sorted((row.seconds for row in table), reverse=True) == [row.seconds for row in table]
    assert all(0 < row.load <= 1 for row in table)


def test_the_driver_is_what_binds_where_work_costs_nothing() -> None:
    last = scaled(samples(), PLAN, Costs(0.0, 0.0, 0.0, 0.003))[-1]
    assert last.load == 1.0
    assert last.seconds == pytest.approx(0.003 * sum(len(stage) for stage in stages(samples(), PLAN)), abs=0.1)


def test_an_update_is_not_spread() -> None:
    slow, fast = (scaled(samples(), PLAN, COSTS, pull=pull)[-1].seconds for pull in (6000.0, 0.0))
    assert slow - fast > PLAN.generations * PLAN.candidates * 100 * COSTS.rollout


def test_a_budget_pays_for_its_share_and_no_more_than_all() -> None:
    whole = count(samples(), PLAN, {})["run"]["most"]
    once = COSTS.start + 9 * COSTS.setup
    full, half, more = (scaled(samples(), PLAN, COSTS, whole * part)[0].seconds for part in (1, 0.5, 2))
    assert more == full
    assert half - once == pytest.approx((full - once) / 2, abs=0.1)


@pytest.mark.parametrize("price", ["nan", "-1", "inf", "much"])
def test_a_price_that_is_none_is_refused(price: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser_of(["plan"]).parse_args(["plan", "--dollars-per-hour", price])
    assert "give dollars, such as 2.5" in capsys.readouterr().err
