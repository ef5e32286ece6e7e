"""Plots of resilience profiles; they need matplotlib (``brownout[bench]``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..operating_point import OperatingPoint
from .profile import ResilienceProfile
from .slices import Slice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _figure(width: float = 6.4, height: float = 4.0) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _curve(
    axes: Axes, profile: ResilienceProfile, x: Sequence[float], at: Sequence[tuple[str, int]], name: str
) -> bool:
    """Draw a curve; whether all of it is above zero."""
    found = [profile.damage(*each) for each in at]
    mean = np.array([each.mean for each in found])
    errors = [[each.mean - each.lower for each in found], [each.upper - each.mean for each in found]]
    axes.errorbar(x, mean, errors, marker="o", markersize=4, capsize=3, label=name)
    return bool((mean > 0).all())


def _finish(axes: Axes, profile: ResilienceProfile, positive: bool) -> None:
    metric = profile.metrics[0]
    # Damages range over orders of magnitude.
    if positive:
        axes.set_yscale("log")
    axes.axhline(profile.unrelated[metric], color="grey", linestyle=":", label="unrelated images")
    axes.set_ylabel(f"{metric} damage")
    axes.legend(fontsize="small")


def damage_over_bit(profile: ResilienceProfile, slices: Sequence[Slice]) -> Figure:
    """Damage over the bit that is hit, a curve for each operating point.

    Parameters
    ----------
    profile : ResilienceProfile
    slices : sequence of Slice
        Those that choose one bit each.

    Raises
    ------
    ValueError
        One does not.
    """
    chosen = [each for each in slices if each.bits is not None and len(each.bits) == 1]
    if not chosen or len(chosen) != len(slices):
        raise ValueError("damage_over_bit needs slices of one bit each, as bit_slices makes them")
    figure, axes = _figure()
    chosen.sort(key=lambda each: each.bits or ())
    bits = [each.bits[0] for each in chosen if each.bits]
    positive = [
        _curve(axes, profile, bits, [(each.name, index) for each in chosen], point.label)
        for index, point in enumerate(profile.points)
    ]
    axes.set_xlabel("bit")
    axes.set_xticks(bits)
    _finish(axes, profile, all(positive))
    return figure


def damage_over_point(profile: ResilienceProfile, names: Sequence[str] | None = None) -> Figure:
    """Damage over the operating points, a curve for each slice; over error rates on a logarithmic axis."""
    figure, axes = _figure()
    rates = [each.error_rate for each in profile.points]
    x = [float(index) if rate is None else rate for index, rate in enumerate(rates)]
    chosen = [each.name for each in profile.slices] if names is None else names
    positive = [_curve(axes, profile, x, [(name, index) for index in range(len(x))], name) for name in chosen]
    if all(rates):
        axes.set_xscale("log")
        axes.set_xlabel("errors per output")
    else:
        axes.set_xticks(x, [each.label for each in profile.points])
    _finish(axes, profile, all(positive))
    return figure


def heat_map(
    profile: ResilienceProfile, rows: Sequence[Slice], columns: Sequence[Slice], point: OperatingPoint | int
) -> Figure:
    """Damage of every row slice with every column slice, which were measured as `cross` makes them."""
    figure, axes = _figure(1.6 + 1.3 * len(columns), 1.2 + 0.6 * len(rows))
    values = np.array([[profile.damage((row & column).name, point).mean for column in columns] for row in rows])
    image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0)
    middle = values.max() / 2
    for (row, column), value in np.ndenumerate(values):
        color = "black" if value > middle else "white"
        axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=color, fontsize="small")
    axes.set_xticks(range(len(columns)), [each.name for each in columns], rotation=20, ha="right", fontsize="small")
    axes.set_yticks(range(len(rows)), [each.name for each in rows], fontsize="small")
    chosen = profile.points[point] if isinstance(point, int) else point
    figure.colorbar(image, ax=axes, label=f"{profile.metrics[0]} damage at {chosen.label}")
    return figure


def damage_by_slice(
    profile: ResilienceProfile, point: OperatingPoint | int, names: Sequence[str] | None = None
) -> Figure:
    """Bars from the most to the least damaging slice, with intervals."""
    ranking = profile.ranking(point, names)
    figure, axes = _figure(6.4, 1.2 + 0.3 * len(ranking))
    found = [each for _, each in ranking]
    errors = [[each.mean - each.lower for each in found], [each.upper - each.mean for each in found]]
    axes.barh([name for name, _ in ranking], [each.mean for each in found], xerr=errors, capsize=3)
    axes.invert_yaxis()
    chosen = profile.points[point] if isinstance(point, int) else point
    axes.set_xlabel(f"{profile.metrics[0]} damage at {chosen.label}")
    return figure
