"""Replays of passes on simulated RTL beside a run on the twin."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from brownout.cosim.errors import SimulatorDied
from brownout.host import Accelerator, MismatchError, MixedOptions, Protection, Requantisation, replay
from brownout.host.device.mixed.checker import ObservedTwin
from brownout.hw.config import AcceleratorConfig, MemoryConfig

from .test_protected_commands import CONFIGS

pytestmark = [pytest.mark.rtl, pytest.mark.xdist_group("protected")]

PLAIN = AcceleratorConfig(rows=2, cols=2, memory=MemoryConfig(size_bytes=1 << 20))
FLIP = CONFIGS["residue-flip"]


def random_int8(generator, *shape):
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pid_of(accelerator):
    return accelerator._device._checker._rtl._simulator.pid


def journey(accelerator):
    """Results, logs and counters of a few products between changes of operating points."""
    generator, model = torch.Generator().manual_seed(1), accelerator.config.timing_model
    m, k, n, found = 37, 11, 21, []
    slots = [accelerator.new_slot(2, m, n, dtype=dtype) for dtype in (torch.int32, torch.int8, torch.int16)]
    weights = accelerator.upload(random_int8(generator, 2, k, n))
    for step in range(6):
        if step == 1 and model == "flip":
            accelerator.set_error_rate(0.02, seed=7, check_rate=0.01)
        if step == 1 and model == "carry":
            accelerator.set_operating_point(voltage_v=0.76)
            accelerator.set_operating_point(voltage_v=0.78, domain="check")
        if step == 3:
            accelerator.set_operating_point(voltage_v=0.66, domain=0, seed=9 if model == "flip" else None)
        settings = {}
        if step >= 4:
            scales = Requantisation(torch.full((n,), 1 << 20), torch.full((n,), 30), 8 if step == 4 else 16)
            settings = {"requant": scales, "bias": torch.arange(n, dtype=torch.int32)}
        out = slots[max(step - 3, 0)]
        a = random_int8(generator, 2, m, k)
        accelerator.gemm(a, weights, out=out, error_key=step, first_row=3, first_col=8, **settings)
        found.append((out.clone(), accelerator.last_log, dict(accelerator.stats)))
    return found


@pytest.mark.parametrize(
    ("name", "layout"), [("residue-flip", "row-major"), ("weighted-flip", "tiled"), ("residue-carry", "row-major")]
)
def test_a_run_is_that_of_the_twin_and_its_passes_are_those_of_the_rtl(name, layout):
    protection, options = (
        Protection(on_uncorrectable="suppress", log_records=9),
        MixedOptions(passes_per_product=8, seed=4),
    )
    with (
        Accelerator(CONFIGS[name], backend="twin", protection=protection, layout=layout) as twin,
        Accelerator(CONFIGS[name], backend="mixed", mixed=options, protection=protection, layout=layout) as mixed,
    ):
        for expected, got in zip(journey(twin), journey(mixed), strict=True):
            assert torch.equal(expected[0], got[0])
            assert expected[1:] == got[1:]
        coverage = mixed.coverage
    assert (coverage.products, coverage.replayed, coverage.mismatches) == (6, 48, 0)
    # All but those of the first product, in which nothing errs.
    assert coverage.faulty_replayed == 40
    assert coverage.rtl_cycles > 48 * 80
    assert coverage.rtl_wall_s > 0


def test_a_pass_of_half_a_voltage_domain_has_its_own_lengths():
    with Accelerator(CONFIGS["residue-carry"], backend="mixed", mixed=MixedOptions(passes_per_product=4)) as mixed:
        generator = torch.Generator().manual_seed(2)
        for voltage in (0.76, 0.7, 0.9):
            mixed.set_operating_point(voltage_v=voltage, domain=1)
            mixed.gemm(random_int8(generator, 40, 9), random_int8(generator, 9, 12))
        assert mixed.coverage.replayed == 12
        assert mixed.coverage.faulty_replayed == 8


def test_a_simulator_killed_in_mid_run_is_named_and_replaced():
    generator = torch.Generator().manual_seed(3)
    a, w = random_int8(generator, 20, 7), random_int8(generator, 7, 9)
    with Accelerator(FLIP, backend="mixed", protection=Protection()) as mixed:
        mixed.set_error_rate(0.1, seed=1)
        mixed.gemm(a, w)
        assert mixed.coverage.replayed == 1
        os.kill(pid_of(mixed), signal.SIGKILL)
        mixed.gemm(a, w)
        with pytest.raises(SimulatorDied, match=r"log: \S+"):
            mixed.coverage  # noqa: B018
        with pytest.raises(SimulatorDied):
            mixed.gemm(a, w)
        mixed.restart()
        assert mixed.stats["macs"] == 0
        mixed.gemm(a, w)
        coverage, pid = mixed.coverage, pid_of(mixed)
        assert (coverage.products, coverage.replayed, coverage.faulty_replayed) == (3, 2, 2)
        assert alive(pid)
    assert not alive(pid)


def test_the_simulator_ends_with_an_exception():
    found = []

    def fail():
        with Accelerator(PLAIN, backend="mixed") as mixed:
            found.append(pid_of(mixed))
            mixed.gemm(torch.ones(3, 5, dtype=torch.int8), torch.ones(5, 4, dtype=torch.int8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not alive(found[0])


def run_replay(*arguments):
    app = Typer()
    app.command()(replay.main)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_a_mismatch_leaves_a_file_that_replays_with_waves(tmp_path: Path, monkeypatch):
    gemm = ObservedTwin.gemm

    def wrong(twin, product):
        log = gemm(twin, product)
        # Passes alone are so short.
        if product.shape.k <= twin.config.rows:
            product.out[0, 1, 1] ^= 1 << 9
        return log

    generator = torch.Generator().manual_seed(4)
    with monkeypatch.context() as patch:
        patch.setattr(ObservedTwin, "gemm", wrong)
        with Accelerator(PLAIN, backend="mixed", mixed=MixedOptions(folder=tmp_path)) as mixed:
            mixed.gemm(random_int8(generator, 8, 9), random_int8(generator, 9, 6))
            with pytest.raises(MismatchError, match=r"row 1, column 1 .* differing bits 0x00000200") as caught:
                mixed.coverage  # noqa: B018
        code, output = run_replay(caught.value.reproducer)
        assert code == 1
        assert f"still fails: {caught.value.difference}" in output
        assert "has changed" not in output
    waves = tmp_path / "pass.vcd"
    code, output = run_replay(caught.value.reproducer, "--waves", waves)
    assert code == 0
    assert re.search(r"the twin has changed since: output, recorded \(expected\) and today: 1 of 4 elements", output)
    assert output.rstrip().endswith("no longer fails")
    assert waves.read_text().startswith("$")


def test_what_is_no_reproducer_is_refused(tmp_path: Path):
    (tmp_path / "text").write_text("nothing")
    code, output = run_replay(tmp_path / "text")
    assert code == 2
    assert "is damaged, or no safetensors file" in output
