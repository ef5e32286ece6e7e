"""Where undervolting and overclocking pay: saving and speed of single products over their arithmetic intensity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig
from brownout.hw.errors.model import BY_RATE

from ...device.accelerator import Accelerator
from ...device.backends.shapes import ShapeBackend
from ...device.power.energy import EnergyModel
from ...device.power.timing import NOMINAL_VOLTAGE_V, DelayModel
from ...device.product.operands import GemmShape
from ...device.product.protection import UNCHECKED
from ...workload.counting import SUPPRESSING, operand, unit_scale
from .executed import ImageCost

RESIDUE_32 = ChecksumConfig(scheme="residue", locators=1, column_checks=False, segment_cols=32)
"""The cheapest of ours: no column checks, segments of 32."""


def square_array(side: int, bytes_per_cycle: int) -> AcceleratorConfig:
    """Array of `side` x `side` on a bus of 64 bytes, with a memory of a given bandwidth.

    Blocks of 1,024 x 512 outputs, and with them the traffic of a product, are alike for sides of 8 to 128, so that only
    the two parameters tell the results apart.
    """
    return AcceleratorConfig(
        rows=side,
        cols=side,
        bus_bytes=64,
        block_rows=1024,
        block_col_tiles=max(1, min(64, 512 // side)),
        slab_bytes=max(64, 4 * side),
        drain_lanes=min(16, side),
        memory=MemoryConfig(bytes_per_cycle=bytes_per_cycle),
    )


@dataclass(frozen=True, kw_only=True)
class IntensityPoint:
    """A product on an accelerator, nominal, undervolted and overclocked.

    Attributes
    ----------
    side, bytes_per_cycle : int
        Rows and columns of the array; bandwidth of the memory at the nominal clock.
    shape : GemmShape
        Extents of the product.
    intensity : float
        MACs per byte of DRAM, unprotected.
    balance : float
        MACs per byte at which array and memory take equally long: below, memory is the bound.
    utilisation : float
        Ideal over all cycles at the nominal point.
    saving : float
        Energy saved undervolted, checks included, over unprotected at the nominal point, by `EnergyModel`.
    published_saving : float
        The same by what DRIFT counts alone.
    speedup : float
        Time at the nominal clock over that of the overclocked product, checks included.
    """

    side: int
    bytes_per_cycle: int
    shape: GemmShape
    intensity: float
    balance: float
    utilisation: float
    saving: float
    published_saving: float
    speedup: float


def saving_over_intensity(
    shapes: Iterable[GemmShape],
    configs: Iterable[AcceleratorConfig],
    error_rate: float,
    *,
    checksum: ChecksumConfig = RESIDUE_32,
    delay_model: DelayModel | None = None,
) -> Iterator[IntensityPoint]:
    """Count products at the nominal point, at the lowest voltage and at the highest clock with an error rate.

    Parameters
    ----------
    shapes : iterable of GemmShape
        Products; operands come from DRAM, int8 results go there.
    configs : iterable of AcceleratorConfig
        Square arrays; checksum units and timing model are replaced.
    error_rate : float
        Errors per output of the array and of the checks, which have the array's voltage.
    checksum : ChecksumConfig
        Checksum units of the protected accelerators; segments are no wider than the array.
    delay_model : DelayModel, optional
        Model that leads from a rate to voltage and clock.

    Yields
    ------
    IntensityPoint
        For every accelerator and product.
    """
    delay_model = DelayModel() if delay_model is None else delay_model
    voltage, frequency = delay_model.voltage_at_rate(error_rate), delay_model.frequency_at_rate(error_rate)
    products = list(shapes)
    for config in configs:
        plain = replace(config, checksum=None)
        checked = replace(config, timing_model=BY_RATE, checksum=checksum)
        for shape in products:
            nominal, stats = _count(plain, shape)
            low, _ = _count(checked, shape, delay_model, voltage)
            fast, _ = _count(checked, shape, delay_model, NOMINAL_VOLTAGE_V, frequency)
            prices = EnergyModel.published()
            counted = [_count(plain, shape, model=prices), _count(checked, shape, delay_model, voltage, model=prices)]
            published = [cost.published_energy_j for cost, _ in counted]
            yield IntensityPoint(
                side=config.rows,
                bytes_per_cycle=config.memory.bytes_per_cycle,
                shape=shape,
                intensity=nominal.macs / nominal.dram_bytes,
                balance=config.rows * config.cols / config.memory.bytes_per_cycle,
                utilisation=stats["ideal_cycles"] / stats["cycles"],
                saving=1 - low.energy_j / nominal.energy_j,
                published_saving=1 - published[1] / published[0],
                speedup=nominal.time_s / fast.time_s,
            )


def _count(
    config: AcceleratorConfig,
    shape: GemmShape,
    delay_model: DelayModel | None = None,
    voltage_v: float | None = None,
    frequency_hz: float | None = None,
    *,
    model: EnergyModel | None = None,
) -> tuple[ImageCost, dict[str, float]]:
    """Of a product on an accelerator without history; the move to the operating point is not counted."""
    protection = UNCHECKED if voltage_v is None else SUPPRESSING
    with Accelerator(
        config, ShapeBackend(config), delay_model=delay_model, energy_model=model, protection=protection
    ) as accelerator:
        if voltage_v is not None:
            accelerator.set_operating_point(voltage_v=voltage_v, frequency_hz=frequency_hz)
            accelerator.set_operating_point(voltage_v=voltage_v, domain="check")
            accelerator.reset_stats()
        accelerator.gemm(
            operand(shape.batch, shape.m, shape.k),
            operand(shape.batch, shape.k, shape.n),
            out=operand(shape.batch, shape.m, shape.n),
            requant=unit_scale(shape.n),
        )
        stats = dict(accelerator.stats)
    return ImageCost.of([stats]), stats
