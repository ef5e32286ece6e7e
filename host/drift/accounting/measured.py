"""Images counted on our accelerators: energy and simulated time of whole evaluations, every product included.

The published cost model (`costs`) takes the ratio of memory to compute from the paper; here it is counted. All of the
model runs at the operating point, not its Linear layers only, and all DRAM traffic of our accelerator is in it:
activations and 32-bit outputs too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.errors.model import BY_RATE

from ...device.power.energy import EnergyModel
from ...device.power.timing import NOMINAL_FREQUENCY_HZ, NOMINAL_VOLTAGE_V, DelayModel
from ...device.product.protection import Protection
from ...workload.counting import SUPPRESSING, CountedWorkload
from ...workload.trace import Workload
from .published import PublishedModel

RESIDUE_32 = ChecksumConfig(scheme="residue", locators=1, column_checks=False, segment_cols=32)
"""Checks of rollback: no column checks, segments of 32."""

CLASSIC_32 = ChecksumConfig(scheme="classic", segment_cols=32, group_rows=32)
"""As published: tiles of 32 x 32 with row and column checks, which mark."""

CHECKPOINTING = Protection(correct=False, on_uncorrectable="suppress", log_records=1024)
"""The published way back, but for the reloads: which elements they take depends on the values."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of an image.

    Attributes
    ----------
    time_s : float
        Simulated time in seconds.
    energy_j : float
        Energy in joules by `EnergyModel`.
    published_energy_j : float
        Part of it that DRIFT counts: MACs, checks, DRAM bytes.
    parts_j : dict of str to float
        Energies by the names of `brownout.host.device.power.energy.PARTS`.
    dram_bytes, macs : float
        Traffic, and useful multiply-accumulates.
    """

    time_s: float
    energy_j: float
    published_energy_j: float
    parts_j: Mapping[str, float]
    dram_bytes: float
    macs: float

    @classmethod
    def of(cls, weighted: Mapping[str, float]) -> Cost:
        """From `Accelerator.stats`, or sums of them."""
        parts = {
            name.removeprefix("energy_").removesuffix("_j"): value
            for name, value in weighted.items()
            if name.startswith("energy_") and name != "energy_j"
        }
        return cls(
            time_s=weighted["time_s"],
            energy_j=weighted["energy_j"],
            published_energy_j=parts["mac"] + parts["check"] + parts["dram"],
            parts_j=parts,
            dram_bytes=weighted["dram_bytes"],
            macs=weighted["macs"],
        )


class ImageCounter:
    """Counts images of a workload on an accelerator with and without checksum units.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator; checksum units and timing model are replaced.
    workload : Workload
        Products of one evaluation.
    steps, nominal_steps : int
        Evaluations of an image, and those at the nominal point, which are not checked.
    checksum : ChecksumConfig
        Checksum units of the protected accelerator.
    requantise : bool
        Whether layers write int8 (`CountedWorkload`).
    energy_model, delay_model
        Models that `Accelerator` gets.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        workload: Workload,
        *,
        steps: int,
        nominal_steps: int,
        checksum: ChecksumConfig = RESIDUE_32,
        requantise: bool = False,
        energy_model: EnergyModel | None = None,
        delay_model: DelayModel | None = None,
    ) -> None:
        self.steps, self.nominal_steps = steps, nominal_steps
        self.delay_model = DelayModel() if delay_model is None else delay_model
        plain = CountedWorkload(replace(config, checksum=None), workload, energy_model, requantise=requantise)
        self.plain = Cost.of(_sum((steps, plain.evaluate())))
        protected = replace(config, timing_model=BY_RATE, checksum=checksum)
        self._protected = CountedWorkload(protected, workload, energy_model, self.delay_model, requantise=requantise)

    @classmethod
    def of_published(
        cls,
        config: AcceleratorConfig,
        workload: Workload,
        model: PublishedModel,
        checksum: ChecksumConfig = RESIDUE_32,
        *,
        requantise: bool = False,
    ) -> ImageCounter:
        """With the steps of a published model."""
        nominal = len(model.nominal_steps)
        return cls(config, workload, steps=model.steps, nominal_steps=nominal, checksum=checksum, requantise=requantise)

    def image(
        self,
        voltage_v: float,
        frequency_hz: float = NOMINAL_FREQUENCY_HZ,
        *,
        check_voltage_v: float | None = None,
        protection: Protection = SUPPRESSING,
        checkpoint_interval: int | None = None,
    ) -> Cost:
        """Count a protected image.

        Parameters
        ----------
        voltage_v, frequency_hz : float
            Voltage and clock of the steps that are not nominal.
        check_voltage_v : float, optional
            Voltage of the checks in these; by default the array's.
        protection : Protection
            Protection of the products in these steps.
        checkpoint_interval : int, optional
            Steps from one checkpoint of the Linear layers of transformer blocks to the next; by default none is taken.

        Raises
        ------
        ValueError
            The operating point is beyond what is published.
        """
        device = self._protected.accelerator
        device.set_operating_point(voltage_v=NOMINAL_VOLTAGE_V, frequency_hz=NOMINAL_FREQUENCY_HZ)
        device.set_operating_point(voltage_v=NOMINAL_VOLTAGE_V, domain="check")
        device.reset_stats()
        nominal = self._protected.evaluate()
        device.set_operating_point(voltage_v=voltage_v, frequency_hz=frequency_hz)
        device.set_operating_point(voltage_v=check_voltage_v or voltage_v, domain="check")
        # The moves are counted with each of these evaluations, though an image has one or two: 0.1 us of 100 ms.
        moved = self._protected.evaluate(protection)
        total: list[tuple[float, Mapping[str, float]]] = [
            (self.nominal_steps, nominal),
            (self.steps - self.nominal_steps, moved),
        ]
        if checkpoint_interval is not None:
            total.append((self.steps / checkpoint_interval, self._protected.checkpoint()))
        return Cost.of(_sum(*total))


def _sum(*weighted: tuple[float, Mapping[str, float]]) -> dict[str, float]:
    names = weighted[0][1]
    return {name: sum(weight * stats[name] for weight, stats in weighted) for name in names}
