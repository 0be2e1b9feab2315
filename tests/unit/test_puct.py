"""PUCT over an archive: it chooses what was good or rarely tried, the same each time it is asked."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_core.run.discover import Node, choose, scores

REWARDS = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


@st.composite
def archives(draw: st.DrawFn) -> list[Node]:
    """Forests of a few nodes, in any order."""
    size = draw(st.integers(1, 12))
    nodes = []
    for at in range(size):
        parent = draw(st.one_of(st.none(), st.integers(0, at - 1))) if at else None
        nodes.append(
            Node(f"n{at:02}", None if parent is None else f"n{parent:02}", draw(REWARDS), draw(st.integers(0, 9)))
        )
    return draw(st.permutations(nodes))


def names(nodes: list[Node]) -> list[str]:
    return [node.id for node in nodes]


def test_scores_are_those_of_the_formula() -> None:
    nodes = [Node("root", None, 1.0, visits=2), Node("good", "root", 3.0, visits=1), Node("bad", "root", 0.0)]
    root = math.sqrt(1 + 3)
    assert scores(nodes, c=0.5) == {
        "root": pytest.approx(3.0 + 0.5 * 3.0 * (2 / 6) * root / (1 + 3)),  # two are its own, one its child's
        "good": pytest.approx(3.0 + 0.5 * 3.0 * (3 / 6) * root / (1 + 1)),
        "bad": pytest.approx(0.0 + 0.5 * 3.0 * (1 / 6) * root / (1 + 0)),
    }


def test_what_led_to_something_better_counts_for_that_and_what_led_to_something_worse_too() -> None:
    nodes = [Node("a", None, 0.5), Node("b", None, 0.4), Node("a1", "a", 0.1), Node("b1", "b", 0.9)]
    assert scores(nodes, c=0.0) == {"a": 0.1, "b": 0.9, "a1": 0.1, "b1": 0.9}


def test_a_grandchild_counts_for_its_own_parent_only() -> None:
    nodes = [Node("a", None, 0.5), Node("b", "a", 0.4), Node("c", "b", 0.9)]
    assert scores(nodes, c=0.0) == {"a": 0.4, "b": 0.9, "c": 0.9}


def test_several_chosen_in_one_go_are_spread() -> None:
    nodes = [Node("a", None, 1.0), Node("b", None, 0.9), Node("c", None, 0.8), Node("d", None, 0.0)]
    assert set(names(choose(nodes, 3, c=2.0))) > {"a"}
    assert len(set(names(choose(nodes, 8, c=2.0)))) >= 3


def test_where_all_are_alike_each_has_its_turn_and_the_smallest_id_comes_first() -> None:
    nodes = [Node(name, None, 0.5) for name in "cab"]
    assert names(choose(nodes, 1)) == ["a"]
    assert set(names(choose(nodes, 6))) == {"a", "b", "c"}


def test_an_empty_archive_has_nothing_to_go_on_from() -> None:
    assert choose([], 3) == []
    assert scores([]) == {}


def test_a_parent_that_is_not_in_the_archive_any_more_counts_as_none() -> None:
    assert names(choose([Node("b", "gone", 1.0, visits=3)], 2)) == ["b", "b"]


@given(archives(), st.integers(0, 6), st.floats(0, 4))
def test_as_many_as_asked_for_are_chosen_as_they_were_given_and_in_any_order_of_the_archive_the_same(
    nodes: list[Node], count: int, c: float
) -> None:
    picks = choose(nodes, count, c)
    assert len(picks) == count
    assert all(each in nodes for each in picks)
    assert choose(sorted(nodes, key=lambda node: node.id), count, c) == picks


@given(archives(), st.floats(0, 4))
def test_the_first_of_several_is_what_would_be_chosen_alone_and_the_rest_follow_as_if_it_had_been_tried(
    nodes: list[Node], c: float
) -> None:
    first, *rest = choose(nodes, 3, c)
    assert [first] == choose(nodes, 1, c)
    after = [replace(node, visits=node.visits + 1) if node == first else node for node in nodes]
    assert names(rest) == names(choose(after, 2, c))


@given(archives())
def test_without_exploration_the_best_that_was_reached_from_a_node_decides(nodes: list[Node]) -> None:
    (pick,) = choose(nodes, 1, c=0.0)
    children = [node.reward for node in nodes if node.parent == pick.id]
    leaves = [node.reward for node in nodes if node.id not in {each.parent for each in nodes}]
    assert max(children, default=pick.reward) >= max(leaves)


@given(archives(), st.floats(0.01, 4))
def test_a_visit_of_it_or_a_descendant_lowers_what_a_node_has_for_being_rarely_tried(
    nodes: list[Node], c: float
) -> None:
    quiet = [replace(node, visits=0) for node in nodes]
    bonus = {name: scores(quiet, c)[name] - scores(quiet, 0.0)[name] for name in names(quiet)}
    for visited in quiet:
        after = [replace(node, visits=3) if node == visited else node for node in quiet]
        line = {visited.id}
        while (parent := next((n.parent for n in quiet if n.id == visited.id), None)) is not None:
            line.add(parent)
            visited = next(n for n in quiet if n.id == parent)
        for name, amount in scores(after, c).items():
            now = amount - scores(after, 0.0)[name]
            assert now < bonus[name] if name in line else now > bonus[name]


@given(archives(), st.floats(0, 4), st.floats(0.25, 4), st.floats(-10, 10))
def test_scores_move_with_the_unit_and_the_origin_of_the_reward(
    nodes: list[Node], c: float, factor: float, offset: float
) -> None:
    moved = [replace(node, reward=node.reward * factor + offset) for node in nodes]
    if len({node.reward for node in nodes}) == 1 or [n.id for n in _ranked(nodes)] != [n.id for n in _ranked(moved)]:
        return  # without a range there is no unit; and rounding may have made a tie
    before = scores(nodes, c)
    for name, score in scores(moved, c).items():
        assert score == pytest.approx(before[name] * factor + offset, rel=1e-6, abs=1e-6)


def _ranked(nodes: list[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: (-node.reward, node.id))


@given(st.lists(REWARDS, min_size=1, max_size=4))
def test_in_the_long_run_no_root_is_left_untried(rewards: list[float]) -> None:
    roots = [Node(str(at), None, reward) for at, reward in enumerate(rewards)]
    assert {node.id for node in choose(roots, 80, c=4.0)} == {node.id for node in roots}
