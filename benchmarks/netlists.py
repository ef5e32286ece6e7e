"""What do checksum units and idle elements take, by the transistors that switch?

Run ``python benchmarks/netlists.py`` (needs ``brownout[bench]``; minutes from nothing); writes
``host/device/power/data/netlists.csv``, by which `EnergyModel` charges checks, and ``build/results/netlists.json``.

Yosys maps units of a 32 x 32 array to NAND, NOR, NOT and flip-flops. Prices are transistors over those of a processing
element:

- ``check_column``: what checks a segment, for each of its rows of the array.
- ``column_sums``: what sums activations for column checks, over one row of the array and its columns.
- ``idle_share``: transistors of flip-flops that follow the clock whatever the data do, over all of an element. A static
  master-slave flip-flop of 24 transistors has 12 of them: four transmission gates and two inverters.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import typer
from abft import SIDE, accelerator_config, cached_area
from tqdm import tqdm

from brownout.cosim.area import FLIP_FLOP_TRANSISTORS
from brownout.host.storage.results import write_results
from brownout.hw.array.row import ArrayRow
from brownout.hw.checks.check_row import CheckRow
from brownout.hw.checks.column_sums import ColumnSums
from brownout.hw.config import ChecksumConfig

DATA = Path(__file__).parents[1] / "host" / "device" / "power" / "data" / "netlists.csv"

CLOCKED_SHARE = 12 / FLIP_FLOP_TRANSISTORS

SCHEMES = (("classic", 0), ("matched", 0), ("weighted", 1), ("weighted", 2), ("residue", 1), ("residue", 2))
WIDTHS = (8, 16, 32)

HEADER = """# Transistors that switch in every cycle, over those of a processing element, by Yosys.
# Made by: python benchmarks/netlists.py
"""


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
    found = list(prices())
    with DATA.open("w", newline="") as file:
        file.write(HEADER + f"# idle_share={idle:.6g}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["scheme", "locators", "segment_cols", "check_column", "column_sums"])
        writer.writerows([*names, f"{check:.6g}", f"{sums:.6g}"] for *names, check, sums in found)
    metrics = {"idle_share": idle, "element_transistors": row.transistors / SIDE}
    for scheme, locators, width, check, sums in found:
        metrics[f"check_share_{scheme}_{locators}_s{width}"] = check / width + (0 if locators else sums / SIDE)
    for name, value in metrics.items():
        print(f"{name:32} {value:.5g}")
    print(write_results("netlists", metrics))


if __name__ == "__main__":
    typer.run(main)
