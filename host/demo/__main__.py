"""Command line of the demo."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from brownout.hw.config import AcceleratorConfig


def main(
    model: Annotated[str, typer.Option(help="digits or mnist")] = "digits",
    seed: Annotated[int, typer.Option(help="of the initial noise")] = 0,
    rows: Annotated[int, typer.Option(help="rows of the array, 1..128")] = 16,
    cols: Annotated[int, typer.Option(help="columns of the array, 1..128")] = 16,
) -> None:
    """Draw ten pictures on simulated RTL and on its twin, and prove that both did the same, bit for bit."""
    # Here, so that --help is quick.
    import torch

    from ..errors import WeightsNotFoundError
    from ..results import write_results
    from .page import write_page
    from .run import run_demo

    # The layers are small, and more threads would take the simulator's core while they wait for work.
    torch.set_num_threads(1)
    console = Console()
    try:
        config = AcceleratorConfig(rows=rows, cols=cols)
        console.print(f"{model}: ten pictures on a {rows}x{cols} array; the simulator is built at first use")
        demo = run_demo(model, seed=seed, config=config)
    except (ValueError, WeightsNotFoundError) as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(2) from None
    settings = {**config.to_dict(), "model": model, "seed": seed}
    results = write_results("demo", demo.metrics, config=settings)
    page = write_page(demo, results.with_suffix(".html"))
    figures = demo.metrics
    console.print(
        f"{figures['layer_calls']:.0f} layer calls, {figures['sim_cycles']:,.0f} cycles at "
        f"{figures['sim_cycles_per_s'] / 1e3:,.0f} k cycles/s, utilisation {figures['utilisation']:.3f}, "
        f"class agreement {figures['class_agreement']:.2f}, {figures['wall_s']:.1f} s"
    )
    console.print(f"{page}\n{results}")
    if demo.mismatch is not None:
        console.print(f"[red]NOT bit-exact: {demo.mismatch}[/red]")
        raise typer.Exit(1)
    console.print("[green]RTL and twin are bit-identical: every layer call, every step[/green]")


if __name__ == "__main__":
    typer.run(main)
