"""Simulated time and energy, from counters and operating points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache

from brownout.hw.config import ACC_BITS, AcceleratorConfig

from ...storage.decoding import Count, NotNegative, Positive, check
from ...storage.state import State
from ..product.operands import GemmShape
from ..twin.geometry import geometry
from .check_prices import IDLE_SHARE, RAZOR_SHARE, check_column_price, check_share, column_sums_price, syndrome_bits
from .dram import Dram
from .leakage import Leakage
from .memories import SramPrices
from .regulators import IDEAL, SWITCHING, Regulator
from .sram import CELLS
from .timing import NOMINAL_FREQUENCY_HZ, NOMINAL_VOLTAGE_V

ROW_BYTES = 2048
"""Of the DRAM row that `EnergyModel.activation_j` is for."""

MIB = 1 << 20

NOMINAL_LEAKAGE = Leakage()


@dataclass(frozen=True, kw_only=True)
class EnergyModel:
    """Energy of each event at the nominal voltage, 14 nm, and where voltages come from.

    The defaults are the reference technology: HBM2, SRAM of 1 pJ a byte, a switching converter. Others are in
    `brownout.host.device.power.technologies`; `published` leaves out all that DRIFT does not count.

    What the array, the checksum units and their idle elements take goes with the square of their domain's voltage, and
    comes through `regulator`; their leakage goes by `leakage`. Memory and SRAM stay at their nominal voltage.

    Attributes
    ----------
    mac_j : float
        int8 multiply-accumulate at 0.9 V: 0.16 pJ (DRIFT, arXiv 2604.09073, plotting data).
    idle_share : float
        What an element takes in a cycle in which it multiplies nothing useful, over `mac_j`: its clock. By default that
        of the netlist (`check_prices.IDLE_SHARE`); 0 if clocks are gated.
    razor_share : float
        What elements that notice their own late sums (`AcceleratorConfig.razor`) take more than others, over `mac_j`.
        By default that of the netlist (`check_prices.RAZOR_SHARE`).
    dram_byte_j : float
        A byte read or written, without opening its row: 21.7 pJ, HBM2's 3.92 pJ/bit less 1.21 for activation (O'Connor
        et al., "Fine-Grained DRAM", MICRO 2017).
    activation_j : float
        Opening a DRAM row of 2 KiB, those of other sizes in proportion: 1.82 nJ, twice the 909 pJ of HBM2's 1 KiB (the
        same source).
    dram_background_w : float
        Standby power of the DRAM for each GB/s of its bandwidth.
    sram_byte_j : float
        Scratchpads, accumulators and syndromes: 1 pJ a byte read or written.
    sram_leakage_w : float
        Of each MiB: 0.03 W, a tenth of what CACTI gives for high-performance cells.
    sram_cells : {"hp", "lop", "lstp"}, optional
        Memories by CACTI in place of the last two: each by its size and width, accumulators apart from scratchpads, of
        these transistors (`brownout.host.device.power.sram.cacti`).
    leakage_w : float
        Of each processing element at the nominal point: 16 uW, 5 % of the 0.32 mW that a busy element takes at 2 GHz; a
        choice, not a measurement.
    leakage : Leakage
        How that depends on voltage and temperature.
    regulator : Regulator
        Where the voltages of array and checksum units come from.
    """

    mac_j: float = 0.16e-12
    idle_share: float = IDLE_SHARE
    razor_share: float = RAZOR_SHARE
    dram_byte_j: float = 2.71 * 8 * 1e-12
    activation_j: float = 2 * 909e-12
    dram_background_w: float = 0.0
    sram_byte_j: float = 1e-12
    sram_leakage_w: float = 0.03
    sram_cells: str | None = None
    leakage_w: float = 16e-6
    leakage: Leakage = NOMINAL_LEAKAGE
    regulator: Regulator = SWITCHING

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, (int, float)) and not value >= 0:
                raise ValueError(f"EnergyModel.{each.name} must not be negative, but is {value!r}")
        if self.sram_cells is not None and self.sram_cells not in CELLS:
            names = ", ".join(map(repr, CELLS))
            raise ValueError(f"EnergyModel.sram_cells must be {names} or None, not {self.sram_cells!r}")

    def sram_prices(self, config: AcceleratorConfig) -> SramPrices:
        """What the memories of an accelerator take.

        Raises
        ------
        ValueError
            `sram_cells` are given, and CACTI's table has no memories of these sizes.
        """
        if self.sram_cells is None:
            return SramPrices.uniform(config, self.sram_byte_j, self.sram_leakage_w / MIB)
        return SramPrices.by_cacti(config, self.sram_cells)

    def with_dram(self, memory: Dram) -> EnergyModel:
        """The same with another main memory."""
        return replace(
            self,
            dram_byte_j=memory.byte_j,
            activation_j=memory.row_j_per_byte * ROW_BYTES,
            dram_background_w=memory.background_w_per_gb_s,
        )

    def switching(self, voltage_v: float) -> float:
        """Energy of an event of array or checks at a voltage, regulator included, over that on a rail of 0.9 V."""
        return (voltage_v / NOMINAL_VOLTAGE_V) ** 2 * self.regulator.drawn(voltage_v)

    def leaking(self, voltage_v: float) -> float:
        """Leakage power of array or checks at a voltage, likewise."""
        return self.leakage.relative_power(voltage_v) * self.regulator.drawn(voltage_v)

    @classmethod
    def published(cls) -> EnergyModel:
        """Only what DRIFT counts: MACs, and DRAM bytes of 31 pJ, row activations in them."""
        return cls(
            idle_share=0,
            dram_byte_j=31e-12,
            activation_j=0,
            sram_byte_j=0,
            sram_leakage_w=0,
            leakage_w=0,
            regulator=IDEAL,
        )


PARTS = ("mac", "check", "idle", "sram", "dram", "activation", "background", "leakage", "host", "interface")
"""Of the energy: products; their checks, those of Razor elements too; elements without useful work; scratchpads and
accumulators; bytes, rows and standby of DRAM; leakage; bytes that the host moves because of errors; operands that it
writes and outputs that it reads."""


def leakage_w(config: AcceleratorConfig, model: EnergyModel, voltage_v: float) -> float:
    """Leakage power of an accelerator whose array and checks have one voltage, and of its SRAM."""
    checks = 0.0 if config.checksum is None else check_share(config.checksum)
    elements = config.rows * config.cols * (1 + checks + model.razor_share * config.razor)
    return elements * model.leakage_w * model.leaking(voltage_v) + model.sram_prices(config).leakage_w


@dataclass(frozen=True)
class CheckWork:
    """What checking a product costs beside the product.

    Attributes
    ----------
    digit_macs : int
        MACs of digit rows in the array.
    check_macs : float
        What check columns and sums of activations take, in MACs of the array.
    syndrome_bytes : float
        Read and written while syndromes are summed.
    digit_words : int
        Sums of digit rows: words of accumulators that are written and, unlike those of outputs, never drained.
    """

    digit_macs: int
    check_macs: float
    syndrome_bytes: float
    digit_words: int


@lru_cache(maxsize=1024)
def check_work(config: AcceleratorConfig, shape: GemmShape) -> CheckWork:
    """What checking a product costs, by the netlists of the checksum units."""
    checksum = config.checksum
    assert checksum is not None
    pieces = geometry(config, shape.m, shape.n)
    digit_rows = len(pieces.group_first) * checksum.digits
    rows = shape.batch * (shape.m + digit_rows)
    columns = rows * shape.k * pieces.segments * check_column_price(checksum)
    sums = rows * shape.k * shape.n * column_sums_price(checksum) / config.rows
    k_tiles = -(-shape.k // config.rows)
    return CheckWork(
        digit_macs=shape.batch * digit_rows * shape.k * shape.n,
        check_macs=columns + sums,
        syndrome_bytes=2 * rows * k_tiles * pieces.segments * syndrome_bits(checksum) / 8,
        digit_words=shape.batch * digit_rows * -(-shape.n // config.cols),
    )


@dataclass(frozen=True)
class _Values:
    """State of a meter."""

    voltages_v: list[Positive]
    frequency_hz: Positive
    seen: dict[str, int]
    digit_macs: Count
    check_macs: NotNegative
    syndrome_bytes: NotNegative
    energy_j: dict[str, NotNegative]
    time_s: NotNegative
    memory_s: NotNegative
    host_bytes: Count
    interface_bytes: Count
    digit_words: Count = 0

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
        self._elements = config.rows * config.cols
        # Check columns have a clock and leak like as much of the array as takes their energy.
        self._check_elements = 0.0 if config.checksum is None else check_share(config.checksum) * self._elements
        # What notices late sums has a clock and leaks likewise.
        self._razor_share = model.razor_share if config.razor else 0.0
        self._sram = model.sram_prices(config)
        self._bandwidth = config.memory.bytes_per_cycle * NOMINAL_FREQUENCY_HZ
        self.voltages_v = [NOMINAL_VOLTAGE_V] * (config.voltage_domains + 1)
        self.frequency_hz = NOMINAL_FREQUENCY_HZ
        self.reset({})

    def reset(self, counters: Mapping[str, int]) -> None:
        """Start from zero at these counters."""
        self._seen = dict(counters)
        self._forget_checks()
        self._energy_j = dict.fromkeys(PARTS, 0.0)
        self._time_s = self._memory_s = 0.0
        self._host_bytes = self._interface_bytes = 0

    def _move(self, part: str, count: int) -> float:
        """Charge bytes of DRAM that the host moves, rows opened one after the other; seconds that they take."""
        model, seconds = self.model, count / self._bandwidth
        self._energy_j[part] += count * (model.dram_byte_j + model.activation_j / ROW_BYTES)
        self._memory_s += seconds
        return seconds

    def add_traffic(self, count: int) -> None:
        """Charge bytes that the host reads or writes, one after the other with what the accelerator does."""
        self._host_bytes += count
        self._time_s += self._move("host", count)

    def add_operands(self, count: int) -> None:
        """Charge bytes of operands that the host writes and of outputs that it reads, while the accelerator works."""
        self._interface_bytes += count
        self._move("interface", count)

    def state(self) -> State:
        """Sums so far, and what has not been charged yet."""
        return State(
            {
                "voltages_v": list(self.voltages_v),
                "frequency_hz": self.frequency_hz,
                "seen": dict(self._seen),
                "digit_macs": self._digit_macs,
                "check_macs": self._check_macs,
                "syndrome_bytes": self._syndrome_bytes,
                "digit_words": self._digit_words,
                "energy_j": dict(self._energy_j),
                "time_s": self._time_s,
                "memory_s": self._memory_s,
                "host_bytes": self._host_bytes,
                "interface_bytes": self._interface_bytes,
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
        self._syndrome_bytes, self._digit_words = values["syndrome_bytes"], values.get("digit_words", 0)
        self._energy_j = dict(values["energy_j"])
        self._time_s, self._memory_s = values["time_s"], values["memory_s"]
        self._host_bytes, self._interface_bytes = values["host_bytes"], values["interface_bytes"]

    def add_checks(self, shape: GemmShape, blocks: AcceleratorConfig | None = None) -> None:
        """Note that a product has been checked; `blocks`: the accelerator with the product's blocks, if they differ."""
        work = check_work(self.config if blocks is None else blocks, shape)
        self._digit_macs += work.digit_macs
        self._check_macs += work.check_macs
        self._syndrome_bytes += work.syndrome_bytes
        self._digit_words += work.digit_words

    def update(self, counters: Mapping[str, int]) -> None:
        """Charge what has happened since the last call to the present operating points."""
        if "cycles" not in counters:
            return
        new = {name: value - self._seen.get(name, 0) for name, value in counters.items()}
        self._seen = dict(counters)
        model, seconds = self.model, new["cycles"] / self.frequency_hz
        array = self._over_columns(model.switching)
        check = model.switching(self.voltages_v[-1])
        idle = self._elements * new["cycles"] - new["macs"] - self._digit_macs
        rows = new.get("dram_row_activations", 0) * self.config.memory.row_bytes
        razor = self._razor_share * array
        leaking = self._elements * (1 + self._razor_share) * self._over_columns(model.leaking)
        leaking += self._check_elements * model.leaking(self.voltages_v[-1])
        parts = {
            "mac": new["macs"] * model.mac_j * array,
            "check": (self._digit_macs * (array + razor) + self._check_macs * check + new["macs"] * razor)
            * model.mac_j,
            "idle": idle
            * (array + razor + self._check_elements / self._elements * check)
            * model.idle_share
            * model.mac_j,
            "sram": self._sram_j(new),
            "dram": new.get("dram_bytes", 0) * model.dram_byte_j,
            "activation": rows * model.activation_j / ROW_BYTES,
            "background": seconds * self._bandwidth * 1e-9 * model.dram_background_w,
            "leakage": seconds * (leaking * model.leakage_w + self._sram.leakage_w),
        }
        self._forget_checks()
        self._time_s += seconds
        self._memory_s += new.get("dram_bytes", 0) / self._bandwidth
        for name, value in parts.items():
            self._energy_j[name] += value

    def _sram_j(self, new: Mapping[str, int]) -> float:
        """Energy of accumulators, of scratchpads, and of syndromes, which lie beside the accumulators."""
        if self.model.sram_cells is None:
            return (new["sram_read_bytes"] + new["sram_write_bytes"] + self._syndrome_bytes) * self.model.sram_byte_j
        word = self.config.cols * ACC_BITS // 8
        # A word is written for each row that enters the array; it is read before, but for the first one, and drained.
        written = new["busy_cycles"] * word
        read = written - self._digit_words * word
        near, far = self._sram.accumulators, self._sram.scratchpads
        return (
            (read + self._syndrome_bytes / 2) * near.read_byte_j
            + (written + self._syndrome_bytes / 2) * near.write_byte_j
            + (new["sram_read_bytes"] - read) * far.read_byte_j
            + (new["sram_write_bytes"] - written) * far.write_byte_j
        )

    def _forget_checks(self) -> None:
        """What was checked has been charged."""
        self._digit_macs, self._check_macs, self._syndrome_bytes, self._digit_words = 0, 0.0, 0.0, 0

    def _over_columns(self, of_voltage: Callable[[float], float]) -> float:
        """Mean over the array's columns."""
        return sum(share * of_voltage(v) for share, v in zip(self._shares, self.voltages_v, strict=False))

    def skip(self, counters: Mapping[str, int]) -> None:
        """What has happened since the last `update` costs nothing."""
        self._seen = dict(counters)

    def totals(self, counters: Mapping[str, int]) -> dict[str, float]:
        """Times, energies and bytes of the host, as `Accelerator.stats` has them; empty without exact cycles."""
        if "cycles" not in counters:
            return {}
        self.update(counters)
        parts = {f"energy_{name}_j": value for name, value in self._energy_j.items()}
        return {
            "time_s": self._time_s,
            "memory_s": self._memory_s,
            "energy_j": sum(parts.values()),
            **parts,
            "host_bytes": self._host_bytes,
            "interface_bytes": self._interface_bytes,
        }
