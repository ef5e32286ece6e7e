"""Which setting each product of each evaluation runs at."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ..device.product.protection import Protection
from ..offloading.execution import ProductCall
from ..storage.decoding import Count, check, decode
from ..workload.cell import BLOCK_LINEAR_KINDS, Cell
from .setting import NOMINAL, Setting
from .strategies.base import DriftRun

Schedule = Callable[[Cell], Setting]
"""``schedule(cell)``: the setting of a product. Equal cells must get equal settings."""


@runtime_checkable
class Listener(Protocol):
    """What a schedule may have beside ``__call__``, to be told how a run goes."""

    def begin_run(self, run: DriftRun) -> None:
        """Another image begins."""

    def begin_evaluation(self, run: DriftRun) -> None:
        """The next evaluation of the denoiser begins; the last one is over."""

    def product_checked(
        self,
        run: DriftRun,
        call: ProductCall,
        setting: Setting,
        protection: Protection,
        found: Mapping[str, int],
    ) -> None:
        """A product has run with checks, which found so much: ``checks``, ``detected`` and so on of this product."""

    def end_run(self, run: DriftRun) -> None:
        """No more images follow: `protect` ends."""

    def describe(self) -> dict[str, Any]:
        """What makes it different from others, as JSON."""

    def state(self) -> Mapping[str, Any]:
        """What the next evaluation depends on, as JSON."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""


def _canonical(value: object) -> object:
    """JSON that is the same in every process: the order of a set is not."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _canonical(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, Mapping):
        return sorted([repr(key), _canonical(each)] for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return [_canonical(each) for each in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def describe_schedule(schedule: Schedule) -> object:
    """What makes a schedule different from others, as JSON; of a function that is its name only."""
    if isinstance(schedule, Listener):
        return schedule.describe()
    if is_dataclass(schedule):
        return {"kind": type(schedule).__qualname__, "parameters": _canonical(schedule)}
    return getattr(schedule, "__qualname__", type(schedule).__qualname__)


@dataclass(frozen=True)
class Constant:
    """Every product at one setting."""

    setting: Setting

    def __call__(self, cell: Cell) -> Setting:
        """The setting."""
        return self.setting


def constant(setting: Setting) -> Schedule:
    """Every product at one setting."""
    return Constant(setting)


@dataclass(frozen=True, kw_only=True)
class Phases:
    """One setting for most of a run, a safe one for what must not err.

    Attributes
    ----------
    low : Setting
        Of everything else.
    safe : Setting
        Of what is protected.
    evaluations : collection of int
        Evaluations at the safe setting; those before `first` too.
    first : int
        So many evaluations at the beginning are at the safe setting.
    blocks : collection of str
        Blocks at the safe setting in all evaluations.
    kinds : collection of str, optional
        Kinds of products that may run at `low`; by default all.
    """

    low: Setting
    safe: Setting = NOMINAL
    first: int = 0
    evaluations: Collection[int] = ()
    blocks: Collection[str] = ()
    kinds: Collection[str] | None = None

    def __call__(self, cell: Cell) -> Setting:
        """The setting of a product."""
        protected = (
            cell.evaluation < self.first
            or cell.evaluation in self.evaluations
            or cell.block in self.blocks
            or (self.kinds is not None and cell.kind not in self.kinds)
        )
        return self.safe if protected else self.low


def published(low: Setting, *, evaluations: Collection[int] = (0, 1), safe: Setting = NOMINAL) -> Phases:
    """DRIFT's fixed policy (arXiv 2604.09073): block Linear layers at the low point, the first two steps nominal.

    For PixArt-alpha in 30 steps it is `evaluations` 0 and 29.
    """
    return Phases(low=low, safe=safe, evaluations=frozenset(evaluations), kinds=BLOCK_LINEAR_KINDS)


@dataclass(frozen=True)
class _Entry:
    """An entry of a table in JSON."""

    evaluation: Count
    block: str
    setting: Setting


@dataclass(frozen=True)
class TableDocument:
    """A table in JSON."""

    default: Setting
    kinds: list[str] | None
    settings: list[_Entry]

    def __post_init__(self) -> None:
        seen = set[tuple[int, str]]()
        for each in self.settings:
            if (each.evaluation, each.block) in seen:
                raise ValueError(f"evaluation {each.evaluation}, block {each.block!r} has two settings")
            seen.add((each.evaluation, each.block))

    @property
    def table(self) -> Table:
        """The table."""
        return Table(
            {(each.evaluation, each.block): each.setting for each in self.settings},
            default=self.default,
            kinds=None if self.kinds is None else tuple(self.kinds),
        )


@dataclass(frozen=True)
class Table:
    """A setting for each (evaluation, block), as policy search finds them.

    Attributes
    ----------
    settings : mapping
        From (evaluation, block).
    default : Setting
        Of all other cells.
    kinds : collection of str, optional
        Kinds of products that the table is for; others get `default`. By default all.
    """

    settings: Mapping[tuple[int, str], Setting]
    default: Setting = NOMINAL
    kinds: Collection[str] | None = field(default=None)

    def __call__(self, cell: Cell) -> Setting:
        """The setting of a product."""
        if self.kinds is not None and cell.kind not in self.kinds:
            return self.default
        return self.settings.get((cell.evaluation, cell.block), self.default)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "default": self.default.to_dict(),
            "kinds": None if self.kinds is None else list(self.kinds),
            "settings": [
                {"evaluation": evaluation, "block": block, "setting": setting.to_dict()}
                for (evaluation, block), setting in self.settings.items()
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Table:
        """Undo `to_dict`; raises as `from_json`."""
        return check(dict(data), TableDocument, "this").table

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: Path | str = "this") -> Table:
        """Undo `to_json`.

        Parameters
        ----------
        text : str
            JSON.
        source : Path or str
            Where it was read: for messages.

        Raises
        ------
        FileRefusedError
            It is something else, or has settings that cannot be.
        """
        return decode(text, TableDocument, source).table
