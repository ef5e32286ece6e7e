"""Tables of energy constants are what their benchmarks make."""

from __future__ import annotations

import pytest


def test_the_table_of_dram_is_what_the_benchmark_writes(benchmark_module):
    benchmark = benchmark_module("dram_energy")
    assert benchmark.TABLE.read_text() == benchmark.table()


def test_a_supply_that_draws_the_same_in_all_states_opens_rows_for_nothing(benchmark_module):
    benchmark = benchmark_module("dram_energy")
    device = benchmark.Device(
        supplies=(benchmark.Supply(voltage_v=1.0, idd3n=10.0, idd4r=110.0, idd4w=60.0),),
        bytes_per_s=1e9,
        row_bytes=1024,
        ras_ns=40.0,
        rp_ns=20.0,
        rfc_ns=300.0,
        refi_ns=3000.0,
    )
    assert device.row_j_per_byte == 0
    assert device.byte_j == pytest.approx(100e-12)
    assert device.written_byte_j == pytest.approx(50e-12)
    assert device.background_w_per_gb_s == pytest.approx(10e-3)


def test_settings_replace_those_of_the_template_but_not_its_comments(benchmark_module):
    benchmark = benchmark_module("sram_energy")
    template = '//-size (bytes) 64\n-size (bytes) 16384\n-Data array cell type - "itrs-hp"\n-Add ECC - "true"\n'
    lines = benchmark.configuration(template, benchmark.settings(benchmark.Memory(8192, 64, "1r1w", "lstp"))).split(
        "\n"
    )
    assert lines[:2] == ["//-size (bytes) 64", '-Add ECC - "true"']
    assert {"-size (bytes) 8192", '-Data array cell type - "itrs-lstp"', "-exclusive write port 1"} <= set(lines)
    assert sum(line.startswith("-size") for line in lines) == 1


def test_energies_and_leakage_are_read_from_a_report(benchmark_module):
    report = (
        "Tech node (nm), Dynamic read energy (nJ), Dynamic write energy (nJ), Standby leakage per bank(mW), \n"
        "22, 0.00610498, 0.00698893, 10.441, \n"
    )
    found = benchmark_module("sram_energy").parse(report)
    assert found == pytest.approx({"read_j": 6.10498e-12, "write_j": 6.98893e-12, "leakage_w": 10.441e-3})
