"""What do checksums cost, and what do they correct?

Schemes, segment widths, groups, voltages of the checks, error rates. Run ``python benchmarks/abft.py`` (needs
``brownout[bench]``); writes ``build/results/abft.json`` and ``abft.png``. All errors are injected by the twin, which is
bit-exact with the RTL; digit rows of the column checks err like rows of data.

A *setting* is a `ChecksumConfig` and the voltage of the check columns: that of the array (they err at the array's
rate), the lowest one without errors, or in the middle. For every setting, model and rate:

- ``corrected``: errors in outputs that were put right exactly, over all errors in outputs;
- ``suppressed``: marked outputs over all outputs;
- ``leftover``: outputs that are wrong and not marked (missed, or made wrong), over all errors in outputs.

Costs: ``area`` is in transistors over those of the array (processing elements alone), by Yosys; ``energy`` is the area
that switches in every cycle (check columns, sums of activations, but not what locates errors, which waits for flagged
rows), times the square of the voltage ratio, and the cycles that digit rows take in the array; ``latency`` is in cycles
of a DiT-XL/2 layer, by the exact cycle model.

Headline metrics, ``_35`` and ``_14``: at an error rate of 1e-2 (`flip`), the setting with the largest share corrected
among those whose compute energy is at most 35 or 14 % more and that meet the limits of suppressed and leftover outputs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import torch
import typer
from amaranth.hdl import Elaboratable, Signal, Value
from amaranth.lib.data import View
from amaranth.lib.wiring import Component
from tqdm import tqdm

from brownout.cosim.area import Area, area
from brownout.cosim.cache import build_root
from brownout.host import Accelerator, Protection, write_results
from brownout.host.device.power.timing import NOMINAL_FREQUENCY_HZ, DelayModel
from brownout.hw.array.row import ArrayRow
from brownout.hw.checks.check_row import CheckRow
from brownout.hw.checks.column_checker import ColumnChecker
from brownout.hw.checks.column_sums import ColumnSums
from brownout.hw.checks.corrector import Corrector
from brownout.hw.checks.double_errors import DoubleErrorLocator
from brownout.hw.checks.row_checker import RowChecker
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

mpl.use("Agg")

SIDE = 32
"""Rows and columns of the array: tiles of 32 x 32, as in DRIFT."""

SCHEMES = (("classic", 0), ("matched", 0), ("weighted", 1), ("weighted", 2), ("residue", 1), ("residue", 2))
"""With their numbers of locators."""

RATES = (1e-5, 1e-4, 1e-3, 1e-2, 5e-2)
FLIP_SHAPE = (2048, 2048, 32)
"""M, N, K. Flips are drawn for final sums, so K does not matter for them."""

CARRY_SHAPE = (512, 512, 256)
CARRY_SHARES = (0.002, 0.01, 0.05, 0.2)
"""Shares of processing elements that are slow, the others never err; the rates of wrong outputs are measured."""

CARRY_LENGTH = 28
LAYER = (1024, 1152, 1152)
HEADLINE_RATE = 1e-2
LIMITS = {35: (1e-2, 2e-3), 14: (5e-2, 1.5e-2)}
"""Energy overhead in per cent: most suppressed outputs, most leftover errors."""

SEED = 1


@dataclass(frozen=True)
class Setting:
    """A checksum configuration and where the check columns' voltage lies: 0 the array's, 1 the lowest safe one."""

    checksum: ChecksumConfig
    check_voltage: float

    @property
    def name(self) -> str:
        """Short name for tables and plots."""
        c = self.checksum
        scheme = f"{c.scheme} x{c.locators}" if c.locators else c.scheme
        scheme += " pairs" if c.pairs else ""
        group = f" H{c.group_rows}" if c.column_checks else ""
        return f"{scheme} S{c.segment_cols}{group} V{self.check_voltage:g}"


def checksums() -> Iterator[ChecksumConfig]:
    """All schemes, segment widths and groups; residues without groups locating double errors, too."""
    for scheme, locators in (
        ("classic", 0),
        ("matched", 0),
        ("weighted", 1),
        ("weighted", 2),
        ("residue", 1),
        ("residue", 2),
    ):
        for width in (8, 16, 32):
            groups: tuple[int, ...] = (32, 64, 128) if locators == 0 else (0, 32, 64, 128)
            for group in groups:
                yield ChecksumConfig(
                    scheme=scheme,
                    locators=locators,
                    segment_cols=width,
                    column_checks=group > 0,
                    group_rows=group or ChecksumConfig.group_rows,
                )
            if scheme == "residue":
                yield ChecksumConfig(
                    scheme=scheme, locators=locators, segment_cols=width, column_checks=False, pairs=True
                )


def accelerator_config(checksum: ChecksumConfig | None, timing_model: str = "none") -> AcceleratorConfig:
    """The array of this benchmark."""
    memory = MemoryConfig(bytes_per_cycle=64)
    return AcceleratorConfig(
        rows=SIDE, cols=SIDE, bus_bytes=64, drain_lanes=8, checksum=checksum, timing_model=timing_model, memory=memory
    )


def _ports(design: Elaboratable) -> list[Signal]:
    if (ports := getattr(design, "ports", None)) is not None:
        return list(ports)
    if isinstance(design, Component):
        return [Value.cast(value) for _, _, value in design.signature.flatten(design)]
    members = (value.as_value() if isinstance(value, View) else value for value in vars(design).values())
    return [value for value in members if isinstance(value, Signal) and len(value)]


def cached_area(kind: Callable[[AcceleratorConfig], Elaboratable], config: AcceleratorConfig) -> Area:
    """`area` of a unit of an accelerator, remembered: Yosys takes up to a minute."""
    sources = sorted((Path(__file__).parents[1] / "hw").rglob("*.py"))
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    state.update(json.dumps([kind.__name__, config.rtl_hash]).encode())
    path = build_root() / "area" / f"{state.hexdigest()[:16]}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        design = kind(config)
        path.write_text(json.dumps(asdict(area(design, _ports(design)))))
    return Area(**json.loads(path.read_text()))


def energy_overhead(setting: Setting, rate: float, delay_model: DelayModel) -> float:
    """Compute energy of checking over that of the product, at an array voltage that gives `rate`."""
    checksum = setting.checksum
    config = accelerator_config(checksum)
    row = cached_area(ArrayRow, accelerator_config(None)).transistors
    check = cached_area(CheckRow, config).transistors / row
    sums = cached_area(ColumnSums, config).transistors / (SIDE * row) if checksum.column_checks else 0.0
    array_v = delay_model.voltage_at_rate(rate)
    check_v = array_v + setting.check_voltage * (delay_model.voltage_at_rate(0) - array_v)
    digits = checksum.digits / checksum.group_rows if checksum.column_checks else 0.0
    return digits + (1 + digits) * (check * (check_v / array_v) ** 2 + sums)


def check_rate(setting: Setting, rate: float, delay_model: DelayModel) -> float:
    """Error rate of the check columns' sums."""
    array_v = delay_model.voltage_at_rate(rate)
    return delay_model.error_rate(
        array_v + setting.check_voltage * (delay_model.voltage_at_rate(0) - array_v), NOMINAL_FREQUENCY_HZ
    )


