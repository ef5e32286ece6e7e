"""The twin computes exactly what the hardware is specified to compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brownout.host import Accelerator, DeviceMemoryError, Requantisation
from brownout.host.device.backends import twin as twin_backend
from brownout.host.device.product.operands import Tally
from brownout.host.device.twin import matmul
from brownout.hw.config import K_LIMIT, AcceleratorConfig
from brownout.hw.tiling import blocks, slabs

from .fake_simulator import golden_gemm

EXTENTS = (1, 2, 3, 7, 16, 17, 33)


def random_int8(generator, *shape):
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)


@pytest.fixture
def twin(config):
    with Accelerator(config, backend="twin") as accelerator:
        yield accelerator


@pytest.mark.parametrize("m", EXTENTS)
@pytest.mark.parametrize("n", EXTENTS)
def test_random_products_are_exact(twin, generator, m, n):
    for k in EXTENTS:
        a, w = random_int8(generator, m, k), random_int8(generator, k, n)
        assert np.array_equal(twin.gemm(a, w).numpy(), golden_gemm(a.numpy(), w.numpy())), k


@pytest.mark.parametrize(("x", "y"), [(-128, -128), (-128, 127), (127, -128), (127, 127)])
@pytest.mark.parametrize("k", [1, 2, 64, 1025, K_LIMIT])
def test_extreme_values_are_exact(twin, x, y, k):
    a = torch.full((2, k), x, dtype=torch.int8)
    w = torch.full((k, 3), y, dtype=torch.int8)
    assert (twin.gemm(a, w) == x * y * k).all()


@pytest.mark.parametrize("contiguous_out", [True, False])
def test_expanded_and_sliced_operands_are_exact(generator, contiguous_out):
    """torch._int_mm returns garbage for strides of zero."""
    column, row = random_int8(generator, 5, 1), random_int8(generator, 1, 7)
    square = random_int8(generator, 40, 40)
    lefts = (column.expand(5, 40), square[:1].expand(5, 40), square[::8, :], square[:5, ::1], square[:, ::8].T)
    rights = (row.expand(40, 7), square[:, :1].expand(40, 7), square[:, 5:26:3], square[3:10].T, square[:, :7])
    for a in lefts:
        for w in rights:
            out = torch.full((5, 7), 99, dtype=torch.int32)
            out = out if contiguous_out else out.mT.clone().mT
            matmul.exact_matmul(a, w, out)
            assert np.array_equal(out.numpy(), golden_gemm(a.numpy(), w.numpy())), (a.stride(), w.stride())


@pytest.mark.parametrize("extents", [(1, 1, 3), (9, 1, 2), (1, 5, 1), (2, 1, 1), (1, 3, 4)])
def test_uploaded_vectors_are_exact(twin, generator, extents):
    """Strides along a dimension of one are arbitrary, and torch._int_mm does not take them all."""
    m, k, n = extents
    a, w = random_int8(generator, k, m).mT, random_int8(generator, k, n)
    out = torch.full((m, n), 99, dtype=torch.int32)
    assert np.array_equal(twin.gemm(a, twin.upload(w), out=out).numpy(), golden_gemm(a.numpy(), w.numpy()))


@pytest.mark.parametrize("k", [1, 1024, 1025, 5000])
def test_float_fallback_is_exact_at_its_worst(generator, k):
    a = torch.full((3, k), -128, dtype=torch.int8)
    w = torch.full((k, 2), -128, dtype=torch.int8)
    assert (matmul.float_matmul(a, w) == 16384 * k).all()
    a, w = random_int8(generator, 5, k), random_int8(generator, k, 7)
    assert np.array_equal(matmul.float_matmul(a, w).numpy(), golden_gemm(a.numpy(), w.numpy()))


def test_a_cpu_without_exact_int_mm_takes_the_fallback(monkeypatch, generator):
    monkeypatch.setattr(matmul, "_int_mm_is_exact", lambda: False)
    monkeypatch.setattr(torch, "_int_mm", None)
    a, w = random_int8(generator, 5, 9), random_int8(generator, 9, 7)
    out = torch.empty(5, 7, dtype=torch.int32)
    matmul.exact_matmul(a, w, out)
    assert np.array_equal(out.numpy(), golden_gemm(a.numpy(), w.numpy()))


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (16, 8, 8), (17, 9, 7), (40, 64, 24)])
def test_padding_for_cuda_fits_its_rules_and_changes_nothing(monkeypatch, generator, m, k, n):
    def strict_int_mm(a, w):
        assert a.shape[0] > 16
        assert a.shape[1] % 8 == 0
        assert w.shape[1] % 8 == 0
        return int_mm(a, w)

    int_mm = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", strict_int_mm)
    a, w = random_int8(generator, m, k), random_int8(generator, k, n)
    assert np.array_equal(matmul._cuda_matmul(a, w).numpy(), golden_gemm(a.numpy(), w.numpy()))


@pytest.mark.parametrize("bias", [2**31 - 1, -(2**31)])
def test_bias_wraps_at_32_bits(twin, bias):
    a = torch.tensor([[127], [-128]], dtype=torch.int8)
    w = torch.tensor([[127]], dtype=torch.int8)
    got = twin.gemm(a, w, bias=torch.tensor([bias], dtype=torch.int32))
    assert np.array_equal(got.numpy(), golden_gemm(a.numpy(), w.numpy(), np.array([bias])))
    # One of the two sums leaves the range in either direction.
    assert (got.to(torch.int64) != torch.tensor([[16129], [-16256]]) + bias).any()


def test_requantisation_rounds_ties_towards_plus_infinity(twin):
    a = torch.tensor([[-3], [-2], [-1], [0], [1], [2], [3]], dtype=torch.int8)
    w = torch.ones(1, 1, dtype=torch.int8)
    half = Requantisation(torch.tensor([1]), torch.tensor([1]))
    assert twin.gemm(a, w, requant=half).flatten().tolist() == [-1, -1, 0, 0, 1, 1, 2]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("mult", [0, 1, 3, 2**30, 2**31 - 1])
@pytest.mark.parametrize("shift", [1, 2, 17, 31, 61, 62])
def test_requantisation_is_exact_over_its_range(twin, generator, mult, shift, bits):
    a = torch.cat([random_int8(generator, 6, 40), torch.full((1, 40), -128, dtype=torch.int8)])
    w = torch.cat([random_int8(generator, 40, 2), torch.full((40, 1), -128, dtype=torch.int8)], dim=1)
    bias = torch.tensor([2**31 - 1, -(2**31), 5], dtype=torch.int32)
    scales = Requantisation(torch.full((3,), mult), torch.full((3,), shift), bits)
    got = twin.gemm(a, w, bias=bias, requant=scales)
    assert got.dtype == {8: torch.int8, 16: torch.int16}[bits]
    expected = golden_gemm(a.numpy(), w.numpy(), bias.numpy(), [mult] * 3, [shift] * 3, bits)
    assert np.array_equal(got.numpy(), expected)


def test_real_factors_become_close_fixed_point(generator):
    scale = torch.exp2(torch.rand(200, generator=generator, dtype=torch.float64) * 60 - 31)
    scale = torch.cat([scale, torch.tensor([2.0**-31, 1.0, 2.0**30 * (1 - 2.0**-50)], dtype=torch.float64)])
    fixed = Requantisation.from_scale(scale)
    restored = fixed.mult.double() / fixed.shift.double().exp2()
    assert ((restored / scale - 1).abs() <= 2.0**-31).all()


@pytest.mark.parametrize("scale", [0.0, -1.0, 2.0**30, float("nan")])
def test_real_factors_out_of_range_are_refused(scale):
    with pytest.raises(ValueError, match=r"^scale must be in 2\^-31\.\.2\^30 \(exclusive\) for every channel$"):
        Requantisation.from_scale(torch.tensor([1.0, scale]))


def test_batches_strides_and_out_do_not_change_a_result(twin, generator):
    a = random_int8(generator, 5, 3, 14)[:, :, ::2]
    w = random_int8(generator, 9, 7, 5).permute(2, 1, 0)
    expected = np.stack([golden_gemm(x.numpy(), y.numpy()) for x, y in zip(a, w, strict=True)])
    assert np.array_equal(twin.gemm(a, w).numpy(), expected)
    assert np.array_equal(twin.gemm(a, twin.upload(w)).numpy(), expected)
    out = torch.zeros(5, 9, 3, dtype=torch.int32).mT
    assert twin.gemm(a, w, out=out) is out
    assert np.array_equal(out.numpy(), expected)


def test_uploaded_weights_are_a_copy(twin):
    w = torch.ones(3, 2, dtype=torch.int8)
    weights = twin.upload(w)
    w.zero_()
    assert (twin.gemm(torch.ones(1, 3, dtype=torch.int8), weights) == 3).all()


def counts_by_walking(config, shape, element, channels):
    """Bytes on the bus, beat by beat: every fetched or written row is a set of beat numbers."""
    bus = config.bus_bytes
    batch, m, n, total_k = shape
    read, write = 256, 0

    def beats(first, count):
        return len({byte // bus for byte in range(first, first + count)})

    for block in blocks(config, m, n, batch):
        first = block.first_col_tile * config.cols
        width = min(n, first + block.col_tiles * config.cols) - first
        if channels:
            read += bus * beats(first * 16, width * 16)
        for first_tile, tiles in slabs(config, total_k):
            k = first_tile * config.rows
            length = min(tiles * config.rows, total_k - k)
            read += bus * block.rows * beats(k, length)
            read += bus * length * beats(first, width)
        write += bus * block.rows * beats(first * element, width * element)
    return read, write


@pytest.mark.parametrize(
    "config",
    [
        AcceleratorConfig(),
        AcceleratorConfig(rows=3, cols=5, block_rows=4, block_col_tiles=3, slab_bytes=7, bus_bytes=4),
        AcceleratorConfig(rows=1, cols=1, block_rows=2, block_col_tiles=2, slab_bytes=1),
    ],
    ids=["16x16", "3x5", "1x1"],
)
def test_dram_bytes_equal_a_walk_over_all_blocks(config):
    for batch, m, n, k in ((1, 1, 1, 1), (2, 9, 35, 20), (3, 13, 70, 7), (1, 150, 17, 65)):
        a, w = torch.zeros(batch, m, k, dtype=torch.int8), torch.zeros(batch, k, n, dtype=torch.int8)
        unit = torch.ones(n, dtype=torch.int64)
        for requant, item_bytes in ((None, 4), (Requantisation(unit, unit), 1), (Requantisation(unit, unit, 16), 2)):
            with Accelerator(config, backend="twin") as twin:
                twin.gemm(a, w, requant=requant)
                stats = twin.stats
            shape = (batch, m, n, k)
            read, write = counts_by_walking(config, shape, item_bytes, requant is not None)
            assert (stats["dram_read_bytes"], stats["dram_write_bytes"]) == (read, write)
            assert stats["dram_bytes"] == read + write


def test_stats_count_products_from_the_last_reset(twin):
    twin.gemm(torch.ones(5, 9, dtype=torch.int8), torch.ones(9, 6, dtype=torch.int8))
    assert twin.stats["macs"] == 5 * 9 * 6
    assert twin.stats["busy_cycles"] == twin.stats["ideal_cycles"] == 5 * 3 * 2
    assert twin.stats["cycles"] > twin.stats["busy_cycles"]
    twin.reset_stats()
    assert set(twin.stats.values()) == {0}


def test_too_large_a_product_is_refused_as_on_rtl(twin):
    with pytest.raises(DeviceMemoryError, match=r"raise MemoryConfig\.size_bytes"):
        twin.gemm(torch.zeros(8192, 1024, dtype=torch.int8), torch.zeros(1024, 16, dtype=torch.int8))
    assert twin.stats["commands"] == 0


def test_commands_that_wait_to_be_timed_take_little_memory(monkeypatch):
    monkeypatch.setattr(twin_backend, "MOST_UNTIMED_BYTES", 3 * twin_backend.COMMAND_BYTES)
    tally = Tally()
    cycles = []
    with Accelerator(AcceleratorConfig(), backend="twin") as accelerator:
        for _ in range(4):
            accelerator.gemm(torch.ones(4, 8, dtype=torch.int8), torch.ones(8, 4, dtype=torch.int8), tally=tally)
            cycles.append(tally.cycles)
        total = accelerator.stats["cycles"]
    assert cycles[:2] == [0, 0]
    assert 0 < cycles[2] == cycles[3] < total == tally.cycles
