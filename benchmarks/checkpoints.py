"""What keeping a run costs: time with a state after each evaluation, over that without.

A shipped model on the twin with errors and rollback, ten images; runs take turns, and ratios are those of neighbours,
of the wall clock and of all cores for this process.
Run ``python benchmarks/checkpoints.py``; writes ``build/results/checkpoints.json``.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from brownout.host import Accelerator, OffloadedPipeline, Protection, RunCheckpoint, write_results
from brownout.hw.config import AcceleratorConfig, ChecksumConfig


def main(
    model: Annotated[str, typer.Option(help="digits or mnist")] = "mnist",
    repeats: Annotated[int, typer.Option(help="pairs of runs")] = 7,
) -> None:
    config = AcceleratorConfig(timing_model="flip", checksum=ChecksumConfig(scheme="residue"))
    ratios, cpu_ratios, plain_s, replay_s = [], [], [], []
    with Accelerator(config, backend="twin", protection=Protection(on_uncorrectable="suppress")) as accelerator:
        accelerator.set_error_rate(1e-3, seed=1)
        with OffloadedPipeline.shipped(model, accelerator) as pipe, tempfile.TemporaryDirectory() as root:

            def run(checkpoint: RunCheckpoint | None) -> tuple[torch.Tensor, float, float]:
                began = time.perf_counter(), time.process_time()
                images = pipe(range(10), seed=0, checkpoint=checkpoint)
                return images, time.perf_counter() - began[0], time.process_time() - began[1]

            expected, _, _ = run(None)
            for repeat in range(repeats):
                folder = Path(root) / str(repeat)
                kept, kept_s, kept_cpu_s = run(RunCheckpoint(folder))
                plain, seconds, cpu_s = run(None)
                replayed, again_s, _ = run(RunCheckpoint(folder))
                assert all(torch.equal(images, expected) for images in (kept, plain, replayed))
                ratios.append(kept_s / seconds)
                cpu_ratios.append(kept_cpu_s / cpu_s)
                plain_s.append(seconds)
                replay_s.append(again_s)
            files = list(folder.glob("*.safetensors"))
            metrics = {
                "evaluations": pipe.evaluations,
                "run_s": statistics.median(plain_s),
                "kept_over_plain": statistics.median(ratios),
                "kept_over_plain_least": min(ratios),
                "kept_over_plain_most": max(ratios),
                "kept_over_plain_cpu": statistics.median(cpu_ratios),
                "replay_s": statistics.median(replay_s),
                "state_bytes": max(file.stat().st_size for file in files if file.name.startswith("state")),
                "evaluation_bytes": max(file.stat().st_size for file in files if file.name.startswith("evaluation")),
                "folder_bytes": sum(file.stat().st_size for file in files),
            }
    for name, value in metrics.items():
        print(f"{name:22} {value:.4g}")
    print(write_results("checkpoints", metrics, config=config))


if __name__ == "__main__":
    typer.run(main)
