"""How fast is the twin? int8 products on it against float32 ``torch.matmul`` of the same shape.

Run ``python benchmarks/twin.py``; writes ``build/results/twin.json``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer

from brownout.host import Accelerator, write_results
from brownout.hw.config import AcceleratorConfig

M, K, N = 1024, 1152, 4608
"""Tokens of a 512x512 image into the feed-forward layer of DiT-XL/2."""

SEED = 0


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main(
    repeats: Annotated[int, typer.Option(help="interleaved measurements of each")] = 30,
    threads: Annotated[int, typer.Option(help="torch threads; 0: torch's own choice")] = 0,
) -> None:
    """Measure, print and write the results."""
    if threads:
        torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(SEED)
    a = torch.randint(-128, 128, (M, K), dtype=torch.int8, generator=generator)
    w = torch.randint(-128, 128, (K, N), dtype=torch.int8, generator=generator)
    a_float, w_float = a.float(), w.float()
    config = AcceleratorConfig()
    with Accelerator(config, backend="twin") as accelerator:
        weights = accelerator.upload(w)
        # Both write to a buffer that is there: new memory for 4.7 M results costs more than some products.
        sums, result = torch.empty(M, N, dtype=torch.int32), torch.empty(M, N)
        contestants = {
            "twin": lambda: accelerator.gemm(a, weights, out=sums),
            "fp32": lambda: torch.matmul(a_float, w_float, out=result),
        }
        for run in contestants.values():
            run()
        # Interleaved, so that other load on the machine meets both alike.
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(repeats):
            for name, run in contestants.items():
                times[name].append(_seconds(run))
    gmacs = M * K * N / 1e9
    speed = {name: gmacs / statistics.median(values) for name, values in times.items()}
    ratios = [fp32 / twin for twin, fp32 in zip(times["twin"], times["fp32"], strict=True)]
    metrics = {
        "twin_gmac_per_s": speed["twin"],
        "fp32_gmac_per_s": speed["fp32"],
        "twin_over_fp32": statistics.median(ratios),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
    }
    settings = {"m": M, "k": K, "n": N, "cpu_capability": torch.backends.cpu.get_cpu_capability(), **config.to_dict()}
    path = write_results("twin", metrics, config=settings)
    print(
        f"twin {speed['twin']:.0f} GMAC/s, float32 {speed['fp32']:.0f} GMAC/s, "
        f"ratio {metrics['twin_over_fp32']:.2f}; {path}"
    )


if __name__ == "__main__":
    typer.run(main)
