"""Energy constants of DRAM: from published energies and currents to ``host/device/power/data/dram.csv``.

Run ``python benchmarks/dram_energy.py`` (a second); writes that table and ``build/results/dram_energy.json``. Every
input stands below with its source.

Currents become energies by the usual differences (Micron TN-41-01), summed over supplies: a row costs
V (IDD0 tRC - IDD3N tRAS - IDD2N tRP), a byte V (IDD4R - IDD3N) over the bytes per second, and always there are V IDD3N
and, for tRFC out of every tREFI, V (IDD5 - IDD3N). A byte is one that is read; ``NAME_written_byte_j`` is what the
device alone takes to write it, without the driver at the other end.

- Data sheets state maxima over process, temperature and voltage. Real devices take less (Ghose et al., "What Your DRAM
  Power Models Are Not Telling You", SIGMETRICS 2018, for DDR3L): LPDDR is an upper estimate, HBM is not one.
- A row's energy is a small difference of large numbers: 5 % more IDD0 make it a sixth more.
- Output drivers are in, from the current of VDDQ. The PHY of the accelerator is not, whatever the memory.
- ``hbm2_measured_*``: the HBM2 that the HBM3 currents are extrapolated from, at 1.2 Gb/s, with random data. Compare
  HBM3 with that: the energies of ``hbm2`` are of an older model, of data that toggle less.
- ``h200_byte_j``: measured, reading 128 bytes of each row that is opened (HBM3E of three H200, power of the memory over
  idle). ``hbm3_in_h200_byte_j``: what the table's ``hbm3`` makes of that.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from brownout.host import write_results

TABLE = Path(__file__).parents[1] / "host" / "device" / "power" / "data" / "dram.csv"

COLUMNS = ("name", "byte_j", "row_j_per_byte", "background_w_per_gb_s", "source")


@dataclass(frozen=True, kw_only=True)
class Supply:
    """Voltage in volts and currents in milliamperes by their JEDEC names, IDD3N with one bank open."""

    voltage_v: float
    idd0: float = 0.0
    idd2n: float = 0.0
    idd3n: float = 0.0
    idd4r: float = 0.0
    idd4w: float = 0.0
    idd5: float = 0.0

    def __post_init__(self) -> None:
        # A supply whose current a data sheet leaves out in a state is taken to draw what it draws with a bank open.
        for name in ("idd0", "idd2n", "idd5"):
            if not getattr(self, name):
                object.__setattr__(self, name, self.idd3n)


@dataclass(frozen=True, kw_only=True)
class Device:
    """A memory device, or a part of one that has currents of its own.

    Attributes
    ----------
    supplies : tuple of Supply
    bytes_per_s : float
        Peak, at which IDD4R and IDD4W are stated.
    row_bytes : int
        Bytes of rows that are opened every tRC while IDD0 is drawn.
    ras_ns, rp_ns, rfc_ns, refi_ns : float
        Timing.
    data_factor : float
        Energy of a burst of random data over that at which IDD4R and IDD4W are stated.
    """

    supplies: tuple[Supply, ...]
    bytes_per_s: float
    row_bytes: int
    ras_ns: float
    rp_ns: float
    rfc_ns: float
    refi_ns: float
    data_factor: float = 1.0

    @property
    def byte_j(self) -> float:
        """Reading a byte of an open row."""
        return (
            self.data_factor * sum(s.voltage_v * (s.idd4r - s.idd3n) for s in self.supplies) * 1e-3 / self.bytes_per_s
        )

    @property
    def written_byte_j(self) -> float:
        """Writing a byte of an open row."""
        return (
            self.data_factor * sum(s.voltage_v * (s.idd4w - s.idd3n) for s in self.supplies) * 1e-3 / self.bytes_per_s
        )

    @property
    def row_j_per_byte(self) -> float:
        """Opening and closing a row, per byte of it."""
        picojoules = sum(
            s.voltage_v * (s.idd0 * (self.ras_ns + self.rp_ns) - s.idd3n * self.ras_ns - s.idd2n * self.rp_ns)
            for s in self.supplies
        )
        return picojoules * 1e-12 / self.row_bytes

    @property
    def background_w_per_gb_s(self) -> float:
        """Standby with a bank open, and refresh, per GB/s of peak bandwidth."""
        refreshing = self.rfc_ns / self.refi_ns
        watts = sum(s.voltage_v * (s.idd3n + (s.idd5 - s.idd3n) * refreshing) for s in self.supplies) * 1e-3
        return watts / (self.bytes_per_s / 1e9)


# O'Connor et al., "Fine-Grained DRAM: Energy-Efficient DRAM for Extreme Bandwidth Systems", MICRO 2017,
# doi 10.1145/3123939.3124545: an access to HBM2 takes 3.92 pJ/bit, ECC included, with the average of 1.21 pJ/bit of row
# activation; opening 1 KiB takes 909 pJ. What is left, 2.71 pJ/bit, is movement on the die and I/O at the activity of
# GPU workloads; their table 3 has 3.48 for bits that toggle half the time.
HBM2_BIT_PJ, HBM2_BIT_ACTIVATION_PJ, HBM2_ROW_PJ, HBM2_ROW_BYTES = 3.92, 1.21, 909.0, 1024

AYNA = (
    "Olgun et al., Understanding the Power Consumption of Modern High Bandwidth Memory, MICRO 2026 "
    "(github.com/CMU-SAFARI/HBM-Power at 318d3d1f)"
)
AYNA_RANDOM = (3.1798 + 0.5 * (1.0400 + 1.4875 + 1.4100)) / 3.1798
"""Random data over constant data: ``datapattern`` in config/HBM3E_6400MTs/power.json there, and the same of HBM2."""

# config/HBM2_1200MTs there: per pseudo channel of 64 bits, from 36 stacks; 2 transfers in a clock of 1666.7 ps.
HBM2_MEASURED = Device(
    supplies=(
        Supply(voltage_v=1.2, idd0=28.544, idd2n=11.756, idd3n=12.394, idd4r=202.769, idd4w=137.406, idd5=66.331),
    ),
    bytes_per_s=8 * 2 / 1.6667e-9,
    row_bytes=1024,
    ras_ns=20 * 1.6667,
    rp_ns=9 * 1.6667,
    rfc_ns=210 * 1.6667,
    refi_ns=2340 * 1.6667,
    data_factor=AYNA_RANDOM,
)

# config/HBM3E_6400MTs there: per pseudo channel of 32 bits at 6.4 Gb/s, clock 625 ps, 32 columns of 32 bytes.
HBM3 = Device(
    supplies=(Supply(voltage_v=1.1, idd0=106.1, idd2n=70.5, idd3n=71.2, idd4r=560.7, idd4w=389.5, idd5=164.7),),
    bytes_per_s=4 * 6.4e9,
    row_bytes=1024,
    ras_ns=45 * 0.625,
    rp_ns=26 * 0.625,
    rfc_ns=560 * 0.625,
    refi_ns=6240 * 0.625,
    data_factor=AYNA_RANDOM,
)

# data/HBM3E_measurements.csv there (branch artifact, c8381f74): watts in all, watts idle, GB/s read.
H200 = ((255.22, 44.95, 4523.3), (247.75, 35.55, 4520.6), (241.71, 34.75, 4517.3))
H200_BYTES_PER_ROW = 128
"""Four bursts of 32 bytes: case_studies/hbm3e_validation there."""

# Currents and timing (clock 625 ps) of configs/memspec/JEDEC_8Gb_LPDDR4-3200_16bit.json of
# github.com/tukl-msd/DRAMSys at 21079661, which are those of MICRON_6Gb_LPDDR4-3200_32bit_A.json beside it. They are
# taken to be of a die with two channels of 16 bits and a row of 2 KiB open in each: 150 mA of VDDQ are what 32 pins
# draw that are high half the time, at VDDQ/3 over 40 ohms (147 mA).
LPDDR4X_DRIVER = (0.6 / 2) / (1.1 / 3)
"""LPDDR4X has a VDDQ of 0.6 V and outputs of VDDQ/2 in place of 1.1 V and VDDQ/3, over the same ohms (JESD209-4-1)."""

LPDDR4X = Device(
    supplies=(
        Supply(voltage_v=1.8, idd0=3.5, idd2n=2.0, idd3n=2.25, idd4r=2.25, idd4w=2.25, idd5=10.0),
        Supply(voltage_v=1.1, idd0=45.0, idd2n=27.0, idd3n=30.0, idd4r=275.0, idd4w=210.0, idd5=90.0),
        Supply(voltage_v=0.6, idd3n=0.75, idd4r=150.0 * LPDDR4X_DRIVER, idd4w=55.0 * LPDDR4X_DRIVER),
    ),
    bytes_per_s=4 * 3.2e9,
    row_bytes=2 * 2048,
    ras_ns=68 * 0.625,
    rp_ns=29 * 0.625,
    rfc_ns=448 * 0.625,
    refi_ns=6246 * 0.625,
)

# Micron Y52P LPDDR5X SDRAM (MT62F1G32D2 and others; 315b-441b-561b-563b-y52p-sdp-ddp-qdp-8dp-lpddr5x.pdf, Rev. H
# 03/2025), table 18, x16 at 7500 Mb/s, 16 Gb, tRFC of table 6; as read in external/ramulator/src/dram/pimid_energy.h of
# github.com/isaacyhe/PIMID at 0465dce6. tRAS, tRP and the row of 2 KiB: LPDDR5_5500_1x16_BG_BL32 in
# src/mem/DRAMInterface.py of github.com/gem5/gem5 at b1a44b89; tREFI: JESD209-5.
LPDDR5 = Device(
    supplies=(
        Supply(voltage_v=1.8, idd0=3.8, idd2n=1.5, idd3n=2.8, idd4r=18.0, idd4w=16.5),
        Supply(voltage_v=1.05, idd0=53.0, idd2n=32.5, idd3n=40.0, idd4r=390.0, idd4w=265.0, idd5=205.0),
        Supply(voltage_v=0.5, idd3n=0.6, idd4r=111.9, idd4w=0.6),
    ),
    bytes_per_s=2 * 7.5e9,
    row_bytes=2048,
    ras_ns=42.0,
    rp_ns=18.0,
    rfc_ns=280.0,
    refi_ns=3906.0,
)

DERIVED = {"hbm3": HBM3, "lpddr4x": LPDDR4X, "lpddr5": LPDDR5}

SOURCES = {
    "hbm2": (
        "O'Connor et al., Fine-Grained DRAM, MICRO 2017: 3.92 pJ/bit less 1.21 for activation, 909 pJ for 1 KiB. "
        f"Background: {AYNA}, at 1.2 Gb/s, whose measured reads of random data take nearly twice the energy."
    ),
    "hbm3": (
        f"{AYNA}: currents at 6.4 Gb/s extrapolated from measured HBM2, no vendor's; random data. Within 3 % of "
        "measured random reads of HBM3E (H200), rows and bytes together; a row alone may take half (HBM2's at 1.1 V)."
    ),
    "lpddr4x": (
        "DRAMSys memspec JEDEC_8Gb_LPDDR4-3200_16bit (github.com/tukl-msd/DRAMSys at 21079661), taken as maxima of a "
        "die with two channels, VDDQ of LPDDR4X; twice all three if they are of one channel."
    ),
    "lpddr5": (
        "Micron Y52P LPDDR5X data sheet Rev. H at 7500 Mb/s, maxima, as read in github.com/isaacyhe/PIMID at 0465dce6; "
        "timing of gem5. Typical devices take less."
    ),
}


def constants() -> dict[str, tuple[float, float, float]]:
    """Joules per byte, joules per byte of an opened row and background watts per GB/s of each memory."""
    hbm2 = (
        (HBM2_BIT_PJ - HBM2_BIT_ACTIVATION_PJ) * 8e-12,
        HBM2_ROW_PJ * 1e-12 / HBM2_ROW_BYTES,
        HBM2_MEASURED.background_w_per_gb_s,
    )
    derived = {name: (d.byte_j, d.row_j_per_byte, d.background_w_per_gb_s) for name, d in DERIVED.items()}
    return {"hbm2": hbm2, **derived}


def table() -> str:
    """Text of ``dram.csv``."""
    text = io.StringIO()
    text.write(
        "# Made by benchmarks/dram_energy.py, which has the inputs. GB/s are 1e9 bytes per second, at their peak.\n"
    )
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, values in constants().items():
        writer.writerow([name, *(f"{value:.6g}" for value in values), SOURCES[name]])
    return text.getvalue()


def main() -> None:
    """Compute, print and write the table and the results."""
    TABLE.write_text(table())
    metrics: dict[str, float] = {}
    for name, (byte_j, row_j_per_byte, background) in constants().items():
        metrics |= {
            f"{name}_byte_j": byte_j,
            f"{name}_row_j_per_byte": row_j_per_byte,
            f"{name}_background_w_per_gb_s": background,
        }
        print(
            f"{name}: {byte_j * 1e12:.2f} pJ/byte ({byte_j / 8e-12:.2f} pJ/bit), "
            f"a row {row_j_per_byte * 1e12:.3f} pJ/byte, background {background * 1e3:.2f} mW per GB/s"
        )
    for name, device in {**DERIVED, "hbm2_measured": HBM2_MEASURED}.items():
        metrics[f"{name}_written_byte_j"] = device.written_byte_j
    metrics["hbm2_measured_byte_j"] = HBM2_MEASURED.byte_j
    metrics["hbm2_measured_row_j_per_byte"] = HBM2_MEASURED.row_j_per_byte
    metrics["h200_byte_j"] = mean((watts - idle) / (rate * 1e9) for watts, idle, rate in H200)
    opened = HBM3.row_bytes / H200_BYTES_PER_ROW
    metrics["hbm3_in_h200_byte_j"] = HBM3.byte_j + opened * HBM3.row_j_per_byte
    print(TABLE, write_results("dram_energy", metrics), sep="\n")


if __name__ == "__main__":
    main()
