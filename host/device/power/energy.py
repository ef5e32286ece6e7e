"""Simulated time and energy, from counters and operating points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache

from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.residues import RESIDUE_BITS

from ...storage.decoding import Count, NotNegative, Positive, check
from ...storage.state import State
from ..product.operands import GemmShape
from ..twin.geometry import geometry
from .timing import NOMINAL_FREQUENCY_HZ, NOMINAL_VOLTAGE_V


@dataclass(frozen=True, kw_only=True)
class EnergyModel:
    """Energy per event at the nominal voltage, 14 nm; `published` leaves out all that DRIFT does not count.

    Memory and SRAM stay at their nominal voltage; dynamic energy of the array and of the checksum units goes with V^2,
    leakage power of the whole accelerator is taken as constant.

    Attributes
    ----------
    mac_j : float
        int8 multiply-accumulate at 0.9 V: 0.16 pJ (DRIFT, arXiv 2604.09073, plotting data).
    dram_byte_j : float
        31 pJ (the same source).
    sram_byte_j : float
        Scratchpads and accumulators: 0.5 pJ. An access of 64 bits to 8 KiB takes 10 pJ in 45 nm (Horowitz, "Computing's
        energy problem", ISSCC 2014), 1.25 pJ a byte; 0.4 of that for 14 nm is an estimate.
    activation_j : float
        Opening a DRAM row of 2 KiB: 1.8 nJ, from about 0.9 nJ for the 1 KiB of HBM2 (O'Connor et al., "Fine-Grained
        DRAM", MICRO 2017). `dram_byte_j` may contain part of it, so that DRAM energy is an upper estimate.
    leakage_w : float
        Leakage of each processing element with its share of everything else: 16 uW, 5 % of the 0.32 mW that a busy
        element takes at 2 GHz; a choice, not a measurement.
    """

    mac_j: float = 0.16e-12
    dram_byte_j: float = 31e-12
    sram_byte_j: float = 0.5e-12
    activation_j: float = 1.8e-9
    leakage_w: float = 16e-6

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value >= 0:
                raise ValueError(f"EnergyModel.{each.name} must not be negative, but is {value!r}")

    @classmethod
    def published(cls) -> EnergyModel:
        """Only what DRIFT counts: MACs and DRAM bytes."""
        return cls(sram_byte_j=0, activation_j=0, leakage_w=0)


PARTS = ("mac", "check", "sram", "dram", "activation", "leakage", "host")


def _check_weight_bits(checksum: ChecksumConfig, check: int) -> int:
    """Width of a check column's weights, to which the cost of its multiplier is proportional."""
    if checksum.modulus(check):
        return RESIDUE_BITS
    growth = (checksum.segment_cols - 1).bit_length()
    return 8 + growth + (7 if check else 0)


def check_column_share(checksum: ChecksumConfig) -> float:
    """Energy of all check columns over that of the array, at equal voltage, as `EnergyMeter` charges it."""
    return sum(_check_weight_bits(checksum, j) for j in range(checksum.checks)) / 8 / checksum.segment_cols


@lru_cache(maxsize=1024)
def check_work(config: AcceleratorConfig, shape: GemmShape) -> tuple[int, float]:
    """What checking a product costs beside the product.

    Returns
    -------
    int
        MACs of digit rows in the array.
    float
        MACs of check columns, each weighted by the width of its weights over 8 bits.
    """
    checksum = config.checksum
    assert checksum is not None
    pieces = geometry(config, shape.m, shape.n)
    digit_rows = len(pieces.group_first) * checksum.digits
    width = sum(_check_weight_bits(checksum, j) for j in range(checksum.checks)) / 8
    return (
        shape.batch * digit_rows * shape.k * shape.n,
        shape.batch * (shape.m + digit_rows) * shape.k * pieces.segments * width,
    )


@dataclass(frozen=True)
class _Values:
    """State of a meter."""

    voltages_v: list[Positive]
    frequency_hz: Positive
    seen: dict[str, int]
    digit_macs: Count
    check_macs: NotNegative
    energy_j: dict[str, NotNegative]
    time_s: NotNegative
    host_bytes: Count

    def __post_init__(self) -> None:
        if set(self.energy_j) != set(PARTS):
            raise ValueError(f"energy_j must have {', '.join(PARTS)}, not {', '.join(self.energy_j)}")


class EnergyMeter:
    """Adds up time and energy while operating points change.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator.
    model : EnergyModel
        Model of the energy per event.
    """

    def __init__(self, config: AcceleratorConfig, model: EnergyModel) -> None:
        self.config, self.model = config, model
        columns = [config.domain_of_column(col) for col in range(config.cols)]
        self._shares = [columns.count(domain) / config.cols for domain in range(config.voltage_domains)]
        self.voltages_v = [NOMINAL_VOLTAGE_V] * (config.voltage_domains + 1)
        self.frequency_hz = NOMINAL_FREQUENCY_HZ
        self.reset({})

    def reset(self, counters: Mapping[str, int]) -> None:
        """Start from zero at these counters."""
        self._seen = dict(counters)
        self._digit_macs, self._check_macs = 0, 0.0
        self._energy_j = dict.fromkeys(PARTS, 0.0)
        self._time_s = 0.0
        self._host_bytes = 0

    def add_traffic(self, count: int) -> None:
        """Charge bytes that the host reads or writes, one after the other with what the accelerator does."""
        self._host_bytes += count
        self._energy_j["host"] += count * self.model.dram_byte_j
        self._time_s += count / (self.config.memory.bytes_per_cycle * NOMINAL_FREQUENCY_HZ)

    def state(self) -> State:
        """Sums so far, and what has not been charged yet."""
        return State(
            {
                "voltages_v": list(self.voltages_v),
                "frequency_hz": self.frequency_hz,
                "seen": dict(self._seen),
                "digit_macs": self._digit_macs,
                "check_macs": self._check_macs,
                "energy_j": dict(self._energy_j),
                "time_s": self._time_s,
                "host_bytes": self._host_bytes,
            }
        )

    def load_state(self, state: State) -> None:
        """Take up a state; counters go on from where they were then."""
        values = state.values
        check(values, _Values, "the state of the energy meter")
        if len(values["voltages_v"]) != len(self.voltages_v):
            raise ValueError(f"the state has {len(values['voltages_v'])} voltages, not {len(self.voltages_v)}")
        self.voltages_v, self.frequency_hz = list(values["voltages_v"]), values["frequency_hz"]
        self._seen = dict(values["seen"])
        self._digit_macs, self._check_macs = values["digit_macs"], values["check_macs"]
        self._energy_j, self._time_s = dict(values["energy_j"]), values["time_s"]
        self._host_bytes = values["host_bytes"]

    def add_checks(self, shape: GemmShape) -> None:
        """Note that a product has been checked."""
        digits, checks = check_work(self.config, shape)
        self._digit_macs += digits
        self._check_macs += checks

    def update(self, counters: Mapping[str, int]) -> None:
        """Charge what has happened since the last call to the present operating points."""
        if "cycles" not in counters:
            return
        new = {name: value - self._seen.get(name, 0) for name, value in counters.items()}
        self._seen = dict(counters)
        model, seconds = self.model, new["cycles"] / self.frequency_hz
        squares = [(voltage / NOMINAL_VOLTAGE_V) ** 2 for voltage in self.voltages_v]
        array = sum(share * square for share, square in zip(self._shares, squares, strict=False))
        elements = self.config.rows * self.config.cols
        parts = {
            "mac": new["macs"] * model.mac_j * array,
            "check": (self._digit_macs * array + self._check_macs * squares[-1]) * model.mac_j,
            "sram": (new.get("sram_read_bytes", 0) + new.get("sram_write_bytes", 0)) * model.sram_byte_j,
            "dram": new.get("dram_bytes", 0) * model.dram_byte_j,
            "activation": new.get("dram_row_activations", 0) * model.activation_j,
            "leakage": seconds * elements * model.leakage_w,
        }
        self._digit_macs, self._check_macs = 0, 0.0
        self._time_s += seconds
        for name, value in parts.items():
            self._energy_j[name] += value

    def skip(self, counters: Mapping[str, int]) -> None:
        """What has happened since the last `update` costs nothing."""
        self._seen = dict(counters)

    def totals(self, counters: Mapping[str, int]) -> dict[str, float]:
        """``time_s``, ``energy_j``, ``energy_PART_j`` of `PARTS`, ``host_bytes``; empty without exact cycles."""
        if "cycles" not in counters:
            return {}
        self.update(counters)
        parts = {f"energy_{name}_j": value for name, value in self._energy_j.items()}
        return {"time_s": self._time_s, "energy_j": sum(parts.values()), **parts, "host_bytes": self._host_bytes}
