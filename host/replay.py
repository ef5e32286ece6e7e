"""Replay the pass of a mismatch: ``python -m brownout.host.replay FILE [--waves out.vcd]``."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from .device.mixed.case import Result


def main(
    file: Annotated[Path, typer.Argument(help="reproducer that a MismatchError names", exists=True, dir_okay=False)],
    waves: Annotated[Path | None, typer.Option(help="wave file to record, .vcd or .fst")] = None,
    deadline_s: Annotated[float, typer.Option(help="seconds after which the simulator is given up")] = 120.0,
) -> None:
    """Run a recorded pass on fresh RTL and on the twin, and say whether it still fails (status 1)."""
    # Here, so that --help is quick.
    from brownout.cosim.simulator import Simulator

    from .device.backends.rtl import RtlBackend
    from .device.mixed.case import load_case
    from .device.mixed.checker import Checker, compare
    from .errors import FileRefusedError

    console = Console(soft_wrap=True)
    try:
        saved = load_case(file)
    except FileRefusedError as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        raise typer.Exit(2) from None
    case, config = saved.case, saved.case.config
    console.print(f"{escape(str(case))}\nrecorded: {escape(saved.difference)}")
    if not saved.same_rtl:
        console.print("the RTL of this configuration has changed since")
    simulator = functools.partial(Simulator, config, waves=waves, deadline_s=deadline_s)
    checker = Checker(config, lambda: RtlBackend(config, simulator, deadline_s=deadline_s))
    try:
        verdict = checker.check(case)
        verdict = checker.finish() or verdict
    finally:
        checker.close()
    changed = compare(config, _timeless(saved.expected), _timeless(verdict.expected), ("recorded", "today"))
    if changed is not None:
        console.print(f"the twin has changed since: {escape(changed)}")
    if waves is not None:
        console.print(f"waves: {waves}")
    if verdict.difference is not None:
        console.print(f"[red]still fails: {escape(verdict.difference)}[/red]")
        raise typer.Exit(1)
    console.print("[green]no longer fails[/green]")


def _timeless(result: Result) -> Result:
    """Without the counter that depends on what ran before the pass."""
    counters = {name: value for name, value in result.counters.items() if name != "dram_row_activations"}
    return dataclasses.replace(result, counters=counters)


if __name__ == "__main__":
    typer.run(main)
