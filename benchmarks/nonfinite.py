"""What does it cost to look for NaN, infinity and saturation in every input?

Run ``python benchmarks/nonfinite.py`` in a checkout (needs git); writes
``build/results/nonfinite.json``. The tree before there were these checks (`BEFORE`) is unpacked into a temporary
folder, and a process of each tree evaluates the same offloaded models on the clean twin, one core. Both alternate, and
which is first does too; what is compared is processor time, which other processes disturb least.

For a transformer block of DiT-XL/2 at 256 x 256 and a residual block of SD 1.5 at 32 x 32: ``ratio`` is the median over
pairs of after / before, ``ratio_high`` its upper 95 % bound (one-sided, by order statistics: a busy machine has
outliers).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from brownout.host import Accelerator, calibrate, offload, write_results
from brownout.hw.config import AcceleratorConfig, MemoryConfig

BEFORE = "62b4af0"
PAIRS = 200
PARTS = ("hw", "cosim", "host", "rtl")
SEED = 3


class Transformer(nn.Module):
    """Attention and feed-forward of DiT-XL/2."""

    def __init__(self, width: int = 1152, heads: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(self.norms[0](values)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        values = values + self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return values + self.second(F.gelu(self.first(self.norms[1](values)), approximate="tanh"))


class Residual(nn.Module):
    """A residual block of SD 1.5's widest level."""

    def __init__(self, channels: int = 320) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(32, channels) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result = values
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            result = convolution(F.silu(norm(result)))
        return values + result


MODELS = {"transformer": (Transformer, (1, 256, 1152), 2), "residual": (Residual, (1, 320, 32, 32), 8)}
"""With the shape of the input, and evaluations of each measurement."""


def work(name: str) -> None:
    """Evaluate a model for each line of the input, and say how much processor time it took, in seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    kind, shape, evaluations = MODELS[name]
    model = kind().eval().requires_grad_(False)
    values = torch.randn(shape)
    config = AcceleratorConfig(memory=MemoryConfig(size_bytes=1 << 28))
    with Accelerator(config, backend="twin") as accelerator, torch.inference_mode():
        offload(model, accelerator, calibration=calibrate(model, lambda m: m(values), measure_error=False))
        for _ in range(3):
            model(values)
        print("ready", flush=True)
        for _ in sys.stdin:
            began = time.process_time()
            for _ in range(evaluations):
                model(values)
            print((time.process_time() - began) / evaluations, flush=True)


@contextlib.contextmanager
def worker(tree: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """A process of another tree that is ready to evaluate a model."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "brownout"
        package.mkdir()
        for part in PARTS:
            (package / part).symlink_to(tree / part)
        process = subprocess.Popen(
            [sys.executable, __file__, "--work", name],
            env={**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"the process of {tree} did not begin; its own error is above")
            yield process
        finally:
            process.stdin.close()
            process.wait(timeout=60)


def seconds(process: subprocess.Popen[str]) -> float:
    """Of processor time for an evaluation."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(file=process.stdin, flush=True)
    return float(process.stdout.readline())


def bound(pairs: int) -> int:
    """Place, in their order, of the value that is not below the median with a probability of 95 %."""
    below = itertools.accumulate(math.comb(pairs, count) / 2**pairs for count in range(pairs))
    return next(place for place, share in enumerate(below) if share >= 0.95)


def measure(before: Path, after: Path, name: str, pairs: int) -> dict[str, float]:
    """Compare the trees by interleaved pairs."""
    taken: dict[str, list[float]] = {"before": [], "after": []}
    with worker(before, name) as old, worker(after, name) as new:
        processes = {"before": old, "after": new}
        for pair in range(pairs):
            for which in ("before", "after") if pair % 2 else ("after", "before"):
                taken[which].append(seconds(processes[which]))
    ratios = sorted(new_s / old_s for old_s, new_s in zip(taken["before"], taken["after"], strict=True))
    return {
        f"{name}_ratio": statistics.median(ratios),
        f"{name}_ratio_high": ratios[bound(pairs)],
        f"{name}_before_s": statistics.median(taken["before"]),
        f"{name}_after_s": statistics.median(taken["after"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"evaluations of each tree and model ({PAIRS})")
    parser.add_argument("--before", default=BEFORE, help=f"revision to compare with ({BEFORE})")
    parser.add_argument("--work", choices=MODELS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    after = Path(__file__).resolve().parents[1]
    metrics: dict[str, float] = {"pairs": arguments.pairs}
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "-C", str(after), "archive", arguments.before, *PARTS], check=True, stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        for name in MODELS:
            metrics |= measure(Path(folder), after, name, arguments.pairs)
            print({key: round(value, 4) for key, value in metrics.items() if key.startswith(name)}, flush=True)
    write_results("nonfinite", metrics)


if __name__ == "__main__":
    main()
