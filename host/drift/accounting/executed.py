"""What an image costs: the strategy and the power policy themselves are run, on an accelerator that counts.

There is no second list of what protection does: `DriftExecution` runs the products of a workload as it runs those of an
offloaded model, with what checks are expected to find.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.model import BY_RATE, ERROR_FREE

from ...device.accelerator import Accelerator
from ...device.backends.shapes import ShapeBackend
from ...device.power.energy import PARTS, EnergyModel
from ...device.power.timing import DelayModel
from ...workload.shaped import ShapedModel
from ...workload.trace import Workload
from ..operating_point import NOMINAL, OperatingPoint
from ..power_policy import PowerPolicy
from ..runtime import DriftExecution
from ..strategies.base import Strategy


@dataclass(frozen=True, kw_only=True)
class ImageCost:
    """Of an image, everything on the chip and its memory in it.

    Attributes
    ----------
    time_s : float
        Simulated. Operands and outputs move while products run, so an evaluation takes as long as its products, or as
        all its bytes at the memory's bandwidth if that is longer.
    energy_j : float
        Sum of `parts_j`.
    published_energy_j : float
        Of that, what DRIFT counts: products, checks, DRAM bytes.
    parts_j : mapping of str to float
        By the names of `brownout.host.device.power.energy.PARTS`.
    macs, dram_bytes, interface_bytes, host_bytes : float
        Useful multiply-accumulates; bytes that the accelerator moves; operands and outputs that the host moves; what
        the host moves because of errors.
    counters : mapping of str to float
        Sums of `Accelerator.stats`.
    """

    time_s: float
    energy_j: float
    published_energy_j: float
    parts_j: Mapping[str, float]
    macs: float
    dram_bytes: float
    interface_bytes: float
    host_bytes: float
    counters: Mapping[str, float]

    @classmethod
    def of(cls, evaluations: list[Mapping[str, float]]) -> ImageCost:
        """From `Accelerator.stats` of each evaluation."""
        sums = {name: sum(each[name] for each in evaluations) for name in evaluations[0]}
        parts = {part: sums[f"energy_{part}_j"] for part in PARTS}
        return cls(
            time_s=sum(max(each["time_s"], each["memory_s"]) for each in evaluations),
            energy_j=sums["energy_j"],
            published_energy_j=parts["mac"] + parts["check"] + parts["dram"],
            parts_j=parts,
            macs=sums["macs"],
            dram_bytes=sums["dram_bytes"],
            interface_bytes=sums["interface_bytes"],
            host_bytes=sums["host_bytes"],
            counters=sums,
        )


def _evaluate(model: ShapedModel, steps: int, execution: DriftExecution | None = None) -> list[Mapping[str, float]]:
    """Statistics of each evaluation."""
    accelerator, evaluations = model.accelerator, list[Mapping[str, float]]()
    model.begin_run()
    accelerator.reset_stats()
    for _ in range(steps):
        if execution is not None:
            execution.begin_evaluation(math.nan)
        model.evaluate()
        evaluations.append(dict(accelerator.stats))
        accelerator.reset_stats()
    return evaluations


def nominal_image(
    config: AcceleratorConfig, workload: Workload, *, steps: int, energy_model: EnergyModel | None = None
) -> ImageCost:
    """Cost of an image at the nominal point, on the same accelerator without check units.

    Parameters
    ----------
    config : AcceleratorConfig
        Checksum units and timing model are left out.
    workload : Workload
        One evaluation.
    steps : int
        Evaluations; they are alike, so one is run.
    energy_model : EnergyModel, optional
        Of the energies.
    """
    plain = replace(config, checksum=None, razor=False, timing_model=ERROR_FREE)
    with Accelerator(plain, ShapeBackend(plain), energy_model=energy_model) as accelerator:
        return ImageCost.of(_evaluate(ShapedModel(accelerator, workload), 1) * steps)


def protected_image(
    config: AcceleratorConfig,
    workload: Workload,
    strategy: Strategy,
    policy: PowerPolicy,
    *,
    steps: int,
    settled: int | None = None,
    period: int = 1,
    safe: OperatingPoint = NOMINAL,
    energy_model: EnergyModel | None = None,
    delay_model: DelayModel | None = None,
    measured: Mapping[str, float] | None = None,
) -> ImageCost:
    """Cost of an image with a strategy, by running it.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator; it gets what the strategy needs, and errors that are drawn.
    workload : Workload
        One evaluation.
    strategy : Strategy
        What is done about errors. Values it must not look at, of which there are none, unless it can do without
        (`Strategy.priced_by_measurement`).
    policy : PowerPolicy
        What each product runs at.
    steps : int
        Evaluations of the image.
    settled : int, optional
        So many are run, and later ones cost as the last of them: for strategies and policies that do the same from
        there on. By default all are run.
    period : int
        Evaluations after which they do the same again: those from one checkpoint to the next. At most `settled`.
    safe, delay_model
        As of `DriftExecution` and `Accelerator`.
    energy_model : EnergyModel, optional
        Of the energies; its regulator says how long moves take.
    measured : mapping of str to float, optional
        What decisions by values come to: `Strategy.measured` of a run on a model at these operating points, for
        strategies that need it.

    Raises
    ------
    ValueError
        The strategy reads values, or needs figures that `measured` has not; `period` does not fit `settled`; an
        operating point is beyond what is known.
    """
    if not 1 <= period <= (steps if settled is None else settled):
        raise ValueError(f"period must be in 1..{steps if settled is None else settled}, not {period!r}")
    if strategy.reads_values and not strategy.priced_by_measurement:
        raise ValueError(
            f"strategy {strategy.name!r} decides by values of sums, which a workload has not; run it on a model, and "
            "read Accelerator.stats"
        )
    model = EnergyModel() if energy_model is None else energy_model
    erring = strategy.hardware(replace(config, timing_model=BY_RATE))
    with Accelerator(erring, ShapeBackend(erring), energy_model=model, delay_model=delay_model) as accelerator:
        shaped = ShapedModel(accelerator, workload)
        shaped.execution = execution = DriftExecution(
            shaped,
            strategy,
            policy,
            safe=safe,
            transition_s=model.regulator.transition_s,
            measured={} if measured is None else measured,
        )
        run = steps if settled is None else min(settled, steps)
        found = _evaluate(shaped, run, execution)
    return ImageCost.of([*found, *(found[run - period + index % period] for index in range(steps - run))])
