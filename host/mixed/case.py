"""A pass to be replayed, with all that decides about its result, in memory and as a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from brownout.hw.commands import GemmFlag
from brownout.hw.config import AcceleratorConfig

from ..files import read_tensors, write_tensors
from ..operands import GemmShape, Product, Requantisation, ResidentWeights
from ..twin.state import CommandOptions, ErrorState
from .passes import Tile, TileErrors

KIND = "reproducer"

_KINDS = ("outputs", "checks", "digits")
_ROW_MASK = (1 << 32) - 1


@dataclass(frozen=True)
class Result:
    """What a device made of a pass.

    Attributes
    ----------
    output : torch.Tensor
        int32 or int8 (rows, cols).
    log : bytes
        Syndrome records.
    counters : mapping
        By how much each hardware counter has grown.
    """

    output: torch.Tensor
    log: bytes
    counters: Mapping[str, int]


@dataclass(frozen=True)
class Case:
    """One pass of a product, cut out of it: it needs nothing else to be computed again.

    Attributes
    ----------
    config : AcceleratorConfig
    number : int
        How many calls of `Accelerator.gemm` came before the product's.
    tile : Tile
        Where the pass is in the output.
    k_tile : int
        Which of the k-tiles it is; with `search` the one at which the search for a faulty pass begins.
    search : bool
        Something errs in the tile, but in which k-tiles is not known.
    a, w : torch.Tensor
        int8 (rows, K) and (K, cols): all of K.
    bias, mult, shift : torch.Tensor or None
        (cols,), as in `Product`.
    output : torch.Tensor
        (rows, cols): what the product left there.
    options : CommandOptions
        Of the tile: first row and column are its own.
    state : ErrorState
        Operating points, rates, seed and lengths at the time.
    errors : TileErrors or None
        What erred there in the product; None if nothing can err.
    """

    config: AcceleratorConfig
    number: int
    tile: Tile
    k_tile: int
    search: bool
    a: torch.Tensor
    w: torch.Tensor
    bias: torch.Tensor | None
    mult: torch.Tensor | None
    shift: torch.Tensor | None
    output: torch.Tensor
    options: CommandOptions
    state: ErrorState
    errors: TileErrors | None

    @property
    def k_tiles(self) -> int:
        """k-tiles of the product."""
        return -(-self.a.shape[1] // self.config.rows)

    def __str__(self) -> str:
        first = self.k_tile * self.config.rows
        last = min(first + self.config.rows, self.a.shape[1]) - 1
        return f"product {self.number}, {self.tile}, k-tile {self.k_tile} (k {first}..{last})"

    def product(self, first_k_tile: int = 0, k_tiles: int | None = None) -> Product:
        """The tile's product over some of the k-tiles; by default over all of them.

        Its output begins as what the product left there: suppressed elements stay the same.
        """
        first = first_k_tile * self.config.rows
        end = self.a.shape[1] if k_tiles is None else first + k_tiles * self.config.rows
        a, w = self.a[:, first:end].contiguous(), self.w[first:end].contiguous()
        requant = None
        if self.mult is not None and self.shift is not None:
            requant = Requantisation(self.mult, self.shift)
        shape = GemmShape(1, self.tile.rows, self.tile.cols, a.shape[1])
        return Product(shape, a[None], w[None], self.bias, requant, self.output.clone()[None], self.options)

    def rest(self) -> Product:
        """Sums of all k-tiles but that of the pass: its weights are zero, with which no carry moves."""
        product = self.product()
        assert isinstance(product.w, torch.Tensor)
        w = product.w.clone()
        w[:, self.k_tile * self.config.rows : (self.k_tile + 1) * self.config.rows] = 0
        out = torch.empty(product.out.shape, dtype=torch.int32)
        return dataclasses.replace(product, w=w, bias=None, requant=None, out=out)


def cut(
    config: AcceleratorConfig,
    product: Product,
    tile: Tile,
    k_tile: int,
    search: bool,
    number: int,
    state: ErrorState,
    errors: TileErrors | None,
) -> Case:
    """Cut a pass out of a product that has been computed.

    Parameters
    ----------
    config, tile, k_tile, search, number, errors
        As in `Case`.
    product : Product
        Operands and output; what is needed of them is copied to the CPU.
    state : ErrorState
        Copied.
    """
    rows = slice(tile.first_row, tile.first_row + tile.rows)
    cols = slice(tile.first_col, tile.first_col + tile.cols)
    w = product.w.values if isinstance(product.w, ResidentWeights) else product.w
    options = product.options
    first_row = options.first_row + tile.batch * product.shape.m + tile.first_row & _ROW_MASK
    first_col = options.first_col + tile.first_col & _ROW_MASK
    requant = product.requant
    return Case(
        config=config,
        number=number,
        tile=tile,
        k_tile=k_tile,
        search=search,
        a=_copy(product.a[tile.batch, rows]),
        w=_copy(w[tile.batch, :, cols]),
        bias=None if product.bias is None else _copy(product.bias[cols]),
        mult=None if requant is None else _copy(requant.mult[cols]),
        shift=None if requant is None else _copy(requant.shift[cols]),
        output=_copy(product.out[tile.batch, rows, cols]),
        options=dataclasses.replace(options, first_row=first_row, first_col=first_col),
        state=dataclasses.replace(state, lengths=None if state.lengths is None else state.lengths.copy()),
        errors=errors,
    )


def _copy(values: torch.Tensor) -> torch.Tensor:
    # By numpy, on one thread: torch wakes others for copies of this size.
    return torch.from_numpy(values.detach().cpu().numpy().copy(order="K"))


def save_case(path: Path, case: Case, difference: str, expected: Result) -> None:
    """Write a case as a safetensors file, in one step.

    Parameters
    ----------
    path : Path
        Its folder is made.
    difference : str
        What was found.
    expected : Result
        Of the twin.

    Raises
    ------
    OSError
        It cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name in ("a", "w", "bias", "mult", "shift", "output"):
        values = getattr(case, name)
        if values is not None:
            tensors[name] = values
    if case.state.lengths is not None:
        tensors["lengths"] = torch.from_numpy(case.state.lengths)
    if case.errors is not None:
        tensors |= {f"errors.{kind}": torch.from_numpy(getattr(case.errors, kind)) for kind in _KINDS}
    tensors["expected.output"] = expected.output
    tensors["expected.log"] = torch.tensor(list(expected.log), dtype=torch.uint8)
    options = dataclasses.asdict(case.options)
    facts = {
        "difference": difference,
        "config": case.config.to_dict(),
        "rtl_hash": case.config.rtl_hash,
        "number": case.number,
        "tile": dataclasses.asdict(case.tile),
        "k_tile": case.k_tile,
        "options": {**options, "flags": int(case.options.flags)},
        "state": {name: getattr(case.state, name) for name in ("seed", "rates", "bits", "points")},
        "counters": dict(expected.counters),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, KIND, tensors, facts)


