"""Constants of memory on the chip."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

import brownout.host.device.power.sram
from brownout.host.device.power.sram import CELLS, PORTS, REFERENCE_SRAM, Sram, cacti

KIB, MIB = 1 << 10, 1 << 20

TABLE = Path(brownout.host.device.power.sram.__file__).parent / "data" / "sram.csv"
ROWS = list(csv.DictReader(line for line in TABLE.read_text().splitlines() if not line.startswith("#")))

# Picojoules of a read of 16 bytes and milliwatts, of CACTI 7 run by hand: 22 nm, one port, high performance.
BY_HAND = {32 * KIB: (6.10498, 10.441), 256 * KIB: (18.9589, 77.1125), MIB: (36.4072, 308.45)}


@pytest.mark.parametrize("size", BY_HAND)
def test_it_is_what_cacti_says(size):
    sram, (read_pj, leakage_mw) = cacti(size, 16), BY_HAND[size]
    assert sram.read_byte_j * 16 == pytest.approx(read_pj * 1e-12, rel=1e-5)
    assert sram.leakage_w_per_byte * size == pytest.approx(leakage_mw * 1e-3, rel=1e-5)


def test_the_table_has_every_size_with_every_port():
    keys = {(row["size_bytes"], row["port_bits"], row["ports"], row["cells"]) for row in ROWS}
    assert len(keys) == len(ROWS) == 10 * 5 * len(PORTS) * len(CELLS)


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("ports", PORTS)
def test_points_of_the_table_are_met(cells, ports):
    for row in ROWS:
        if (row["cells"], row["ports"]) == (cells, ports):
            size, port = int(row["size_bytes"]), int(row["port_bits"]) // 8
            sram = cacti(size, port, cells, ports)
            assert sram.read_byte_j * port == pytest.approx(float(row["read_j"]), rel=1e-12)
            assert sram.write_byte_j * port == pytest.approx(float(row["write_j"]), rel=1e-12)
            assert sram.leakage_w_per_byte * size == pytest.approx(float(row["leakage_w"]), rel=1e-12)


def test_halfway_between_points_is_their_geometric_mean():
    corners = [cacti(size, port) for size in (64 * KIB, 128 * KIB) for port in (32, 64)]
    middle = cacti(64 * KIB * math.sqrt(2), 32 * math.sqrt(2))
    assert middle.read_byte_j == pytest.approx(math.prod(each.read_byte_j for each in corners) ** 0.25, rel=1e-12)


def test_cells_for_low_standby_power_leak_hundreds_of_times_less():
    assert 300 < cacti(MIB, 16).leakage_w_per_byte / cacti(MIB, 16, "lstp").leakage_w_per_byte < 3000


def test_the_reference_is_one_picojoule_and_a_tenth_of_the_leakage():
    assert REFERENCE_SRAM.read_byte_j == REFERENCE_SRAM.write_byte_j == 1e-12
    assert REFERENCE_SRAM.leakage_w_per_byte * MIB == pytest.approx(0.03)
    assert REFERENCE_SRAM.leakage_w_per_byte == pytest.approx(cacti(MIB, 16).leakage_w_per_byte / 10, rel=0.03)


@pytest.mark.parametrize("size", [8 * KIB - 1, 4 * MIB + 1, 0, math.nan])
def test_a_size_outside_of_the_table_is_refused(size):
    with pytest.raises(ValueError, match=f"^size_bytes must be in 8192..4194304, where the table is, not {size!r}$"):
        cacti(size, 16)


@pytest.mark.parametrize("port", [7, 129])
def test_a_port_outside_of_the_table_is_refused(port):
    with pytest.raises(ValueError, match=f"^port_bytes must be in 8..128, where the table is, not {port}$"):
        cacti(MIB, port)


def test_other_cells_and_ports_are_refused():
    with pytest.raises(ValueError, match=r"^cells must be 'hp', 'lop', 'lstp', not 'itrs-hp'$"):
        cacti(MIB, 16, "itrs-hp")
    with pytest.raises(ValueError, match=r"^ports must be '1rw', '1r1w', not '2rw'$"):
        cacti(MIB, 16, ports="2rw")


@pytest.mark.parametrize("field", ["read_byte_j", "write_byte_j", "leakage_w_per_byte"])
@pytest.mark.parametrize("value", [-1e-12, math.nan, math.inf])
def test_constants_that_cannot_be_are_refused(field, value):
    values = {"read_byte_j": 1e-12, "write_byte_j": 1e-12, "leakage_w_per_byte": 1e-8, field: value}
    with pytest.raises(ValueError, match=f"^Sram.{field} must be finite and not negative, but is {value!r}$"):
        Sram(name="own", **values)
