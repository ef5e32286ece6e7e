"""The cheapest sequence of points, against trying all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from brownout.host.drift.policy.assignment import Problem, assign, cheapest_path


def problem(seed, stages=5, points=3, moving=1.0):
    random = np.random.default_rng(seed)
    entry = np.tile(np.arange(points), (stages, 1))
    leave = entry.copy()
    # Some stages begin or end with products that are always at the default.
    entry[random.random(stages) < 0.3] = 0
    leave[random.random(stages) < 0.3] = 0
    moves = moving * random.random((points, points))
    np.fill_diagonal(moves, 0)
    cost = np.sort(random.random((stages, points)), 1)[:, ::-1].copy()
    damage = np.sort(random.random((stages, points)), 1)
    damage[:, 0] = 0
    cost[0, 1] = np.inf
    return Problem(cost, damage, entry, leave, moves)


def walk(each, choice):
    """Cost of a choice, step by step, and its damage."""
    at, cost, damage = 0, 0.0, 0.0
    for stage, point in enumerate(choice):
        cost += each.moves[at, each.entry[stage, point]] + each.cost[stage, point]
        damage += each.damage[stage, point]
        at = each.leave[stage, point]
    return cost + each.moves[at, 0], damage


def everything(each):
    stages, points = each.cost.shape
    return [(choice, *walk(each, choice)) for choice in itertools.product(range(points), repeat=stages)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("price", [0.0, 0.3, 2.0])
def test_path_is_the_cheapest_of_all(seed, price):
    each = problem(seed)
    choice, total = cheapest_path(each, price)
    assert total == pytest.approx(min(cost + price * damage for _, cost, damage in everything(each)), rel=1e-12)
    cost, damage = walk(each, choice)
    assert cost + price * damage == pytest.approx(total, rel=1e-12)
    assert (each.total_cost(choice), each.total_damage(choice)) == pytest.approx((cost, damage), rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("budget", [0.0, 0.4, 1.0, 9.0])
def test_assignment_is_in_the_budget_and_as_near_to_the_best_as_its_bound_says(seed, budget):
    each = problem(seed)
    found = assign(each, budget)
    best = min(cost for _, cost, damage in everything(each) if damage <= budget)
    assert found.damage <= budget
    assert (found.cost, found.damage) == pytest.approx(walk(each, found.choice), rel=1e-12)
    assert found.bound <= best + 1e-9 <= found.cost + 2e-9
    # Found by experiment; the gap is what is left over of the budget.
    assert found.cost <= best + 0.25


def test_without_constraint_it_is_exact():
    each = problem(3)
    found = assign(each, 100.0)
    assert found.cost == pytest.approx(found.bound) == pytest.approx(min(cost for _, cost, _ in everything(each)))


def test_dear_moves_are_not_made():
    """One stage between others gains less by a point of its own than two moves cost."""
    cost = np.array([[1.0, 0.5], [1.0, 0.9], [1.0, 0.5]])
    damage = np.array([[0.0, 0.1], [0.0, 5.0], [0.0, 0.1]])
    own = np.tile(np.arange(2), (3, 1))
    free, dear = (Problem(cost, damage, own, own, move * (1 - np.eye(2))) for move in (0.0, 0.3))
    assert assign(free, 1.0).choice.tolist() == [1, 0, 1]
    assert assign(dear, 1.0).choice.tolist() == [0, 0, 0]
    assert assign(dear, 9.0).choice.tolist() == [1, 1, 1]


def test_a_budget_that_nothing_meets_is_refused():
    each = Problem(np.ones((2, 1)), np.full((2, 1), 0.5), *np.zeros((2, 2, 1), int), np.zeros((1, 1)))
    with pytest.raises(ValueError, match=r"no choice of points keeps damage within 0.5; the least is 1"):
        assign(each, 0.5)