@dataclass(frozen=True)
class Saved:
    """A case from a file.

    Attributes
    ----------
    case : Case
    difference : str
        What was found when it was written.
    expected : Result
        What the twin made of it then.
    same_rtl : bool
        Whether the configuration still gives the RTL of then.
    """

    case: Case
    difference: str
    expected: Result
    same_rtl: bool


def load_case(path: Path) -> Saved:
    """Read what `save_case` has written.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    FileRefusedError
        It is not a reproducer, damaged, or of another version.
    """
    values, facts = read_tensors(path, KIND)
    config = AcceleratorConfig.from_dict(facts["config"])
    options, state = facts["options"], facts["state"]
    errors = None
    if "errors.outputs" in values:
        errors = TileErrors(*(values[f"errors.{kind}"].numpy() for kind in _KINDS))
    case = Case(
        config=config,
        number=facts["number"],
        tile=Tile(**facts["tile"]),
        k_tile=facts["k_tile"],
        search=False,
        a=values["a"],
        w=values["w"],
        bias=values.get("bias"),
        mult=values.get("mult"),
        shift=values.get("shift"),
        output=values["output"],
        options=CommandOptions(**{**options, "flags": GemmFlag(options["flags"])}),
        state=ErrorState(
            seed=state["seed"],
            rates=tuple(state["rates"]),
            bits=tuple(state["bits"]),
            points=tuple(state["points"]),
            lengths=values["lengths"].numpy() if "lengths" in values else None,
        ),
        errors=errors,
    )
    expected = Result(values["expected.output"], values["expected.log"].numpy().tobytes(), facts["counters"])
    return Saved(case, facts["difference"], expected, config.rtl_hash == facts["rtl_hash"])
