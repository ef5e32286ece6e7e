"""Command line of the demo."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from brownout.hw.config import AcceleratorConfig

from . import DEFAULT_VOLTAGE_V


def main(
    model: Annotated[str, typer.Option(help="digits, mnist or emoji")] = "digits",
    voltage: Annotated[
        float, typer.Option(help="of the array in the undervolted runs, 0.6..0.85 V")
    ] = DEFAULT_VOLTAGE_V,
    seed: Annotated[int, typer.Option(help="of the initial noise and of the timing errors")] = 0,
    rows: Annotated[int, typer.Option(help="rows of the array, 1..128")] = 16,
    cols: Annotated[int, typer.Option(help="columns of the array, 1..128")] = 16,
) -> None:
    """Draw ten pictures at nominal voltage, undervolted, and undervolted with rollback, on simulated RTL.

    Every run is drawn once more on the functional twin, and both must be the same, bit for bit.
    """
    # Here, so that --help is quick.
    import torch

    from brownout.cosim.errors import BuildError

    from ..errors import WeightsNotFoundError
    from ..storage.results import results_folder, write_results
    from .page import write_page
    from .run import run_demo

    # The layers are small, and more threads would take the simulators' cores while they wait for work.
    torch.set_num_threads(1)
    console = Console()
    try:
        config = AcceleratorConfig(rows=rows, cols=cols)
        results_folder()
        console.print(f"{model}: ten pictures, three runs on a {rows}x{cols} array")
        demo = run_demo(model, seed=seed, config=config, voltage_v=voltage, show_progress=True)
    except (ValueError, WeightsNotFoundError, BuildError) as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(2) from None
    settings = {**demo.config.to_dict(), "model": model, "seed": seed, "voltage_v": voltage}
    results = write_results("demo", demo.metrics, config=settings)
    page = write_page(demo, results.with_suffix(".html"))
    figures = demo.metrics
    for outcome in demo.outcomes:
        energy = outcome.rtl.energy_j()
        console.print(
            f"{outcome.scenario.title:26}  {outcome.recognised.sum()} of {len(demo.labels)} recognised, "
            f"{outcome.rtl.stats['injected']:6,.0f} errors; per image "
            f"{(energy['mac'] + energy['check']) / len(demo.labels) * 1e6:.2f} µJ in array and checksums, "
            f"{sum(energy.values()) / len(demo.labels) * 1e6:.1f} µJ in all"
        )
    console.print(
        f"One image over {' and '.join(device.name for device in demo.shared.devices)}: "
        f"{figures['fleet_latency_stadi_s'] * 1e3:.2f} ms, in equal halves "
        f"{figures['fleet_latency_uniform_s'] * 1e3:.2f} ms, on the large one alone "
        f"{figures['fleet_latency_single_s'] * 1e3:.2f} ms"
    )
    console.print(
        f"{figures['layer_calls']:.0f} layer calls and {figures['sim_cycles']:,.0f} cycles a run, "
        f"{figures['sim_cycles_per_s'] / 1e3:,.0f} k cycles/s, {figures['wall_s']:.1f} s in all"
    )
    console.print(f"{page}\n{results}")
    if demo.mismatch is not None:
        console.print(f"[red]NOT bit-exact: {demo.mismatch}[/red]")
        raise typer.Exit(1)
    console.print("[green]RTL and twin are bit-identical: every layer call, every step, every error[/green]")


if __name__ == "__main__":
    typer.run(main)
