"""What the products of an offloaded model have done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..errors import AcceleratorClosedError
from .float_modules import FloatModule
from .offload import offloaded_model


@dataclass(frozen=True)
class LayerReport:
    """What one product of an offloaded model has done.

    Attributes
    ----------
    name : str
        Dotted name of the layer in the model; of attention with ``.qk`` (queries by keys) or ``.pv`` (exponentials by
        values).
    kind : str
        `LayerType.kind` of the layer, ``"linear"`` or ``"conv2d"`` for example, or ``"attention"``.
    accelerator : str
        Where it ran.
    k, n : int
        Extents of the last product.
    calls, rows : int
        Commands, and the rows (M) of all of them.
    macs, ideal_cycles : int
        Useful multiply-accumulates; cycles of an array that is never idle.
    cycles : int
        Cycles of all its commands.
    sqnr_db : float or None
        Signal-to-quantisation-noise ratio of the layer's output in its calibration; of attention, of both products
        together.
    inputs, saturated : int
        Values that were quantised for it (queries and keys, or values, of attention), and those of them that saturated.
    """

    name: str
    kind: str
    accelerator: str
    k: int
    n: int
    calls: int
    rows: int
    macs: int
    ideal_cycles: int
    cycles: int
    sqnr_db: float | None
    inputs: int = 0
    saturated: int = 0

    @property
    def saturation(self) -> float | None:
        """Share of the inputs that saturated; None before the first call."""
        return self.saturated / self.inputs if self.inputs else None

    @property
    def utilisation(self) -> float | None:
        """Ideal cycles over cycles; None before the first call."""
        return self.ideal_cycles / self.cycles if self.cycles else None


class Report(list[LayerReport]):
    """What the products of an offloaded model have done, in the order of the model; as text, a table.

    Attributes
    ----------
    left_in_float : tuple of FloatModule
        Modules of `OffloadedModel.left_in_float`.
    """

    def __init__(self, layers: Iterable[LayerReport], left_in_float: tuple[FloatModule, ...]) -> None:
        super().__init__(layers)
        self.left_in_float = left_in_float

    def __str__(self) -> str:
        columns = ("product", "kind", "k", "n", "calls", "MACs", "cycles", "utilisation", "SQNR", "saturated")
        rows: list[tuple[str, ...]] = [columns]
        for each in self:
            busy = "-" if each.utilisation is None else f"{each.utilisation:.3f}"
            sqnr = "-" if each.sqnr_db is None else f"{each.sqnr_db:.1f} dB"
            counts = (str(count) for count in (each.k, each.n, each.calls, each.macs, each.cycles))
            saturated = "-" if each.saturation is None else f"{100 * each.saturation:.3g} %"
            rows.append((each.name, each.kind, *counts, busy, sqnr, saturated))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if self.left_in_float:
            lines += ["", "in float:", *(f"  {each}" for each in self.left_in_float)]
        return "\n".join(lines)


def report(module: nn.Module) -> Report:
    """What each product has done since `offload`, in the order of the model, and what stays in float.

    Raises
    ------
    ValueError
        `module` is not offloaded.
    """
    model = offloaded_model(module)
    # Lets the accelerator count what it has put off; a closed one did that before.
    with contextlib.suppress(AcceleratorClosedError):
        _ = model.accelerator.stats
    layers = [
        LayerReport(
            name=product.name,
            kind=product.kind,
            accelerator=repr(model.accelerator),
            k=product.k,
            n=product.n,
            calls=product.calls,
            rows=product.rows,
            macs=product.macs,
            ideal_cycles=product.ideal_cycles,
            cycles=product.tally.cycles,
            sqnr_db=product.sqnr_db,
            inputs=product.inputs,
            saturated=product.saturated,
        )
        for product in model.products
    ]
    return Report(layers, model.left_in_float)
