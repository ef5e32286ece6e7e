"""The same products on simulated RTL and on the twin."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from brownout.cosim.errors import SimulatorDied
from brownout.host import Accelerator, DeviceMemoryError, Requantisation, first_difference, offload, report, restore
from brownout.hw.config import MemoryConfig

from ...configurations import plain

pytestmark = pytest.mark.rtl

CONFIG = replace(plain(4, 4), memory=MemoryConfig(size_bytes=1 << 23))


@pytest.fixture(scope="module")
def rtl():
    with Accelerator(CONFIG, backend="rtl") as accelerator:
        yield accelerator


@pytest.fixture
def twin():
    with Accelerator(CONFIG, backend="twin") as accelerator:
        yield accelerator


def random_int8(generator, *shape):
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)


def assert_same(rtl, twin, a, w, **options):
    expected, got = twin.gemm(a, w, **options), rtl.gemm(a, w, **options)
    difference = first_difference(expected, got, CONFIG)
    assert difference is None, str(difference)


def assert_counts_agree(rtl, twin):
    """All but row activations: which rows of memory are open depends on what the tests before have run on the RTL."""
    on_rtl, on_twin = dict(rtl.stats), dict(twin.stats)
    for stats in (on_rtl, on_twin):
        for name in ("dram_row_activations", "energy_activation_j", "energy_j"):
            del stats[name]
    assert on_twin == on_rtl
    return on_rtl


@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 1, 1), (3, 5, 7), (4, 4, 4), (17, 16, 15), (2, 300, 9), (133, 20, 6), (5, 9, 70)]
)
def test_products_and_exact_counters_agree(rtl, twin, generator, m, k, n):
    a, w = random_int8(generator, m, k), random_int8(generator, k, n)
    rtl.reset_stats()
    assert_same(rtl, twin, a, w)
    on_rtl = assert_counts_agree(rtl, twin)
    assert on_rtl["cycles"] > on_rtl["ideal_cycles"] == on_rtl["busy_cycles"]


def test_bias_requantisation_and_batch_agree_with_their_counters(rtl, twin, generator):
    a, w = random_int8(generator, 3, 11, 30), random_int8(generator, 3, 30, 21)
    bias = torch.randint(-(2**31), 2**31, (21,), generator=generator).to(torch.int32)
    mult = torch.randint(0, 2**31, (21,), generator=generator)
    shift = torch.randint(1, 63, (21,), generator=generator)
    rtl.reset_stats()
    for options in (
        {},
        {"bias": bias},
        {"requant": Requantisation(mult, shift)},
        {"bias": bias, "requant": Requantisation(mult, shift, 16)},
    ):
        assert_same(rtl, twin, a, w, **options)
    assert_counts_agree(rtl, twin)


def test_extreme_values_agree(rtl, twin):
    a = torch.tensor([[-128], [127]], dtype=torch.int8).expand(2, 500)
    w = torch.tensor([[-128, 127]], dtype=torch.int8).expand(500, 2)
    assert_same(rtl, twin, a, w)
    assert_same(rtl, twin, a, w, bias=torch.tensor([2**31 - 1, -(2**31)], dtype=torch.int32))


def test_resident_weights_and_strides_agree(rtl, twin, generator):
    a, w = random_int8(generator, 30, 9).T[::2], random_int8(generator, 30, 26)[:, ::2]
    expected = twin.gemm(a, twin.upload(w))
    assert torch.equal(rtl.gemm(a, rtl.upload(w)), expected)
    assert torch.equal(rtl.gemm(a, w), expected)


def test_too_large_a_product_leaves_the_device_usable(rtl, twin, generator):
    with pytest.raises(DeviceMemoryError, match=r"raise MemoryConfig\.size_bytes"):
        rtl.gemm(torch.zeros(8192, 1024, dtype=torch.int8), torch.zeros(1024, 16, dtype=torch.int8))
    assert_same(rtl, twin, random_int8(generator, 3, 5), random_int8(generator, 5, 7))


def test_an_offloaded_model_agrees_and_its_cycles_add_up(rtl, twin, generator):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 10)).requires_grad_(False)
    values = torch.randn(2, 7, 24, generator=generator)
    outputs = []
    for accelerator in (twin, rtl):
        offload(net, accelerator, calibration=lambda module: module(values))
        accelerator.reset_stats()
        outputs.append(net(values))
        layers = report(net)
        restore(net)
    assert torch.equal(*outputs)
    assert sum(layer.cycles for layer in layers) == rtl.stats["cycles"]
    assert all(0 < layer.utilisation < 1 for layer in layers)


def test_a_simulator_killed_in_mid_run_is_named_and_replaced(twin, generator):
    w = random_int8(generator, 256, 64)
    a = random_int8(generator, 1024, 256)
    with Accelerator(CONFIG, backend="rtl") as rtl:
        weights = rtl.upload(w)
        pid = rtl._device._simulator.pid

        def kill():
            time.sleep(0.3)
            os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        # 13 M cycles, so that the kill falls into the middle.
        with pytest.raises(SimulatorDied, match=r"log: \S+"):
            rtl.gemm(a.repeat(12, 1), weights)
        killer.join()
        with pytest.raises(SimulatorDied, match=re.escape("restart()")):
            rtl.gemm(a, weights)
        rtl.restart()
        assert rtl.stats["macs"] == 0
        few = a[:5]
        assert torch.equal(rtl.gemm(few, weights), twin.gemm(few, w))
