"""The cheapest sequence of operating points within a budget of damage, moves between them included."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRICES = 60
"""Bisections of the price of damage."""


@dataclass(frozen=True)
class Problem:
    """Stages one after the other, each of which runs at one of some points.

    Attributes
    ----------
    cost, damage : float array (stages, points)
        Cost and damage of a stage at a point; a cost of infinity forbids it. Moves inside a stage are in its cost.
    entry, leave : int array (stages, points)
        Point at which the stage's first and last products run: its own, or the default (0).
    moves : float array (points, points)
        Cost of a move. A run begins and ends at point 0.
    """

    cost: NDArray[np.float64]
    damage: NDArray[np.float64]
    entry: NDArray[np.int64]
    leave: NDArray[np.int64]
    moves: NDArray[np.float64]

    def total_cost(self, choice: NDArray[np.int64]) -> float:
        """Cost of a choice of points (stages,), with all moves."""
        stages = np.arange(len(choice))
        entries = [*self.entry[stages, choice], 0]
        leaves = [0, *self.leave[stages, choice]]
        return float(self.cost[stages, choice].sum() + self.moves[leaves, entries].sum())

    def total_damage(self, choice: NDArray[np.int64]) -> float:
        """Damage of a choice of points (stages,)."""
        return float(self.damage[np.arange(len(choice)), choice].sum())


@dataclass(frozen=True)
class Assignment:
    """A choice of points.

    Attributes
    ----------
    choice : int array (stages,)
    cost, damage : float
        Cost and damage of the whole choice.
    bound : float
        No choice within the budget costs less.
    """

    choice: NDArray[np.int64]
    cost: float
    damage: float
    bound: float


def cheapest_path(problem: Problem, price: float) -> tuple[NDArray[np.int64], float]:
    """The choice with the least cost + price * damage, and that sum: exact, by dynamic programming along the run."""
    weight = problem.cost + price * problem.damage
    best = weight[0] + problem.moves[0, problem.entry[0]]
    came: list[NDArray[np.int64]] = []
    for stage in range(1, len(weight)):
        # From each point of the stage before (rows) to each of this one.
        ways = best[:, None] + problem.moves[problem.leave[stage - 1][:, None], problem.entry[stage][None, :]]
        came.append(ways.argmin(0))
        best = ways.min(0) + weight[stage]
    best = best + problem.moves[problem.leave[-1], 0]
    point = int(best.argmin())
    total = float(best[point])
    choice = [point]
    for each in reversed(came):
        choice.append(int(each[choice[-1]]))
    return np.array(choice[::-1]), total


def _improve(problem: Problem, choice: NDArray[np.int64], budget: float) -> NDArray[np.int64]:
    """Change single stages as long as that saves cost and stays in the budget, the largest saving first."""
    choice, stages = choice.copy(), np.arange(len(choice))
    while True:
        leave = np.array([0, *problem.leave[stages, choice][:-1]])
        enter = np.array([*problem.entry[stages, choice][1:], 0])
        local = (
            problem.cost + problem.moves[leave[:, None], problem.entry] + problem.moves[problem.leave, enter[:, None]]
        )
        saved = local[stages, choice][:, None] - local
        damage = problem.total_damage(choice) + problem.damage - problem.damage[stages, choice][:, None]
        saved[damage > budget] = -math.inf
        stage, point = np.unravel_index(int(saved.argmax()), saved.shape)
        # What rounding alone saves could go round in circles.
        if not saved[stage, point] > 1e-12 * abs(local[stage, choice[stage]]):
            return choice
        choice[stage] = point


def assign(problem: Problem, budget: float) -> Assignment:
    """A choice within the budget, and how far at most it is from the cheapest.

    A price of damage turns the constraint into a cost, for which `cheapest_path` is exact; the price is bisected until
    the budget is met, and what is left of the budget goes to single stages. Where the lower convex hull of costs over
    damages has a corner at the budget, the result is the cheapest there is.

    Parameters
    ----------
    problem : Problem
    budget : float
        Most damage in sum.

    Raises
    ------
    ValueError
        No choice is within the budget.
    """
    choice, bound = cheapest_path(problem, 0.0)
    if problem.total_damage(choice) <= budget:
        return Assignment(choice, problem.total_cost(choice), problem.total_damage(choice), bound)
    low, high = 0.0, float(np.ptp(problem.cost[np.isfinite(problem.cost)]) / max(budget, 1e-12) or 1.0)
    found: list[NDArray[np.int64]] = []
    for _ in range(PRICES):
        price = math.sqrt(low * high) if low else high
        choice, total = cheapest_path(problem, price)
        bound = max(bound, total - price * budget)
        if problem.total_damage(choice) <= budget:
            found.append(choice)
            high = price
            low = low or price * 1e-9
        else:
            low = price
            high = max(high, 16 * price) if not found else high
    if not found:
        least = np.where(np.isfinite(problem.cost), problem.damage, math.inf).min(1).sum()
        raise ValueError(f"no choice of points keeps damage within {budget:g}; the least is {least:g}")
    choice = min((_improve(problem, each, budget) for each in found), key=problem.total_cost)
    return Assignment(choice, problem.total_cost(choice), problem.total_damage(choice), bound)
