"""What do checksum units and idle elements take, by the transistors that switch?

Run ``python benchmarks/netlists.py`` (needs ``brownout[bench]``; minutes from nothing); writes
``host/device/power/data/netlists.csv``, by which `EnergyModel` charges checks, and ``build/results/netlists.json``.

Yosys maps units of a 32 x 32 array to NAND, NOR, NOT and flip-flops. Prices are transistors over those of a processing
element:

- ``check_column``: what checks a segment, for each of its rows of the array.
- ``column_sums``: what sums activations for column checks, over one row of the array and its columns.
- ``idle_share``: transistors of flip-flops that follow the clock whatever the data do, over all of an element. A static
  master-slave flip-flop of 24 transistors has 12 of them: four transmission gates and two inverters.
- ``razor_share``: what lets an element notice its own late sum and drop the next product, over the element. The RTL's
  array has it as a model of errors, so the units are mapped by themselves: comparator, bypass and flag are those of the
  RTL. The shadow latches are half a flip-flop for each bit of the sum, and two inverters before each keep sums of the
  next cycle out of them. That is the least such padding can be: how many inverters hold needs depends on a layout.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import typer
from abft import SIDE, accelerator_config, cached_area
from amaranth.hdl import ClockDomain, Elaboratable, Module, Signal
from tqdm import tqdm

from brownout.cosim.area import FLIP_FLOP_TRANSISTORS, TRANSISTORS
from brownout.host.storage.results import write_results
from brownout.hw.array.row import ArrayRow
from brownout.hw.checks.check_row import CheckRow
from brownout.hw.checks.column_sums import ColumnSums
from brownout.hw.config import ACC_BITS, AcceleratorConfig, ChecksumConfig
from brownout.hw.errors.razor import sum_or_bypass

DATA = Path(__file__).parents[1] / "host" / "device" / "power" / "data" / "netlists.csv"

CLOCKED_SHARE = 12 / FLIP_FLOP_TRANSISTORS

SCHEMES = (("classic", 0), ("matched", 0), ("weighted", 1), ("weighted", 2), ("residue", 1), ("residue", 2))
WIDTHS = (8, 16, 32)

HEADER = """# Transistors that switch in every cycle, over those of a processing element, by Yosys.
# Made by: python benchmarks/netlists.py
"""


class RazorUnits(Elaboratable):
    """What an element that drops products has beside its adder and register, but for the shadow latches.

    Members
    -------
    above, captured, settled : 32 bits
        Partial sum from the element above; what the register caught in time; what the shadow latches hold.
    borrowed, borrows : 1 bit
        Flag of the element above, and for the one below, in a register.
    kept : 32 bits
        Sum that leaves the element.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.above, self.captured, self.settled, self.kept = (
            Signal(ACC_BITS, name=name) for name in ("above", "captured", "settled", "kept")
        )
        self.borrowed, self.borrows = Signal(), Signal(reset_less=True)
        self._domain = ClockDomain("sync", reset_less=True)

    @property
    def ports(self) -> list[Signal]:
        """Signals of the module's boundary."""
        data = [self.above, self.captured, self.settled, self.kept, self.borrowed, self.borrows]
        return [self._domain.clk, *data]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains += self._domain
        kept, borrows = sum_or_bypass(
            m, x=self.above, settled=self.settled, captured=self.captured, borrowed=self.borrowed, name="element"
        )
        m.d.comb += self.kept.eq(kept)
        m.d.sync += self.borrows.eq(borrows)
        return m


def razor_share() -> float:
    """Transistors of what notices late sums, over those of an element."""
    element = cached_area(ArrayRow, accelerator_config(None)).transistors / SIDE
    latches_and_padding = ACC_BITS * (FLIP_FLOP_TRANSISTORS / 2 + 2 * TRANSISTORS["$_NOT_"])
    return (cached_area(RazorUnits, accelerator_config(None)).transistors + latches_and_padding) / element


def prices() -> Iterator[tuple[str, int, int, float, float]]:
    """Scheme, locators, columns of a segment, price of a check column's segment, price of sums of activations."""
    element = cached_area(ArrayRow, accelerator_config(None)).transistors / SIDE
    for scheme, locators in tqdm(SCHEMES, desc="netlists", unit="scheme"):
        for width in WIDTHS:
            # Those that locate can do without column checks, and then cost least.
            checksum = ChecksumConfig(
                scheme=scheme, locators=locators, segment_cols=width, column_checks=locators == 0, group_rows=32
            )
            units = cached_area(CheckRow, accelerator_config(checksum))
            segment = units.transistors / element / (SIDE // width)
            summing = accelerator_config(replace(checksum, column_checks=True))
            sums = cached_area(ColumnSums, summing).transistors / element / SIDE
            yield scheme, locators, width, segment, sums


def main() -> None:
    """Map, count and write."""
    row = cached_area(ArrayRow, accelerator_config(None))
    idle = CLOCKED_SHARE * row.registers / row.transistors
    razor = razor_share()
    found = list(prices())
    with DATA.open("w", newline="") as file:
        file.write(HEADER + f"# idle_share={idle:.6g}\n# razor_share={razor:.6g}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["scheme", "locators", "segment_cols", "check_column", "column_sums"])
        writer.writerows([*names, f"{check:.6g}", f"{sums:.6g}"] for *names, check, sums in found)
    metrics = {"idle_share": idle, "razor_share": razor, "element_transistors": row.transistors / SIDE}
    for scheme, locators, width, check, sums in found:
        metrics[f"check_share_{scheme}_{locators}_s{width}"] = check / width + (0 if locators else sums / SIDE)
    for name, value in metrics.items():
        print(f"{name:32} {value:.5g}")
    print(write_results("netlists", metrics))


if __name__ == "__main__":
    typer.run(main)
