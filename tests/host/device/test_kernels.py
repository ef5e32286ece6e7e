"""The C++ kernels: what small random commands do not reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brownout.cosim.reference import draw, reference_gemm
from brownout.host.device.backends.twin import TwinBackend
from brownout.host.device.product.operands import make_product
from brownout.host.device.twin.build import KERNEL_SOURCES, SOURCES, build_kernels
from brownout.host.device.twin.call import Call
from brownout.host.device.twin.flips import draw_flips
from brownout.host.device.twin.history import OverwrittenValues
from brownout.hw.commands import GemmFlag
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.errors.state import CommandOptions, ErrorState, bit_thresholds, check_columns

CHECK_AND_CORRECT = CommandOptions(flags=GemmFlag.CHECK | GemmFlag.CORRECT, log_bytes=1 << 20)


def random_int8(generator, *shape):
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)


def run(config, a, w, errors, options=CHECK_AND_CORRECT):
    twin = TwinBackend(config)
    twin.settings.errors = errors
    product, out = make_product(a, w, None, None, None, options)
    log = twin.gemm(product)
    return out, log, twin.counters()


@pytest.mark.parametrize("model", ["flip", "carry"])
def test_the_number_of_threads_changes_nothing(generator, model):
    config = AcceleratorConfig(timing_model=model, checksum=ChecksumConfig(scheme="matched"))
    errors = ErrorState(seed=1, rates=(1 << 22,))
    if model == "carry":
        rng = np.random.default_rng(0)
        errors.lengths = rng.integers(22, 64, (16, 16 + check_columns(config))).astype(np.uint8)
    shape = (1024, 16, 1100) if model == "flip" else (300, 40, 300)
    a, w = random_int8(generator, *shape[:2]), random_int8(generator, *shape[1:])
    results = []
    for threads in (1, 6):
        torch.set_num_threads(threads)
        results.append(run(config, a, w, errors))
    (out, log, counts), (other_out, other_log, other_counts) = results
    assert torch.equal(out, other_out)
    assert log == other_log
    assert counts == other_counts
    assert counts["injected"] > 100


@pytest.mark.parametrize(
    "rates",
    [(1 << 26, 1 << 29), (1 << 27, 1 << 27), (0, 1 << 28), (0xFFFF0000, 0xFFFF), (0xFFFFFFFF, 1), (0, 0)],
    ids=lambda rates: f"{rates[0]:x}-{rates[1]:x}",
)
def test_hits_are_the_draws_below_the_rate(rates):
    """Alike and not, and next to multiples of 2^16, by which the kernel leaves most draws alone."""
    config = AcceleratorConfig(timing_model="flip", voltage_domains=2)
    errors = ErrorState(seed=5, rates=rates, points=(0, 1))
    call = Call(CommandOptions(error_key=3, first_row=2**32 - 5, first_col=2**32 - 7), errors, first_row=2**32 - 5)
    hits = draw_flips(config, 20, 150, call).outputs
    expected = []
    for m in range(20):
        for n in range(150):
            drawn = draw(5, 3, (2**32 - 5 + m) % 2**32, (2**32 - 7 + n) % 2**32)
            if drawn < rates[n % 16 >= 8]:
                expected.append((m, n, drawn))
    assert list(zip(hits.rows.tolist(), hits.cols.tolist(), hits.draws.tolist(), strict=True)) == expected
    assert (len(expected) > 20) == any(rates)


def test_rates_beyond_the_expected_number_of_hits_are_drawn_again(monkeypatch):
    """The buffer is sized for what is likely; what is unlikely must still be complete."""
    config = AcceleratorConfig(timing_model="flip")
    errors = ErrorState(seed=5, rates=(1 << 31,))
    before = draw_flips(config, 40, 40, Call(CommandOptions(), errors)).outputs
    monkeypatch.setattr("brownout.host.device.twin.flips.math.sqrt", lambda x: -x / 8)
    after = draw_flips(config, 40, 40, Call(CommandOptions(), errors)).outputs
    assert len(before) > 600
    assert np.array_equal(before.draws, after.draws)


@pytest.mark.parametrize("model", ["flip", "carry"])
def test_large_groups_take_three_digits(generator, model):
    checksum = ChecksumConfig(scheme="weighted", group_rows=512, segment_cols=4)
    config = AcceleratorConfig(rows=4, cols=4, block_rows=512, timing_model=model, checksum=checksum)
    a, w = random_int8(generator, 700, 6), random_int8(generator, 6, 5)
    a[:300, 0] = -128
    errors = ErrorState(seed=2, rates=(1 << 25,))
    if model == "carry":
        rng = np.random.default_rng(0)
        errors.lengths = rng.integers(14, 40, (4, 4 + check_columns(config))).astype(np.uint8)
    out, log, counts = run(config, a, w, errors)
    expected = reference_gemm(config, a.numpy(), w.numpy(), options=CHECK_AND_CORRECT, errors=errors)
    assert np.array_equal(out.numpy(), expected.output[0])
    assert log == expected.log
    assert {name: counts[name] for name in expected.counters} == expected.counters
    assert counts["detected"] > 0


def test_every_bit_can_be_singled_out():
    config = AcceleratorConfig(timing_model="flip")
    a, w = torch.zeros(8, 1, dtype=torch.int8), torch.zeros(1, 8, dtype=torch.int8)
    for bit in range(31):
        errors = ErrorState(rates=(2**32 - 1,), bits=bit_thresholds([i == bit for i in range(31)]))
        out, _, counts = run(config, a, w, errors, CommandOptions())
        assert counts["injected"] == 64
        assert (out == 1 << bit).all()


def test_history_finds_values_saved_before():
    checksum = ChecksumConfig(segment_cols=5, column_checks=False)
    config = AcceleratorConfig(cols=8, drain_lanes=1, timing_model="flip", checksum=checksum)
    errors = ErrorState(seed=4, rates=(1 << 26, 1 << 29), points=(0, 1))
    flips = draw_flips(config, 30, 29, Call(CHECK_AND_CORRECT, errors))
    assert len(flips.checks) > 0
    out = torch.arange(30 * 29, dtype=torch.int32).view(30, 29)
    history = OverwrittenValues(config, out.clone())
    history.save(flips)
    history.out.zero_()
    rows, cols = flips.outputs.rows, flips.outputs.cols
    assert torch.equal(history.values_at(rows, cols), out[torch.from_numpy(rows).long(), torch.from_numpy(cols).long()])


def test_every_source_is_compiled():
    assert {path.name for path in SOURCES.glob("*.cpp")} == set(KERNEL_SOURCES)


def test_kernels_are_built_once():
    first = build_kernels()
    stamp = first.stat().st_mtime_ns
    assert build_kernels() == first
    assert first.stat().st_mtime_ns == stamp
