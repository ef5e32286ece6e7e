"""A pass to be replayed, with all that decides about its result, in memory and as a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Interval, Len

from brownout.hw.commands import GemmFlag
from brownout.hw.config import K_LIMIT, AcceleratorConfig
from brownout.hw.errors.state import BITS, CommandOptions, ErrorState, check_columns

from ...errors import FileRefusedError
from ...storage.decoding import Count, Form, Uint32, check_tensors
from ...storage.files import read_tensors, write_tensors
from ..product.operands import GemmShape, Product, Requantisation, ResidentWeights
from ..product.protection import THETA_LIMIT
from .passes import OutputTile, TileErrors

KIND = "reproducer"

_KINDS = ("outputs", "checks", "digits")
_ROW_MASK = (1 << 32) - 1


@dataclass(frozen=True)
class Result:
    """What a device made of a pass.

    Attributes
    ----------
    output : torch.Tensor
        int32, int16 or int8 (rows, cols).
    log : bytes
        Syndrome records of the pass.
    counters : mapping
        Growth of each hardware counter, by its name.
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
    tile : OutputTile
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
        Options of the tile: first row and column are its own.
    state : ErrorState
        Operating points, rates, seed and lengths at the time.
    errors : TileErrors or None
        What erred there in the product; None if nothing can err.
    """

    config: AcceleratorConfig
    number: int
    tile: OutputTile
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
            requant = Requantisation(self.mult, self.shift, 8 * self.output.element_size())
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
    tile: OutputTile,
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
        Fields of `Case` of these names.
    product : Product
        Operands and output; what is needed of them is copied to the CPU.
    state : ErrorState
        State of the errors, which is copied.
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
        Text of the difference that was found.
    expected : Result
        Result of the twin.

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


@dataclass(frozen=True)
class _Options:
    """`CommandOptions` in a file."""

    flags: Annotated[int, Interval(ge=0, lt=1 << 6)]
    error_key: Uint32
    first_row: Uint32
    first_col: Uint32
    theta: Annotated[int, Interval(ge=0, le=THETA_LIMIT)]
    log_bytes: Uint32


@dataclass(frozen=True)
class _State:
    """`ErrorState` in a file, without lengths."""

    seed: Uint32
    rates: list[Uint32]
    bits: Annotated[list[Uint32], Len(BITS - 1, BITS - 1)]
    points: list[Count]

    def __post_init__(self) -> None:
        if any(after < before for before, after in pairwise(self.bits)):
            raise ValueError("thresholds of bits must not fall")


@dataclass(frozen=True)
class _Facts:
    """What a file has beside the tensors."""

    difference: str
    config: AcceleratorConfig
    rtl_hash: str
    number: Count
    tile: OutputTile
    k_tile: Count
    options: _Options
    state: _State
    counters: dict[str, int]

    def __post_init__(self) -> None:
        tile, config, points = self.tile, self.config, self.state.points
        if min(tile.batch, tile.first_row, tile.first_col) < 0:
            raise ValueError(f"{tile} begins below zero")
        if not (0 < tile.rows <= config.block_rows and 0 < tile.cols <= config.cols):
            raise ValueError(
                f"a tile has 1..{config.block_rows} rows and 1..{config.cols} columns, not {tile.rows} and {tile.cols}"
            )
        if len(points) > config.check_domain + 1 or any(point >= config.operating_points for point in points):
            raise ValueError(f"points {points} are not those of {config.check_domain + 1} voltage domains")
        if len(self.state.rates) > config.operating_points:
            raise ValueError(f"there are {config.operating_points} operating points, but rates {self.state.rates}")


def _forms(facts: _Facts, given: Mapping[str, torch.Tensor], path: Path) -> dict[str, Form]:
    """What tensors there have to be."""
    rows, cols, config = facts.tile.rows, facts.tile.cols, facts.config
    k = given["a"].shape[-1] if "a" in given and given["a"].ndim else 0
    if not facts.k_tile * config.rows < k <= K_LIMIT:
        raise FileRefusedError(path, f"replays k-tile {facts.k_tile} of operands with K = {k}")
    dtype = torch.int32
    if "mult" in given:
        dtype = torch.int16 if "output" in given and given["output"].dtype == torch.int16 else torch.int8
    out = Form(dtype, (rows, cols))
    forms = {
        "a": Form(torch.int8, (rows, k)),
        "w": Form(torch.int8, (k, cols)),
        "output": out,
        "expected.output": out,
        "expected.log": Form(torch.uint8, (None,)),
    }
    if "bias" in given:
        forms["bias"] = Form(torch.int32, (cols,))
    if "mult" in given:
        forms |= {"mult": Form(torch.int64, (cols,)), "shift": Form(torch.int64, (cols,))}
    if "lengths" in given:
        forms["lengths"] = Form(torch.uint8, (config.rows, config.cols + check_columns(config)))
    if "errors.outputs" in given:
        forms |= {f"errors.{kind}": Form(torch.int64, (3, None)) for kind in _KINDS}
    return forms


def _check_places(errors: TileErrors, facts: _Facts, path: Path) -> None:
    """Refuse errors outside of the tile."""
    rows, config = facts.tile.rows, facts.config
    limits = {
        "outputs": (rows, facts.tile.cols),
        "checks": (rows, check_columns(config)),
        "digits": (rows, config.cols),
    }
    for kind, (rows_limit, cols_limit) in limits.items():
        places = getattr(errors, kind)[:2]
        if places.size and (places.min() < 0 or places[0].max() >= rows_limit or places[1].max() >= cols_limit):
            raise FileRefusedError(path, f"has errors of {kind} outside of its {rows_limit} x {cols_limit} places")


def load_case(path: Path) -> Saved:
    """Read what `save_case` has written.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    FileRefusedError
        It is not a reproducer, damaged, or of another version.
    """
    values, facts = read_tensors(path, KIND, _Facts)
    check_tensors(values, _forms(facts, values, path), path)
    options, state = facts.options, facts.state
    errors = None
    if "errors.outputs" in values:
        errors = TileErrors(*(values[f"errors.{kind}"].numpy() for kind in _KINDS))
        _check_places(errors, facts, path)
    case = Case(
        config=facts.config,
        number=facts.number,
        tile=facts.tile,
        k_tile=facts.k_tile,
        search=False,
        a=values["a"],
        w=values["w"],
        bias=values.get("bias"),
        mult=values.get("mult"),
        shift=values.get("shift"),
        output=values["output"],
        options=CommandOptions(**{**dataclasses.asdict(options), "flags": GemmFlag(options.flags)}),
        state=ErrorState(
            seed=state.seed,
            rates=tuple(state.rates),
            bits=tuple(state.bits),
            points=tuple(state.points),
            lengths=values["lengths"].numpy() if "lengths" in values else None,
        ),
        errors=errors,
    )
    try:
        case.product()
    except (TypeError, ValueError) as error:
        raise FileRefusedError(path, f"has operands that no product has: {error}") from error
    expected = Result(values["expected.output"], values["expected.log"].numpy().tobytes(), facts.counters)
    return Saved(case, facts.difference, expected, facts.config.rtl_hash == facts.rtl_hash)
