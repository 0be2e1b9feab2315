"""A budget is reserved before it is spent, all or nothing, and never overrun."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_core.errors import BudgetExhausted, UsageError
from sia_core.run.budget import Budget, Limit


def budget(text: str) -> Budget:
    return Budget(Limit.parse(text))


def test_limits_are_read_by_kind() -> None:
    assert Limit.parse(" rollouts=20000, seconds = 600 ").amounts == {"rollouts": 20000.0, "seconds": 600.0}


def test_a_bare_number_counts_rollouts() -> None:
    assert Limit.parse("1e3").amounts == {"rollouts": 1000.0}


def test_no_text_is_no_limit() -> None:
    assert Limit.parse("").amounts == {}
    assert budget("").left("rollouts") == math.inf


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rolouts=5", "unknown kind 'rolouts'; a budget counts rollouts, verifications, tokens, seconds"),
        ("money=5", "unknown kind 'money'"),
        ("rollouts=", "'rollouts=' is not an amount"),
        ("rollouts", "'rollouts' is not an amount"),
        ("rollouts=five", "is not an amount"),
        ("rollouts=-1", "is not an amount"),
        ("rollouts=nan", "is not an amount"),
        ("rollouts=inf", "is not an amount"),
        ("rollouts=5=6", "unknown kind"),
        ("rollouts=5,rollouts=6", "rollouts is given twice"),
        ("5,rollouts=6", "rollouts is given twice"),
    ],
)
def test_what_is_no_budget_is_refused_with_the_part_that_is_wrong(text: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        Limit.parse(text)
    assert raised.value.exit_code == 2
    assert "--budget" in str(raised.value)
    assert says in str(raised.value)


def test_a_reservation_fits_to_the_last_unit_and_not_beyond() -> None:
    mine = budget("rollouts=10")
    mine.reserve(rollouts=10)
    with pytest.raises(
        BudgetExhausted, match="1 rollouts do not fit into the budget: 0 of 10 are spent and 10 reserved"
    ):
        mine.reserve(rollouts=1)


def test_a_reservation_is_made_as_a_whole_or_not_at_all() -> None:
    mine = budget("rollouts=10,verifications=5")
    with pytest.raises(BudgetExhausted, match="verifications"):
        mine.reserve(rollouts=10, verifications=6)
    assert (mine.left("rollouts"), mine.left("verifications")) == (10, 5)


def test_settling_gives_back_what_was_not_spent() -> None:
    mine = budget("rollouts=10")
    mine.reserve(rollouts=8)
    mine.settle({"rollouts": 8}, {"rollouts": 3})
    assert mine.left("rollouts") == 7
    assert mine.spent["rollouts"] == 3


def test_what_has_no_limit_is_counted_all_the_same() -> None:
    mine = budget("")
    mine.reserve(rollouts=1e9)
    mine.settle({"rollouts": 1e9}, {"rollouts": 1e9})
    assert mine.spent["rollouts"] == 1e9


@pytest.mark.parametrize("amount", [-1.0, math.nan])
def test_a_reservation_cannot_make_room(amount: float) -> None:
    mine = budget("rollouts=10")
    with pytest.raises(ValueError, match="never negative"):
        mine.reserve(rollouts=amount)
    assert mine.left("rollouts") == 10


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from(["hold", "spend", "return"])), max_size=40)
)
def test_what_is_reserved_and_spent_never_exceeds_the_limit(steps: list[tuple[int, int, str]]) -> None:
    mine = budget("rollouts=20,verifications=20")
    totals = {"rollouts": 0, "verifications": 0}
    for rollouts, verifications, then in steps:
        amounts = {"rollouts": rollouts, "verifications": verifications}
        fits = all(totals[kind] + amount <= 20 for kind, amount in amounts.items())
        try:
            mine.reserve(**amounts)
        except BudgetExhausted:
            assert not fits
            continue
        assert fits
        if then != "hold":
            mine.settle(amounts, amounts if then == "spend" else {})
        if then != "return":
            totals = {kind: totals[kind] + amount for kind, amount in amounts.items()}
        assert {kind: 20 - mine.left(kind) for kind in totals} == totals


class Interrupted(Budget):
    """Lets another thread run between the look at what is left and the taking of it."""

    def _left(self, kind: str) -> float:
        amount = super()._left(kind)
        time.sleep(0)
        return amount


def test_64_threads_never_overshoot() -> None:
    one = {"rollouts": 1, "verifications": 1}
    mine, granted, go = Interrupted(Limit.parse("rollouts=1000,verifications=700")), [], threading.Barrier(64)

    def work(_: int) -> None:
        go.wait()
        for _ in range(50):
            try:
                mine.reserve(rollouts=1, verifications=1)
            except BudgetExhausted:
                return
            granted.append(1)
            mine.settle(one, one)

    with ThreadPoolExecutor(64) as threads:
        list(threads.map(work, range(64)))
    assert len(granted) == 700
    assert (mine.left("rollouts"), mine.left("verifications")) == (300, 0)


def test_64_threads_that_reserve_spend_a_part_and_settle_never_overshoot_and_the_refused_spend_nothing() -> None:
    mine, go = Interrupted(Limit.parse("rollouts=900,tokens=20000")), threading.Barrier(64)
    spent, refused, low = [], [], [math.inf]

    def work(number: int) -> None:
        go.wait()
        for turn in range(30):
            wants = {"rollouts": float(1 + (number + turn) % 5), "tokens": float(40 * (1 + (number * turn) % 7))}
            try:
                mine.reserve(**wants)
            except BudgetExhausted:
                refused.append(1)
                continue
            takes = {kind: amount * ((number + turn) % 3) / 2 for kind, amount in wants.items()}
            low.append(min(mine.left("rollouts"), mine.left("tokens")))
            mine.settle(wants, takes)
            spent.append(takes)

    with ThreadPoolExecutor(64) as threads:
        list(threads.map(work, range(64)))
    totals = {kind: sum(each[kind] for each in spent) for kind in ("rollouts", "tokens")}
    assert len(spent) + len(refused) == 64 * 30
    assert refused
    assert min(low) >= 0
    assert {kind: mine.spent[kind] for kind in totals} == totals
    assert {kind: mine.left(kind) for kind in totals} == {
        kind: mine.limit.amounts[kind] - amount for kind, amount in totals.items()
    }
    assert totals["rollouts"] <= 900
    assert totals["tokens"] <= 20000
