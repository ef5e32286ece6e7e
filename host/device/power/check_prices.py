"""What checksum units, idle elements and Razor elements take beside a product, by transistors of netlists that switch.

``data/netlists.csv`` has them for each scheme and width of a segment; ``python benchmarks/netlists.py`` makes it.
"""

from __future__ import annotations

import csv
import importlib.resources
import math
from functools import cache

from brownout.hw.config import ChecksumConfig
from brownout.hw.residues import RESIDUE_BITS

_PER_MULTIPLIER_BIT = 1.8 / 2 / RESIDUE_BITS
"""Elements for each bit of a check column's weights: from residues of two columns, for schemes without a netlist."""


@cache
def _table() -> tuple[dict[str, float], dict[tuple[str, int], dict[int, tuple[float, float]]]]:
    """Shares of an element by name, and prices of columns and sums by scheme, locators and width."""
    path = importlib.resources.files(__package__) / "data" / "netlists.csv"
    text = path.read_text().splitlines()
    shares = {
        name.removeprefix("# "): float(value)
        for name, equals, value in (line.partition("=") for line in text if line.startswith("# "))
        if equals
    }
    prices: dict[tuple[str, int], dict[int, tuple[float, float]]] = {}
    for row in csv.DictReader(line for line in text if not line.startswith("#")):
        widths = prices.setdefault((row["scheme"], int(row["locators"])), {})
        widths[int(row["segment_cols"])] = (float(row["check_column"]), float(row["column_sums"]))
    return shares, prices


IDLE_SHARE = _table()[0]["idle_share"]
"""Energy of an element without useful work in a cycle, over that of a multiply-accumulate: the transistors of its
flip-flops that follow the clock."""

RAZOR_SHARE = _table()[0]["razor_share"]
"""Energy of what lets an element notice its own late sum (`AcceleratorConfig.razor`), over that of the element: shadow
latches, comparator, bypass, flag and the least hold padding, all of which switch in each cycle. The first Razor
processor took 3.1 % more (Ernst et al., MICRO 2003), but had shadows behind few of its flip-flops only."""


def check_weight_bits(checksum: ChecksumConfig, check: int) -> int:
    """Width of a check column's weights."""
    if checksum.modulus(check):
        return RESIDUE_BITS
    return 8 + (checksum.segment_cols - 1).bit_length() + (7 if check else 0)


def _prices(checksum: ChecksumConfig) -> tuple[float, float] | None:
    widths = _table()[1].get((checksum.scheme, checksum.locators))
    if widths is None:
        return None
    # Of the next width, by ratio: a segment's price changes little with it.
    return widths[min(widths, key=lambda width: abs(math.log(width / checksum.segment_cols)))]


def check_column_price(checksum: ChecksumConfig) -> float:
    """Energy of what checks a segment of a row, over that of a processing element at the same voltage.

    Of schemes without a netlist it is estimated from the widths of their weights.
    """
    known = _prices(checksum)
    if known is not None:
        return known[0]
    return _PER_MULTIPLIER_BIT * sum(check_weight_bits(checksum, check) for check in range(checksum.checks))


def column_sums_price(checksum: ChecksumConfig) -> float:
    """Energy of sums of activations for column checks, over that of one row of the array; 0 without."""
    if not checksum.column_checks:
        return 0.0
    known = _prices(checksum)
    return known[1] if known is not None else 0.0


def check_share(checksum: ChecksumConfig) -> float:
    """Energy of all check columns over that of the array, at equal voltage and without digit rows."""
    return check_column_price(checksum) / checksum.segment_cols


def syndrome_bits(checksum: ChecksumConfig) -> int:
    """Bits that are kept for a segment of a row while its checks are summed."""
    return sum(checksum.check_bits(check) for check in range(checksum.checks))
