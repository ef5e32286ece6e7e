"""STADI measured: how long one image takes on several unequal accelerators, and how good it is.

Run ``python benchmarks/stadi.py`` (``--images 20`` for a look); writes ``build/results/stadi.json`` and ``stadi.html``:
what ``stadi_time.py`` measures on DiT-XL/2 at 512 x 512 in simulated time, and what ``stadi_quality.py`` measures on
images of ``mnist-patch2``, with the metric names that are documented there.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import torch
import typer
from stadi_quality import MODEL, SETTINGS, measure
from stadi_time import run_study

from brownout.host import write_results
from pages.stadi import Report, write_page


def main(
    images: Annotated[int, typer.Option(help="of each setting")] = 100,
    threads: Annotated[int, typer.Option(help="of torch")] = 1,
) -> None:
    """Measure, write the result file and the page."""
    torch.set_num_threads(threads)
    study = run_study()
    quality, pictures = measure(images)
    divisions = {name: asdict(division) for name, division in SETTINGS.items()}
    metrics = study.metrics | quality
    path = write_results("stadi", metrics, config={"time": study.settings, "quality": divisions, "model": MODEL})
    page = write_page(Report(metrics, study.settings, study.timelines, pictures), path.with_suffix(".html"))
    print(path)
    print(page)
    for name in HEADLINES:
        print(f"{name:32} {metrics[name]:.4f}")


HEADLINES = (
    "reduction_vs_patch_1to2",
    "reduction_vs_elastic_1to2",
    "bound_ratio_min",
    "bound_ratio_min_varying",
    "utilisation_min",
    "planner_error_max",
    "joint_energy_saving",
    "joint_energy_saving_protected",
    "psnr_stride2_1to2_db",
    "psnr_single_half_db",
    "psnr_headroom_db",
    "agreement_drop_stride2_1to2",
    "psnr_stride4_1to4_db",
)

if __name__ == "__main__":
    typer.run(main)