def _shares(accelerator: Accelerator, a: torch.Tensor, w: torch.Tensor, clean: torch.Tensor) -> dict[str, float]:
    located = Protection(correct=False, on_uncorrectable="keep", log_records=0)
    erring = accelerator.gemm(a, w, protection=located) != clean
    accelerator.reset_stats()
    left = accelerator.gemm(a, w, protection=Protection(on_uncorrectable="keep", log_records=0)) != clean
    stats = accelerator.stats
    errors = max(1, int(erring.sum()))
    return {
        "errors": int(erring.sum()),
        "output_rate": float(erring.float().mean()),
        "corrected": float((erring & ~left).sum()) / errors,
        "suppressed": stats["suppressed"] / clean.numel(),
        "leftover": (stats["missed"] + stats["wrong"]) / errors,
    }


def _operands(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    m, n, k = shape
    generator = torch.Generator().manual_seed(SEED)
    # Rounded normal numbers, as quantised layers have them; uniform ones are rarer near zero than any layer's.
    a, w = (
        (torch.randn(*size, generator=generator) * 25).round().clamp(-128, 127).to(torch.int8)
        for size in ((m, k), (k, n))
    )
    return a, w, (a.int() @ w.int())


def measure_flip(settings: list[Setting], delay_model: DelayModel) -> list[dict[str, Any]]:
    """Shares of every setting at every rate."""
    a, w, clean = _operands(FLIP_SHAPE)
    rows = []
    for setting in tqdm(settings, desc="flip", unit="setting"):
        config = accelerator_config(setting.checksum, "flip")
        with Accelerator(config, backend="twin") as accelerator:
            for rate in RATES:
                accelerator.set_error_rate(rate, seed=SEED, check_rate=check_rate(setting, rate, delay_model))
                shares = _shares(accelerator, a, w, clean)
                energy = energy_overhead(setting, rate, delay_model)
                rows.append({"setting": setting.name, "model": "flip", "rate": rate, "energy": energy, **shares})
    return rows


def measure_carry(settings: list[Setting]) -> list[dict[str, Any]]:
    """Shares of every setting with late carries in a share of the processing elements.

    Check columns at the array's voltage have the same share of slow elements, at the safe voltage none.
    """
    a, w, clean = _operands(CARRY_SHAPE)
    rows = []
    for setting in tqdm(settings, desc="carry", unit="setting"):
        config = accelerator_config(setting.checksum, "carry")
        with Accelerator(config, backend="twin") as accelerator:
            for share in CARRY_SHARES:
                generator = torch.Generator().manual_seed(SEED)
                drawn = torch.rand(SIDE, SIDE + len(config.check_columns), generator=generator)
                limits = torch.full((drawn.shape[1],), share)
                limits[SIDE:] *= 1 - setting.check_voltage
                lengths = torch.where(drawn < limits, CARRY_LENGTH, 63).to(torch.uint8).numpy()
                accelerator.set_carry_lengths(lengths)
                shares = _shares(accelerator, a, w, clean)
                rows.append({"setting": setting.name, "model": "carry", "slow_share": share, **shares})
    return rows


def latency_overhead(checksum: ChecksumConfig) -> float:
    """Cycles of a layer with checks over those without, on accelerators with and without the units."""
    m, n, k = LAYER
    a, w = torch.zeros(m, k, dtype=torch.int8), torch.zeros(k, n, dtype=torch.int8)
    cycles = []
    for units in (None, checksum):
        with Accelerator(accelerator_config(units), backend="twin") as accelerator:
            accelerator.gemm(a, w, protection=None if units is None else Protection(on_uncorrectable="keep"))
            cycles.append(accelerator.stats["cycles"])
    return cycles[1] / cycles[0] - 1


def double_error_locator(config: AcceleratorConfig) -> DoubleErrorLocator:
    """That of one segment."""
    return DoubleErrorLocator(config, 0)


def whole_area(checksum: ChecksumConfig) -> float:
    """Transistors of all checksum units over those of the processing elements; memories apart.

    Double errors add their locators to the units without; what the corrector needs to apply what they find, some
    hundredths of it, is not counted, because Yosys takes too long to map all of it at once.
    """
    plain, config = accelerator_config(None), accelerator_config(replace(checksum, pairs=False))
    kinds: list[Callable[[AcceleratorConfig], Elaboratable]] = [RowChecker, Corrector]
    if checksum.column_checks:
        kinds += [ColumnChecker, ColumnSums]
    units = SIDE * cached_area(CheckRow, config).transistors
    units += sum(cached_area(kind, config).transistors for kind in kinds)
    if checksum.pairs:
        units += len(config.segments) * cached_area(double_error_locator, accelerator_config(checksum)).transistors
    return units / (SIDE * cached_area(ArrayRow, plain).transistors)


def pareto(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of which no other has less energy and at least as large a share corrected, in order of energy."""
    front: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["energy"], -row["corrected"])):
        if not front or row["corrected"] > front[-1]["corrected"]:
            front.append(row)
    return front


def headline(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The metrics of the issue, and which setting they are of."""
    found: dict[str, float] = {}
    for percent, (most_suppressed, most_leftover) in LIMITS.items():
        fit = [row for row in rows if row["energy"] <= percent / 100]
        good = [row for row in fit if row["suppressed"] <= most_suppressed and row["leftover"] <= most_leftover]
        best = max(good or fit, key=lambda row: (row["corrected"], -row["leftover"], -row["energy"]))
        found[f"corrected_share_{percent}"] = best["corrected"]
        found[f"suppressed_fraction_{percent}"] = best["suppressed"]
        found[f"leftover_share_{percent}"] = best["leftover"]
        found[f"energy_overhead_{percent}"] = best["energy"]
        best["headline"] = percent
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Energy against share corrected at the headline rate; the front is a line."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for scheme in sorted({row["setting"].split(" S")[0] for row in rows}):
        chosen = [row for row in rows if row["setting"].split(" S")[0] == scheme]
        axes.scatter([row["energy"] for row in chosen], [row["corrected"] for row in chosen], s=14, label=scheme)
    front = pareto(rows)
    axes.step([row["energy"] for row in front], [row["corrected"] for row in front], where="post", lw=1, color="0.3")
    axes.set(
        xlabel="compute-energy overhead", ylabel=f"errors corrected exactly at rate {HEADLINE_RATE:g}", xlim=(0, None)
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(
    quick: Annotated[bool, typer.Option(help="segments of 16 columns only")] = False,
    all_areas: Annotated[bool, typer.Option(help="area of every setting, not of the front only (an hour)")] = False,
) -> None:
    """Measure, print and write the results."""
    delay_model = DelayModel()
    settings = [
        Setting(checksum, voltage)
        for checksum, voltage in itertools.product(checksums(), (0.0, 0.5, 1.0))
        if not quick or checksum.segment_cols == 16
    ]
    rows = measure_flip(settings, delay_model)
    rows += measure_carry([setting for setting in settings if setting.check_voltage != 0.5])
    at_rate = [row for row in rows if row.get("rate") == HEADLINE_RATE]
    metrics: dict[str, float] = headline(at_rate)
    front = pareto(at_rate)
    by_name = {setting.name: setting.checksum for setting in settings}
    wanted = {row["setting"] for row in at_rate if all_areas or row in front or "headline" in row}
    areas = {name: whole_area(by_name[name]) for name in tqdm(sorted(wanted), desc="area", unit="setting")}
    latencies = {checksum: latency_overhead(checksum) for checksum in {by_name[row["setting"]] for row in at_rate}}
    for row in at_rate:
        row["latency"] = latencies[by_name[row["setting"]]]
        if row["setting"] in areas:
            row["area"] = areas[row["setting"]]
    for row in at_rate:
        if "headline" in row:
            metrics[f"area_overhead_{row['headline']}"] = row["area"]
            metrics[f"latency_overhead_{row['headline']}"] = row["latency"]
            print(f"{row['headline']} %: {row['setting']}")
    metrics["settings"] = len(settings)
    config = {**accelerator_config(None).to_dict(), "rows_measured": rows, "front": [row["setting"] for row in front]}
    path = write_results("abft", metrics, config=config)
    plot(at_rate, path.with_suffix(".png"))
    for name, value in metrics.items():
        print(f"{name:24} {value:.4g}")
    for row in front:
        print(
            f"{row['setting']:28} energy {row['energy']:.3f} corrected {row['corrected']:.4f} suppressed "
            f"{row['suppressed']:.5f} leftover {row['leftover']:.5f} area {row['area']:.3f} "
            f"latency {row['latency']:.3f}"
        )
    print(path)


if __name__ == "__main__":
    typer.run(main)
