"""A denoiser and a sampler as small as they can be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from brownout.host import Accelerator, Protection, journal, offload
from brownout.host.offloading import Calibration, LayerCalibration
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

CONFIG = AcceleratorConfig(
    rows=4,
    cols=4,
    block_rows=8,
    block_col_tiles=2,
    slab_bytes=8,
    timing_model="flip",
    checksum=ChecksumConfig(scheme="residue", group_rows=4, segment_cols=4),
    memory=MemoryConfig(size_bytes=1 << 20),
)
STEPS = 6


class Denoiser(nn.Module):
    """Two layers; counts how often it is evaluated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(10, 24), nn.Linear(24, 10)
        self.computed = 0

    def forward(self, sample: torch.Tensor, timestep: int) -> tuple[torch.Tensor, dict[str, int]]:
        self.computed += 1
        return self.last(torch.tanh(self.first(sample) + timestep / 10)), {"timestep": timestep}


def scales() -> Calibration:
    layers = {name: LayerCalibration("linear", torch.tensor([0.02], dtype=torch.float64)) for name in ("first", "last")}
    return Calibration(layers, "absmax", 100.0, None, ())


def sample(denoiser: nn.Module, seed: int = 0, steps: int = STEPS) -> torch.Tensor:
    """Draws noise of its own at each step."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(7, 10, generator=generator)
    with torch.no_grad():
        for step in range(steps):
            predicted, _ = denoiser(values, timestep=step)
            values = 0.7 * values + predicted + 0.1 * torch.randn(7, 10, generator=generator)
    return values


@contextmanager
def offloaded(rate: float = 3e-2, error_seed: int = 1, **options: object) -> Iterator[tuple[Denoiser, Accelerator]]:
    denoiser = Denoiser().requires_grad_(False)
    with Accelerator(
        CONFIG, backend="twin", protection=Protection(on_uncorrectable="suppress"), **options
    ) as accelerator:
        # Evaluations are counted, and a trial is none of the run.
        offload(denoiser, accelerator, calibration=scales()).awaits_trial = False
        accelerator.set_error_rate(rate, seed=error_seed)
        yield denoiser, accelerator


def run(checkpoint=None, seed: int = 0, steps: int = STEPS, **options):
    """Values, stats and number of evaluations computed, in an accelerator of its own."""
    with offloaded(**options) as (denoiser, accelerator):
        if checkpoint is None:
            values = sample(denoiser, seed, steps)
        else:
            with journal(denoiser, checkpoint):
                values = sample(denoiser, seed, steps)
        return values, dict(accelerator.stats), denoiser.computed
