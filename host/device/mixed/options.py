"""What is replayed on the RTL, and how much of a run was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SELECTIONS = ("faulty", "random", "faulty-first")

PASSES_LIMIT = 1024
"""Most passes of one product that are replayed."""


@dataclass(frozen=True, kw_only=True)
class MixedOptions:
    """Which passes of a run on the twin are replayed on the RTL (``backend="mixed"``); docs/mixed.md.

    Attributes
    ----------
    passes_per_product : int
        Passes replayed of each product, 1 to 1024; fewer where there are fewer to choose from.
    selection : {"faulty", "random", "faulty-first"}
        Passes in which something errs only; any, with equal chances; or faulty ones, and random ones where these are
        too few.
    seed : int
        uint32 of the choice among them: same calls and seed, same passes.
    max_passes : int, optional
        Replays after which the rest of the run stays unchecked; by default there is no end.
    folder : Path, optional
        Where the reproducer of a mismatch is written; by default ``mismatches`` in
        `brownout.cosim.cache.results_root`, or, if that cannot be written, among temporary files.

    Raises
    ------
    ValueError
        A value is out of range.
    """

    passes_per_product: int = 1
    selection: str = "faulty-first"
    seed: int = 0
    max_passes: int | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.selection not in SELECTIONS:
            raise ValueError(
                f"MixedOptions.selection must be one of {', '.join(map(repr, SELECTIONS))}, not {self.selection!r}"
            )
        _check_int("passes_per_product", self.passes_per_product, 1, PASSES_LIMIT)
        _check_int("seed", self.seed, 0, (1 << 32) - 1)
        if self.max_passes is not None:
            _check_int("max_passes", self.max_passes, 0, (1 << 63) - 1)
        if self.folder is not None and not isinstance(self.folder, Path):
            raise ValueError(f"MixedOptions.folder must be a Path or None, not {self.folder!r}")


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"MixedOptions.{name} must be an integer in {low}..{high}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of a run on the twin was replayed on the RTL.

    Attributes
    ----------
    products : int
        Number of calls of `gemm`.
    passes : int
        Passes of all of them.
    replayed : int
        Passes that the RTL has executed and that were compared.
    faulty_seen : int
        Output tiles (rows of a block by columns of a column tile) in which something erred. An error is known by its
        place in the output, not by its k-tile, so this is the least number of faulty passes.
    faulty_replayed : int
        Replayed passes in which something erred.
    mismatches : int
        Replayed passes that differed.
    rtl_cycles : int
        Cycles of all replays.
    rtl_wall_s : float
        Seconds of wall-clock time for which the RTL was busy with them.
    """

    products: int = 0
    passes: int = 0
    replayed: int = 0
    faulty_seen: int = 0
    faulty_replayed: int = 0
    mismatches: int = 0
    rtl_cycles: int = 0
    rtl_wall_s: float = 0.0

    def __str__(self) -> str:
        share = self.replayed / self.passes if self.passes else 0.0
        return (
            f"{self.products:,} products, {self.passes:,} passes; {self.replayed:,} ({share:.2g}) replayed on RTL, "
            f"{self.faulty_replayed:,} of them faulty ({self.faulty_seen:,} faulty tiles seen); "
            f"{self.mismatches:,} mismatches; {self.rtl_cycles:,} RTL cycles in {self.rtl_wall_s:.2f} s"
        )
