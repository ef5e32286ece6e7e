"""What DRIFT publishes about energy on its three architectures, and its own arithmetic: arXiv 2604.09073.

Everything is relative: the DRAM energy of an unprotected evaluation at nominal voltage is 1. Memory never leaves its
nominal voltage and clock, compute energy goes with V^2; leakage, scratchpads and transitions are not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...device.power.timing import NOMINAL_VOLTAGE_V, DelayModel

ERROR_RATE = 3e-3
"""Errors per output at the published operating point."""

TILE = 32
"""Rows and columns of the tiles that are checked."""

CHECK_ENERGY = 2 / TILE
"""Share of the MACs that the checks add: a row and a column of sums for each tile."""

DIT_MACS, DIT_DRAM_BYTES = 7.53e11, 0.669e9
"""Of one evaluation of DiT-XL/2-512, from the plotting data. The bytes are about those of the int8 weights alone."""


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """An architecture as the paper prices it.

    Attributes
    ----------
    title : str
        Name for tables and pages.
    compute : float
        Compute energy at nominal voltage.
    compute_after, memory_after : float
        Compute and DRAM energy, undervolted and protected, as published. Memory grows by checkpoints and reloads.
    saving : float
        Share of the energy saved, as published.
    steps : int
        Evaluations of an image.
    nominal_steps : tuple of int
        Those at nominal voltage.
    """

    title: str
    compute: float
    compute_after: float
    memory_after: float
    saving: float
    steps: int
    nominal_steps: tuple[int, ...]

    @property
    def nominal_share(self) -> float:
        """Share of the evaluations that run at the nominal point."""
        return len(self.nominal_steps) / self.steps

    @property
    def implied_voltage_v(self) -> float:
        """Voltage at which the arithmetic, without checks, gives the published compute energy."""
        undervolted = (self.compute_after / self.compute - self.nominal_share) / (1 - self.nominal_share)
        return NOMINAL_VOLTAGE_V * math.sqrt(undervolted)


PUBLISHED = {
    "dit": PublishedModel(
        title="DiT-XL/2-512",
        compute=5.81,
        compute_after=3.17,
        memory_after=1.2,
        saving=0.358,
        steps=50,
        nominal_steps=(0, 1),
    ),
    "pixart": PublishedModel(
        title="PixArt-alpha",
        compute=39.9,
        compute_after=23.48,
        memory_after=1.8,
        saving=0.382,
        steps=30,
        nominal_steps=(0, 29),
    ),
    "sd15": PublishedModel(
        title="Stable Diffusion 1.5",
        compute=6.61,
        compute_after=4.01,
        memory_after=1.18,
        saving=0.318,
        steps=50,
        nominal_steps=(0, 1),
    ),
}
"""By the name that metrics end with. The paper's "36 % on average" is the mean of their savings, 35.3 %."""


def published_voltage_v() -> float:
    """Supply at `ERROR_RATE` and the nominal clock: 0.6756 V, which the paper rounds to 0.676."""
    return DelayModel().voltage_at_rate(ERROR_RATE)


def published_saving(
    model: PublishedModel,
    voltage_v: float,
    *,
    check_energy: float = 0.0,
    memory_factor: float | None = None,
    checked_at_nominal: bool = False,
) -> float:
    """Energy saved by undervolting, by the paper's arithmetic.

    Parameters
    ----------
    model : PublishedModel
        Counts of the architecture.
    voltage_v : float
        Voltage of the array, in all evaluations but the model's nominal ones.
    check_energy : float
        Energy of the checks over that of the products they check.
    memory_factor : float, optional
        DRAM energy over that of the unprotected run; by default as published for this model.
    checked_at_nominal : bool
        Whether nominal evaluations are checked too. They have no errors, so by default they are not.

    Returns
    -------
    float
        Share of the energy of the unprotected run at nominal voltage; negative if more is spent than saved.
    """
    nominal = model.nominal_share
    undervolted = (1 - nominal) * (voltage_v / NOMINAL_VOLTAGE_V) ** 2
    checked = undervolted + (nominal if checked_at_nominal else 0.0)
    memory = model.memory_after if memory_factor is None else memory_factor
    return 1 - (model.compute * (nominal + undervolted + check_energy * checked) + memory) / (model.compute + 1)
