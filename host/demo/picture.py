"""The picture in the README: ``python -m brownout.host.demo.picture docs/digits.png``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from brownout.hw.config import AcceleratorConfig

from ..models.load import load_classifier
from ..quality import psnr, recognised
from . import DEFAULT_VOLTAGE_V
from .run import DemoJob
from .scenario import scenarios
from .trace import Trace

SCALE = 2
GAP_PX = 6


def contact_sheet(rows: list[torch.Tensor]) -> Image.Image:
    """One line of pictures for each row, with transparent gaps.

    Parameters
    ----------
    rows : list of torch.Tensor
        float32 (N, C, H, W) in [0, 1] each, of one shape.
    """
    count, _, height, width = rows[0].shape
    step_x, step_y = width * SCALE + GAP_PX, height * SCALE + GAP_PX
    sheet = Image.new("RGBA", (count * step_x + GAP_PX, len(rows) * step_y + GAP_PX))
    for line, images in enumerate(rows):
        pixels = (images * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
        for place, image in enumerate(pixels):
            tile = (
                Image.fromarray(image.numpy())
                .convert("RGBA")
                .resize((width * SCALE, height * SCALE), Image.Resampling.NEAREST)
            )
            sheet.paste(tile, (GAP_PX + place * step_x, GAP_PX + line * step_y))
    return sheet


def main(
    path: Annotated[Path, typer.Argument(help="PNG file")],
    model: Annotated[str, typer.Option(help="digits, mnist or emoji")] = "mnist",
    voltage: Annotated[float, typer.Option(help="of the array in the undervolted runs")] = DEFAULT_VOLTAGE_V,
    seed: Annotated[int, typer.Option(help="of the initial noise and of the timing errors")] = 0,
) -> None:
    """Draw the demo's three runs one below the other: on the twin, which is bit-identical to the RTL."""
    job = DemoJob.of(model, seed=seed, config=AcceleratorConfig())
    classifier, rows = load_classifier(model), []
    for scenario in scenarios(voltage):
        run = job.run(scenario, "twin", Trace())
        rows.append(run.images)
        good = int(recognised(run.images, torch.tensor(job.labels), classifier).sum())
        energy = {name: value / len(job.labels) * 1e6 for name, value in run.energy_j().items()}
        parts = ", ".join(f"{name} {value:.2f}" for name, value in energy.items())
        typer.echo(
            f"{scenario.title}: {good} of {len(job.labels)} recognised, {psnr(run.images, rows[0]):.1f} dB; "
            f"uJ per image: {sum(energy.values()):.2f} ({parts})"
        )
    contact_sheet(rows).save(path, optimize=True)


if __name__ == "__main__":
    typer.run(main)
