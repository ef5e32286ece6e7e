"""The RTL backend's commands and its use of memory, against a stand-in for the simulator."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from brownout.host import Accelerator, DeviceMemoryError, Requantisation
from brownout.host.device.backends.arena import PAGE_BYTES, Arena
from brownout.host.device.backends.rtl import RtlBackend
from brownout.hw.config import AcceleratorConfig, MemoryConfig

from .fake_simulator import FakeDiedError, FakeSimulator, golden_gemm


class Setup:
    """An accelerator on the stand-in, with a handle on both."""

    def __init__(self, config):
        self.simulator = FakeSimulator(config)
        self.backend = RtlBackend(config, lambda: self.simulator, deadline_s=1)
        self.accelerator = Accelerator(config, backend=self.backend)


@pytest.fixture
def setup(config):
    built = Setup(config)
    yield built
    built.accelerator.close()
    assert built.simulator.closed


def random_int8(generator, *shape):
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (3, 5, 7), (17, 16, 15), (16, 32, 16), (2, 100, 33)])
def test_products_of_any_size_and_stride(setup, generator, m, k, n):
    a, w = random_int8(generator, k, m).T, random_int8(generator, k, 2 * n)[:, ::2]
    got = setup.accelerator.gemm(a, w)
    assert got.dtype == torch.int32
    assert np.array_equal(got.numpy(), golden_gemm(a.numpy(), w.numpy()))


def test_bias_and_requantisation_reach_the_channel_table(setup, generator):
    a, w = random_int8(generator, 6, 10), random_int8(generator, 10, 5)
    bias = torch.tensor([2**31 - 1, -(2**31), 0, 1, -1], dtype=torch.int32)
    mult, shift = torch.tensor([2**31 - 1, 1, 0, 3, 1 << 20]), torch.tensor([40, 30, 1, 62, 21])
    got = setup.accelerator.gemm(a, w, bias=bias)
    assert np.array_equal(got.numpy(), golden_gemm(a.numpy(), w.numpy(), bias.numpy()))
    got = setup.accelerator.gemm(a, w, bias=bias, requant=Requantisation(mult, shift))
    expected = golden_gemm(a.numpy(), w.numpy(), bias.numpy(), mult.numpy(), shift.numpy())
    assert np.array_equal(got.numpy(), expected)


def test_a_batch_is_one_command(setup, generator):
    a, w = random_int8(generator, 4, 3, 9), random_int8(generator, 4, 9, 6)
    expected = np.stack([golden_gemm(x.numpy(), y.numpy()) for x, y in zip(a, w, strict=True)])
    assert np.array_equal(setup.accelerator.gemm(a, w).numpy(), expected)
    assert np.array_equal(setup.accelerator.gemm(a, setup.accelerator.upload(w)).numpy(), expected)
    assert len(setup.simulator.commands) == 2


def test_out_is_written_in_place(setup, generator):
    a, w = random_int8(generator, 3, 9), random_int8(generator, 9, 6)
    out = torch.zeros(6, 3, dtype=torch.int32).T
    assert setup.accelerator.gemm(a, w, out=out) is out
    assert np.array_equal(out.numpy(), golden_gemm(a.numpy(), w.numpy()))


def test_resident_weights_are_stored_once_and_freed_with_their_handle(setup, generator):
    arena = setup.backend._layout.arena
    before = arena.free_bytes
    w = random_int8(generator, 9, 6)
    weights = setup.accelerator.upload(w)
    assert arena.free_bytes == before - PAGE_BYTES
    for _ in range(3):
        a = random_int8(generator, 3, 9)
        assert np.array_equal(setup.accelerator.gemm(a, weights).numpy(), golden_gemm(a.numpy(), w.numpy()))
    assert len({command["w_addr"] for command in setup.simulator.commands}) == 1
    del weights
    gc.collect()
    assert arena.free_bytes == before


def test_restart_brings_resident_weights_back(setup, generator):
    accelerator = setup.accelerator
    kept = [random_int8(generator, 9, 6), random_int8(generator, 2, 9, 6)]
    weights = [accelerator.upload(w) for w in kept]
    setup.simulator.dead = True
    free = setup.backend._layout.arena.free_bytes
    with pytest.raises(FakeDiedError):
        accelerator.gemm(torch.ones(1, 9, dtype=torch.int8), weights[0])
    assert setup.backend._layout.arena.free_bytes == free
    accelerator.restart()
    assert accelerator.stats["macs"] == 0
    a = random_int8(generator, 2, 3, 9)
    assert np.array_equal(accelerator.gemm(a[0], weights[0]).numpy(), golden_gemm(a[0].numpy(), kept[0].numpy()))
    expected = np.stack([golden_gemm(x.numpy(), y.numpy()) for x, y in zip(a, kept[1], strict=True)])
    assert np.array_equal(accelerator.gemm(a, weights[1]).numpy(), expected)


def test_a_restart_that_failed_can_be_tried_again(setup, generator, monkeypatch):
    w = random_int8(generator, 9, 6)
    weights = setup.accelerator.upload(w)
    with monkeypatch.context() as patch:

        def die():
            raise FakeDiedError

        patch.setattr(setup.simulator, "restart", die)
        for _ in range(2):
            with pytest.raises(FakeDiedError):
                setup.accelerator.restart()
    setup.accelerator.restart()
    a = random_int8(generator, 3, 9)
    assert np.array_equal(setup.accelerator.gemm(a, weights).numpy(), golden_gemm(a.numpy(), w.numpy()))


def test_stats_count_from_the_last_reset(setup):
    a, w = torch.ones(2, 3, dtype=torch.int8), torch.ones(3, 4, dtype=torch.int8)
    setup.accelerator.gemm(a, w)
    setup.accelerator.reset_stats()
    setup.accelerator.gemm(a, w)
    stats = setup.accelerator.stats
    assert (stats["macs"], stats["commands"], stats["cycles"], stats["ideal_cycles"]) == (24, 1, 1000, 2)
    assert stats["dram_bytes"] == stats["dram_read_bytes"] + stats["dram_write_bytes"]


def test_too_small_a_memory_names_its_setting():
    config = AcceleratorConfig(memory=MemoryConfig(size_bytes=1 << 16))
    setup = Setup(config)
    message = (
        r"^the accelerator's DRAM has no room for 98304 bytes: the largest free piece is 61440 of 61440 bytes; "
        r"raise MemoryConfig\.size_bytes, split the product, or drop resident weights$"
    )
    with pytest.raises(DeviceMemoryError, match=message):
        setup.accelerator.gemm(torch.zeros(128, 128, dtype=torch.int8), torch.zeros(128, 128, dtype=torch.int8))
    # Nothing was taken, and what fits still works.
    assert setup.accelerator.gemm(torch.ones(8, 8, dtype=torch.int8), torch.ones(8, 8, dtype=torch.int8))[0, 0] == 8


def test_a_stride_beyond_32_bits_is_refused(setup):
    big = torch.zeros(1, 1, 1, dtype=torch.int8)
    a, w = big.expand(2, 1 << 14, 1), big.expand(2, 1, 1 << 17)
    with pytest.raises(ValueError, match=r"^y_batch_stride must fit 32 bits, not 8589934592; split the product"):
        setup.accelerator.gemm(a, w, out=torch.zeros(1, 1, 1, dtype=torch.int32).expand(2, 1 << 14, 1 << 17))


def test_arena_never_overlaps_and_joins_what_is_freed():
    seed = 7
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    arena = Arena(64 * PAGE_BYTES + 100)
    live: list[tuple[int, int]] = []
    for _ in range(2000):
        if live and rng.random() < 0.5:
            arena.free(live.pop(int(rng.integers(len(live)))))
            continue
        try:
            region = arena.allocate(int(rng.integers(1, 8 * PAGE_BYTES)), from_top=bool(rng.integers(2)))
        except DeviceMemoryError:
            continue
        assert region[0] % PAGE_BYTES == 0
        assert 0 <= region[0] < region[1] <= arena.size_bytes
        assert all(region[1] <= start or end <= region[0] for start, end in live)
        live.append(region)
        assert arena.free_bytes == arena.size_bytes - sum(end - start for start, end in live)
    for region in live:
        arena.free(region)
    assert arena.allocate(64 * PAGE_BYTES) == (0, 64 * PAGE_BYTES)
