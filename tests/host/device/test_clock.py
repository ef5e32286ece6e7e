"""At another clock the memory keeps its nanoseconds and its bytes per second; only the array's cycles shrink."""

from __future__ import annotations

import itertools

import pytest
import torch

from brownout.cosim.dram import MemoryTiming
from brownout.host import Accelerator
from brownout.host.device.backends.rtl import RtlBackend
from brownout.host.device.backends.twin import TwinBackend
from brownout.hw.config import AcceleratorConfig, MemoryConfig

from .fake_simulator import FakeSimulator

CLOCKS_HZ = (0.3e9, 1e9, 1_234_567_891, 2e9, 2.3e9, 3.1e9, 4.3e9)


def accelerator_with(timing_model="flip", **memory):
    config = AcceleratorConfig(
        timing_model=timing_model, operating_points=2, memory=MemoryConfig(size_bytes=1 << 23, **memory)
    )
    return Accelerator(config, backend="twin")


def stats_at(accelerator, frequency_hz, m, k, n):
    """Of one product at a clock, without the way there."""
    accelerator.set_operating_point(frequency_hz=frequency_hz)
    accelerator.reset_stats()
    accelerator.gemm(torch.zeros(m, k, dtype=torch.int8), torch.zeros(k, n, dtype=torch.int8))
    return accelerator.stats


def test_time_of_a_memory_bound_product_does_not_depend_on_the_clock():
    with accelerator_with(bytes_per_cycle=2) as accelerator:
        stats = [stats_at(accelerator, clock, 300, 16, 200) for clock in CLOCKS_HZ]
    bytes_per_s = 2 * 2e9
    for each in stats:
        # Nothing but its bytes, and a little at begin and end.
        assert each["time_s"] == pytest.approx(each["dram_bytes"] / bytes_per_s, rel=0.02)
    assert stats[0]["cycles"] * 10 < stats[-1]["cycles"]


def test_time_of_a_compute_bound_product_is_that_of_its_cycles():
    """By the closed form latency counts three times, and nothing else of the memory does."""
    with accelerator_with(bytes_per_cycle=64) as accelerator:
        stats = [stats_at(accelerator, clock, 512, 1024, 128) for clock in CLOCKS_HZ]
    latencies = [-(-64 * round(clock) // 2_000_000_000) for clock in CLOCKS_HZ]
    assert len({each["cycles"] - 3 * latency for each, latency in zip(stats, latencies, strict=True)}) == 1
    for each, clock in zip(stats, CLOCKS_HZ, strict=True):
        assert each["time_s"] * clock == pytest.approx(each["ideal_cycles"], rel=0.02)


def test_overclocking_helps_until_the_memory_is_the_limit():
    with accelerator_with() as accelerator:
        clocks = [1e9 + 1e8 * step for step in range(34)]
        times = [stats_at(accelerator, clock, 256, 96, 256)["time_s"] for clock in clocks]
        traffic_s = accelerator.stats["dram_bytes"] / (16 * 2e9)
    assert times[0] == pytest.approx(256 * 6 * 16 / 1e9, rel=0.12)
    assert times[-1] == pytest.approx(traffic_s, rel=0.2)
    assert times[-1] > traffic_s
    assert all(later < 1.01 * earlier for earlier, later in itertools.pairwise(times))


def test_voltage_alone_leaves_the_memory_as_it_is():
    with accelerator_with() as accelerator:
        nominal = stats_at(accelerator, 2e9, 40, 50, 60)
        accelerator.set_operating_point(voltage_v=0.86)
        lower = stats_at(accelerator, 2e9, 40, 50, 60)
    assert lower["cycles"] == nominal["cycles"]


def test_back_at_the_nominal_clock_everything_is_as_before():
    with accelerator_with() as accelerator:
        first = stats_at(accelerator, 2e9, 40, 50, 60)["cycles"]
        assert stats_at(accelerator, 4e9, 40, 50, 60)["cycles"] > first
        assert stats_at(accelerator, 2e9, 40, 50, 60)["cycles"] == first


def test_products_before_a_change_are_timed_with_the_memory_of_then(config):
    backend = TwinBackend(config)
    a, w = torch.zeros(9, 10, dtype=torch.int8), torch.zeros(10, 11, dtype=torch.int8)
    with Accelerator(config, backend=backend) as accelerator, Accelerator(config, backend="twin") as other:
        accelerator.gemm(a, w)
        backend.set_memory_timing(MemoryTiming(1000, 1 << 14))
        other.gemm(a, w)
        before = other.stats["cycles"]
        assert accelerator.stats["cycles"] == before
        accelerator.gemm(a, w)
        assert accelerator.stats["cycles"] > 10 * before


def test_a_restarted_device_has_the_memory_of_its_clock():
    with accelerator_with() as accelerator:
        cycles = stats_at(accelerator, 4e9, 40, 50, 60)["cycles"]
        accelerator.restart()
        assert stats_at(accelerator, 4e9, 40, 50, 60)["cycles"] == cycles


@pytest.mark.parametrize("timing_model", ["flip", "carry"])
def test_a_simulator_is_told_before_anything_else(timing_model):
    """Before the commands that move its domains: with `carry` they read memory. After a restart again."""
    config = AcceleratorConfig(timing_model=timing_model, memory=MemoryConfig(size_bytes=1 << 16))

    class Simulator(FakeSimulator):
        def run(self, commands, *, deadline_s=None):
            assert self.memory_settings == {"latency_cycles": 80, "bandwidth": 838_861}
            super().run(commands)

    simulator = Simulator(config)
    with Accelerator(config, backend=RtlBackend(config, lambda: simulator, deadline_s=1)) as accelerator:
        accelerator.set_operating_point(frequency_hz=2.5e9)
        accelerator.restart()
        ones = torch.ones(1, 1, dtype=torch.int8)
        accelerator.gemm(ones, ones)
    assert len(simulator.commands) == 1


def test_a_clock_for_which_the_memory_cannot_be_rescaled_is_refused_and_changes_nothing():
    with accelerator_with("carry", bytes_per_cycle=1) as accelerator:
        before = accelerator.stats["cycles"], accelerator.operating_points
        with pytest.raises(ValueError, match=r"^at 250000 times the nominal clock the memory would have .* lower the"):
            accelerator.set_operating_point(frequency_hz=5e14)
        with pytest.raises(ValueError, match=r"^clock must be positive, not 0; raise the frequency$"):
            accelerator.set_operating_point(frequency_hz=0.1)
        assert (accelerator.stats["cycles"], accelerator.operating_points) == before
