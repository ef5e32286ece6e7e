"""Operating points, protection and log through `Accelerator`, on the twin and on a stand-in for the simulator."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from brownout.host import Accelerator, DelayModel, Protection
from brownout.host.device.backends.rtl import RtlBackend
from brownout.host.device.power.check_prices import (
    check_column_price,
    check_share,
    column_sums_price,
    syndrome_bits,
)
from brownout.host.device.power.energy import EnergyModel, check_work
from brownout.host.device.power.leakage import Leakage
from brownout.host.device.power.regulators import IDEAL
from brownout.host.device.power.timing import NOMINAL_FREQUENCY_HZ, error_rate_of_delay
from brownout.host.device.product.operands import GemmShape
from brownout.host.device.product.protection import LogRecord, Outcome, parse_log
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

from .fake_simulator import FakeSimulator


def exactly(message):
    return f"^{re.escape(message)}$"


def small(model="flip", **fields):
    checksum = ChecksumConfig(scheme="residue", group_rows=4, segment_cols=4)
    settings = {"checksum": checksum, "voltage_domains": 2, "operating_points": 3, **fields}
    return AcceleratorConfig(
        rows=4,
        cols=4,
        block_rows=8,
        block_col_tiles=2,
        slab_bytes=8,
        timing_model=model,
        memory=MemoryConfig(size_bytes=1 << 20),
        **settings,
    )


def on_fake(config, **settings):
    simulator = FakeSimulator(config)
    return Accelerator(config, backend=RtlBackend(config, lambda: simulator, deadline_s=1), **settings)


def random_int8(generator, *shape):
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)


@pytest.fixture
def pair():
    def make(config, **settings):
        return Accelerator(config, backend="twin", **settings), on_fake(config, **settings)

    return make


COMPARED = (
    *("checks", "detected", "corrected", "suppressed", "suppressed_unwritten", "reloaded"),
    *("log_records", "log_dropped"),
)
TRUTH = ("injected", "missed", "wrong")


@pytest.mark.parametrize("model", ["flip", "carry"])
@pytest.mark.parametrize("on_uncorrectable", ["suppress", "reload", "zero", "keep"])
def test_commands_bring_the_hardware_to_the_state_of_the_twin(pair, generator, model, on_uncorrectable):
    config = small(model)
    twin, rtl = pair(config, protection=Protection(on_uncorrectable=on_uncorrectable, log_records=20))
    results = []
    for accelerator in (twin, rtl):
        state = torch.Generator().manual_seed(1)
        with accelerator:
            found = []
            slot = accelerator.new_slot(2, 9, 11)
            checkpoint = accelerator.new_slot(2, 9, 11) if on_uncorrectable == "reload" else None
            for step in range(4):
                if step == 1 and model == "flip":
                    accelerator.set_error_rate(0.05, seed=7, check_rate=0.01)
                if step == 1 and model == "carry":
                    accelerator.set_operating_point(voltage_v=0.76)
                if step == 2:
                    accelerator.set_operating_point(voltage_v=0.62, domain=1, seed=9)
                if step == 3:
                    # A restarted device is brought back to its operating points.
                    accelerator.restart()
                a, w = random_int8(state, 2, 9, 13), random_int8(state, 2, 13, 11)
                w = accelerator.upload(w) if step % 2 else w
                accelerator.gemm(a, w, out=slot, checkpoint=checkpoint, error_key=step, first_row=3, first_col=8)
                stats, log = accelerator.stats, accelerator.last_log
                if checkpoint is not None and step == 1:
                    accelerator.copy(slot, checkpoint)
                found.append((slot.clone(), log, {name: stats[name] for name in COMPARED + TRUTH}))
            results.append(found)
    for step, (expected, got) in enumerate(zip(*results, strict=True)):
        assert torch.equal(expected[0], got[0]), step
        assert expected[1:] == got[1:], step
    final = results[0][2][2]
    assert final["injected"] > 0
    assert final["detected"] > 0
    assert results[0][0][2]["injected"] == 0


def test_protection_restores_the_clean_product(generator):
    config = small(checksum=ChecksumConfig(scheme="residue", locators=2, column_checks=False, segment_cols=4))
    a, w = random_int8(generator, 64, 40), random_int8(generator, 40, 64)
    with Accelerator(config, backend="twin") as accelerator:
        clean = accelerator.gemm(a, w)
        accelerator.set_error_rate(2e-3, seed=3)
        wrong = accelerator.gemm(a, w)
        slot = clean.clone()
        protected = accelerator.gemm(a, w, out=slot, protection=Protection(on_uncorrectable="suppress"))
        assert not torch.equal(wrong, clean)
        assert torch.equal(protected, clean)
        differing = {(int(row), int(col)) for row, col in (wrong != clean).nonzero()}
        assert {
            (r.row, r.col + r.position) for r in accelerator.last_log if r.outcome == Outcome.CORRECTED
        } <= differing
        assert all(abs(record.syndrome) >= 1 for record in accelerator.last_log)
        assert accelerator.stats["injected"] == 2 * len(differing)


def test_a_piece_of_a_product_has_the_errors_of_the_whole(generator):
    config = small()
    a, w = random_int8(generator, 32, 20), random_int8(generator, 20, 24)
    with Accelerator(config, backend="twin") as accelerator:
        accelerator.set_error_rate(0.05, seed=11)
        whole = accelerator.gemm(a, w, error_key=5)
        piece = accelerator.gemm(a[8:], w[:, 4:], error_key=5, first_row=8, first_col=4)
        assert torch.equal(piece, whole[8:, 4:])
        assert not torch.equal(accelerator.gemm(a, w, error_key=6), whole)


def test_unwritten_slots_are_zero_and_counted_once(generator):
    a, w = random_int8(generator, 16, 8), random_int8(generator, 8, 8)
    protection = Protection(correct=False, on_uncorrectable="suppress")
    with Accelerator(small(), backend="twin", protection=protection) as accelerator:
        accelerator.set_error_rate(0.02, seed=2)
        slot = accelerator.new_slot(16, 8)
        accelerator.gemm(a, w, out=slot)
        first = accelerator.stats["suppressed"]
        assert first > 0
        assert int((slot == 0).sum()) >= first
        assert accelerator.stats["suppressed_unwritten"] == first
        accelerator.gemm(a, w, out=slot)
        assert accelerator.stats["suppressed_unwritten"] == first
        accelerator.gemm(a, w, out=torch.zeros(16, 8, dtype=torch.int32))
        assert accelerator.stats["suppressed_unwritten"] == first
        accelerator.reset_stats()
        assert accelerator.stats["suppressed_unwritten"] == 0


def test_rates_follow_the_published_points():
    delay_model = DelayModel()
    assert delay_model.error_rate(0.85, 2e9) == 0
    assert delay_model.error_rate(0.9, 1.116 * NOMINAL_FREQUENCY_HZ) == 0
    assert delay_model.error_rate(0.9, 2.25e9) == pytest.approx(1e-6)
    assert delay_model.error_rate(0.68, 2e9) == pytest.approx(2.4e-3)
    assert delay_model.error_rate(0.60, 2e9) == pytest.approx(4.6e-2)
    assert error_rate_of_delay(1.7201) == pytest.approx(np.sqrt(8.5e-4 * 2.4e-3), rel=2e-3)
    # Published overclock points, within the 1 % in delay that the table is said to predict them.
    for frequency, rate in ((2.30e9, 1e-5), (2.53e9, 1e-4), (2.93e9, 3e-4), (3.37e9, 1e-3), (3.57e9, 3e-3)):
        near = [delay_model.error_rate(0.9, frequency * factor) for factor in (0.99, 1.01)]
        assert near[0] <= rate <= near[1], frequency


def test_delays_of_both_laws_agree_roughly():
    for voltage in (0.85, 0.76, 0.68, 0.60):
        table, delay_model = (DelayModel(delay=delay).delay_at(voltage) for delay in ("table", "alpha-power"))
        assert delay_model == pytest.approx(table, rel=0.08)


@pytest.mark.parametrize("carry", ["linear", "prefix"])
def test_lengths_shrink_with_voltage_and_clock_and_are_safe_at_the_nominal_point(carry):
    config = small("carry", checksum=ChecksumConfig(scheme="weighted", group_rows=4, segment_cols=4))
    delay_model = DelayModel(carry=carry, process_seed=4)
    assert (delay_model.lengths(config, 0.9, 2e9) == 63).all()
    levels = [delay_model.lengths(config, voltage, 2e9).astype(int) for voltage in (0.9, 0.8, 0.7, 0.6)]
    for higher, lower in pairwise(levels):
        assert (lower <= higher).all()
    assert levels[-1].max() < 31
    assert np.unique(levels[-1]).size > 1
    overclocked = delay_model.lengths(config, 0.9, 2e9 * delay_model.delay_at(0.7))
    assert np.array_equal(overclocked, delay_model.lengths(config, 0.7, 2e9))
    assert not np.array_equal(DelayModel(carry=carry, process_seed=5).lengths(config, 0.7, 2e9), overclocked)
    even = DelayModel(carry=carry, variation=0.0).lengths(config, 0.7, 2e9)
    assert np.unique(even[:, :4]).size == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda acc: acc.set_operating_point(frequency_hz=2.5e9, domain=0),
            "frequency_hz must be 2e+09 for domain=0, not 2.5e+09: all domains share one clock; "
            "change it with domain='array'",
        ),
        (
            lambda acc: acc.set_operating_point(voltage_v=0.7, domain=2),
            "domain must be in 0..1, 'array' or 'check', not 2",
        ),
        (
            lambda acc: acc.set_operating_point(voltage_v=0.5),
            "voltage_v must be in 0.6..0.9 V, where the delay is known, not 0.5; "
            "DelayModel(delay='alpha-power') has no such limits",
        ),
        (
            lambda acc: acc.set_operating_point(voltage_v=0.6, frequency_hz=2.1e9),
            "a relative delay of 2.296 is beyond the table, which ends at 2.187; raise voltage_v or lower frequency_hz",
        ),
        (lambda acc: acc.set_operating_point(frequency_hz=0), "frequency_hz must be positive, not 0"),
        (lambda acc: acc.set_error_rate(1.5), "rate must be in 0..1, not 1.5"),
        (lambda acc: acc.set_error_rate(0.1, check_rate=-1), "check_rate must be in 0..1, not -1"),
        (lambda acc: acc.set_error_rate(0.1, seed=-1), "seed must be in 0..4294967295, not -1"),
        (
            lambda acc: acc.set_error_rate(0.1, bit_weights=[1, 2]),
            "bit_weights must be 31 numbers, none negative and not all zero, not [1.0, 2.0]",
        ),
        (
            lambda acc: acc.gemm(*two(), protection=Protection(on_uncorrectable="suppress")),
            "on_uncorrectable='suppress' needs out=, whose old values suppressed elements keep; "
            "make a tensor with new_slot, or choose on_uncorrectable='zero' or 'keep'",
        ),
        (
            lambda acc: acc.gemm(*two(), error_key=1 << 32),
            "error_key must be an integer in 0..4294967295, not 4294967296",
        ),
        (lambda acc: Protection(theta=64), "Protection.theta must be an integer in 0..63, not 64"),
        (
            lambda acc: Protection(on_uncorrectable="drop"),
            "Protection.on_uncorrectable must be one of 'suppress', 'reload', 'zero', 'keep', not 'drop'",
        ),
        (lambda acc: acc.new_slot(3), "a slot must have shape (M, N) or (B, M, N), not (3,)"),
        (
            lambda acc: acc.new_slot(3, 3, dtype=torch.int64),
            "dtype must be torch.int32, torch.int16 or torch.int8, not torch.int64",
        ),
        (lambda acc: DelayModel(carry="fast"), "DelayModel.carry must be 'linear' or 'prefix', not 'fast'"),
        (lambda acc: EnergyModel(mac_j=-1.0), "EnergyModel.mac_j must not be negative, but is -1.0"),
        (lambda acc: parse_log(b"123", 16), "a log must hold whole records of 16 bytes, not 3 bytes"),
    ],
)
def test_wrong_values_are_refused_with_the_remedy(call, message):
    with Accelerator(small(), backend="twin") as accelerator, pytest.raises(ValueError, match=exactly(message)):
        call(accelerator)


def two():
    return torch.ones(2, 3, dtype=torch.int8), torch.ones(3, 2, dtype=torch.int8)


def test_too_many_points_are_refused_and_change_nothing():
    with Accelerator(small(operating_points=2), backend="twin") as accelerator:
        accelerator.set_operating_point(voltage_v=0.7, domain=0)
        before = accelerator.operating_points
        message = (
            "the domains need 3 operating points, but the accelerator has operating_points=2; "
            "raise AcceleratorConfig.operating_points"
        )
        with pytest.raises(ValueError, match=exactly(message)):
            accelerator.set_operating_point(voltage_v=0.65, domain=1)
        assert accelerator.operating_points == before
        accelerator.set_operating_point(voltage_v=0.65)
        assert [point.voltage_v for point in accelerator.operating_points] == [0.65, 0.65, 0.9]


def test_models_and_units_that_are_missing_are_named():
    with Accelerator(AcceleratorConfig(), backend="twin") as accelerator:
        with pytest.raises(
            ValueError,
            match=exactly(
                "set_error_rate needs an AcceleratorConfig with timing_model='flip', not timing_model='none'"
            ),
        ):
            accelerator.set_error_rate(0.1)
        with pytest.raises(
            ValueError,
            match=exactly(
                "protection needs checksum units, but the accelerator has none; "
                "give AcceleratorConfig a ChecksumConfig, or pass Protection(check=False)"
            ),
        ):
            accelerator.gemm(*two(), protection=Protection())
        accelerator.gemm(*two(), protection=Protection(check=False))
    with Accelerator(small("flip", checksum=None), backend="twin") as accelerator:
        with pytest.raises(
            ValueError, match=exactly("domain='check' needs checksum units; give AcceleratorConfig a ChecksumConfig")
        ):
            accelerator.set_error_rate(0.1, check_rate=0.1)


def test_log_records_are_read_back():
    data = (7).to_bytes(4, "little") + (16).to_bytes(4, "little") + (0xFFFFFFFF).to_bytes(4, "little")
    negative = data + (1 << 31 | 1 << 16 | 5 << 8).to_bytes(4, "little")
    positive = data + (3 << 16 | 16).to_bytes(4, "little")
    located = data + (2 << 16 | 3 << 8 | 1).to_bytes(4, "little")
    assert parse_log(negative + positive + located, 16) == [
        LogRecord(7, 16, -1, Outcome.CORRECTED, (), 5),
        LogRecord(7, 16, 0xFFFFFFFF, Outcome.UNCORRECTABLE, tuple(range(16)), 0),
        LogRecord(7, 16, 0xFFFFFFFF, Outcome.LOCATED, (3,), 3),
    ]
    columns = (1 | 1 << 31 | 1 << 127).to_bytes(16, "little")
    assert parse_log(positive + columns, 32) == [LogRecord(7, 16, 0xFFFFFFFF, Outcome.UNCORRECTABLE, (0, 31, 127), 0)]


def test_time_and_energy_are_those_of_the_points_that_they_were_spent_at():
    config = small()
    model = EnergyModel(
        mac_j=1e-12,
        idle_share=0,
        dram_byte_j=0,
        sram_byte_j=0,
        sram_leakage_w=0,
        activation_j=0,
        leakage_w=1.0,
        leakage=Leakage(law="constant"),
        regulator=IDEAL,
    )
    a, w = two()
    with on_fake(config, energy_model=model) as accelerator:
        accelerator.gemm(a, w)
        nominal = dict(accelerator.stats)
        assert nominal["time_s"] == nominal["cycles"] / 2e9
        assert nominal["energy_mac_j"] == pytest.approx(12e-12)
        # Check columns leak like as much of the array as takes their energy.
        elements = 16 * (1 + check_share(config.checksum))
        assert nominal["energy_leakage_j"] == pytest.approx(elements * nominal["time_s"])
        accelerator.set_operating_point(voltage_v=0.72, frequency_hz=1e9)
        accelerator.gemm(a, w)
        both = accelerator.stats
        assert both["time_s"] == pytest.approx(3 * nominal["time_s"])
        assert both["energy_mac_j"] == pytest.approx(12e-12 * (1 + 0.8**2))
        assert both["energy_j"] == pytest.approx(sum(v for k, v in both.items() if re.match("energy_.*_j$", k)))
        accelerator.reset_stats()
        assert accelerator.stats["energy_j"] == 0
        # Only half of the array's columns at a lower voltage.
        accelerator.set_operating_point(voltage_v=0.9)
        accelerator.set_operating_point(voltage_v=0.72, domain=1)
        accelerator.gemm(a, w, protection=Protection())
        work = check_work(config, GemmShape(1, 2, 2, 3))
        assert accelerator.stats["energy_mac_j"] == pytest.approx(12e-12 * (1 + 0.8**2) / 2)
        assert accelerator.stats["energy_check_j"] == pytest.approx(
            1e-12 * (work.digit_macs * (1 + 0.8**2) / 2 + work.check_macs * 1.0)
        )


def test_cost_of_checks_is_that_of_their_columns_and_digit_rows():
    config = small()
    work, checksum = check_work(config, GemmShape(1, 8, 8, 10)), config.checksum
    # Two groups of two digit rows; two segments, and sums of activations beside an array of four rows.
    assert work.digit_macs == 4 * 10 * 8
    columns, sums = (8 + 4) * 10 * 2 * check_column_price(checksum), (8 + 4) * 10 * 8 * column_sums_price(checksum) / 4
    assert work.check_macs == pytest.approx(columns + sums)
    # Three k-tiles, each reads and writes a syndrome of each row and segment.
    assert work.syndrome_bytes == 2 * (8 + 4) * 3 * 2 * syndrome_bits(checksum) / 8
