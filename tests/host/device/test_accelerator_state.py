"""An accelerator takes up the state of another one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from brownout.host import Accelerator, DelayModel, Protection
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

SUPPRESS = Protection(on_uncorrectable="suppress", correct=False)


def config(timing_model, **fields):
    memory = MemoryConfig(size_bytes=1 << 21, row_bytes=512, banks=8, latency_cycles=20)
    checksum = ChecksumConfig(scheme="residue", group_rows=4, segment_cols=4)
    small = {"rows": 4, "cols": 4, "block_rows": 8, "block_col_tiles": 2, "slab_bytes": 8, "voltage_domains": 2}
    return AcceleratorConfig(
        **small | {"operating_points": 3, "timing_model": timing_model, "checksum": checksum, "memory": memory} | fields
    )


class Work:
    """Products that depend on those before, by the slot that they share and by the memory."""

    def __init__(self, accelerator, generator):
        self.accelerator = accelerator
        self.w = accelerator.upload(torch.randint(-128, 128, (40, 30), dtype=torch.int8, generator=generator))
        self.a = [torch.randint(-128, 128, (20, 40), dtype=torch.int8, generator=generator) for _ in range(4)]
        self.slot = accelerator.new_slot(20, 30)

    def begin(self):
        self.accelerator.set_operating_point(voltage_v=0.66, frequency_hz=1.9e9)
        self.accelerator.set_operating_point(domain="check", voltage_v=0.8)
        self.accelerator.set_operating_point(domain=1, voltage_v=0.64)
        self.multiply(0)
        self.accelerator.reset_stats()
        self.multiply(1)

    def go_on(self):
        self.multiply(2)
        self.accelerator.set_operating_point(domain=0, voltage_v=0.7)
        self.accelerator.set_delay_model(replace(self.accelerator.delay_model, delay_factor=1.02))
        self.multiply(3)
        return self.slot, dict(self.accelerator.stats)

    def multiply(self, number):
        self.accelerator.gemm(self.a[number], self.w, out=self.slot, error_key=number, protection=SUPPRESS)

    def state(self):
        return self.accelerator.state(), self.slot.clone(), self.accelerator.is_unwritten(self.slot)

    def load(self, state):
        settings, values, unwritten = state
        self.accelerator.load_state(settings)
        self.slot = self.accelerator.load_slot(values, unwritten=unwritten)


def same(got, expected):
    assert torch.equal(got[0], expected[0])
    assert got[1] == expected[1]


def work(accelerator, seed=1):
    return Work(accelerator, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("timing_model", ["flip", "carry"])
def test_results_and_stats_go_on_in_another_accelerator(timing_model):
    chosen = config(timing_model)
    with Accelerator(chosen, backend="twin") as first, Accelerator(chosen, backend="twin") as second:
        begun, other = work(first), work(second)
        begun.begin()
        state = begun.state()
        expected = begun.go_on()
        assert expected[1]["suppressed"] > 0
        # Whatever it has done before.
        second.set_operating_point(voltage_v=0.6)
        other.multiply(3)
        other.load(state)
        assert second.operating_points != first.operating_points
        same(other.go_on(), expected)
        assert second.operating_points == first.operating_points
        # And back again in the same, in the world as it was.
        first.set_delay_model(DelayModel())
        begun.load(state)
        same(begun.go_on(), expected)
        begun.accelerator.restart()
        assert begun.accelerator.stats["macs"] == 0


def test_a_slot_is_as_unwritten_as_it_was():
    with Accelerator(config("flip"), backend="twin") as first, Accelerator(config("flip"), backend="twin") as second:
        begun, other = work(first), work(second)
        first.set_error_rate(0.2, seed=1)
        state = begun.state()
        begun.multiply(0)
        assert first.stats["suppressed_unwritten"] > 0
        other.load(state)
        other.multiply(0)
        assert second.stats == first.stats


def test_settings_name_all_on_which_results_depend():
    with Accelerator(config("carry"), backend="twin") as accelerator:
        before = accelerator.settings
        assert accelerator.settings == before
        changed = set()
        accelerator.protection = SUPPRESS
        changed |= {name for name, value in accelerator.settings.items() if value != before[name]}
        accelerator.set_operating_point(voltage_v=0.7)
        changed |= {name for name, value in accelerator.settings.items() if value != before[name]}
        assert changed == {"protection", "operating_points", "carry_lengths"}


@pytest.mark.rtl
def test_rtl_and_twin_take_up_each_others_state():
    """Down to the rows of memory that are open."""
    chosen = config("carry")
    with Accelerator(chosen, backend="twin") as twin, Accelerator(chosen, backend="rtl") as rtl:
        on_twin, on_rtl = work(twin), work(rtl)
        for each in (on_twin, on_rtl):
            each.begin()
        state = on_rtl.state()
        expected = on_rtl.go_on()
        assert expected[1]["dram_row_activations"] > 0
        on_twin.load(state)
        begun = on_twin.state()
        same(on_twin.go_on(), expected)
        rtl.set_delay_model(DelayModel())
        on_rtl.load(begun)
        same(on_rtl.go_on(), expected)
