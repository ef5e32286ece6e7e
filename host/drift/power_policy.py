"""Which operating point each product of each evaluation runs at."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ..device.product.protection import Protection
from ..offloading.execution import ProductCall
from ..storage.decoding import Count, check, decode
from ..workload.product_site import ATTENTION_KINDS, BLOCK_LINEAR_KINDS, ProductSite
from .operating_point import GUARD_BAND, NOMINAL, OperatingPoint
from .strategies.base import DriftRun

PowerPolicy = Callable[[ProductSite], OperatingPoint]
"""``policy(site)``: the operating point of a product. Equal sites must get equal points."""


@runtime_checkable
class Listener(Protocol):
    """What a power policy may have beside ``__call__``, to be told how a run goes."""

    def begin_run(self, run: DriftRun) -> None:
        """Another image begins."""

    def begin_evaluation(self, run: DriftRun) -> None:
        """The next evaluation of the denoiser begins; the last one is over."""

    def product_checked(
        self,
        run: DriftRun,
        call: ProductCall,
        point: OperatingPoint,
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


_NAME = "name in descriptions"
"""Of a field in its metadata: checkpoints hold descriptions, so what is renamed keeps its name there."""


def _canonical(value: object) -> object:
    """JSON that is the same in every process: the order of a set is not."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.metadata.get(_NAME, each.name): _canonical(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, Mapping):
        return sorted([repr(key), _canonical(each)] for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return [_canonical(each) for each in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def describe_policy(policy: PowerPolicy) -> object:
    """What makes a policy different from others, as JSON; of a function that is its name only."""
    if isinstance(policy, Listener):
        return policy.describe()
    if is_dataclass(policy):
        kind = _KINDS.get(type(policy), type(policy).__qualname__)
        return {"kind": kind, "parameters": _canonical(policy)}
    return getattr(policy, "__qualname__", type(policy).__qualname__)


@dataclass(frozen=True)
class ConstantPolicy:
    """Every product at one operating point."""

    point: OperatingPoint = field(metadata={_NAME: "setting"})

    def __call__(self, site: ProductSite) -> OperatingPoint:
        """The operating point."""
        return self.point


def constant(point: OperatingPoint) -> PowerPolicy:
    """Every product at one operating point."""
    return ConstantPolicy(point)


@dataclass(frozen=True, kw_only=True)
class SelectivePolicy:
    """One operating point for most of a run, a safe one for what must not err.

    Attributes
    ----------
    low : OperatingPoint
        Point of everything that is not protected.
    safe : OperatingPoint
        Point of what is protected.
    evaluations : collection of int
        Evaluations at the safe point; those before `first` too.
    first : int
        So many evaluations at the beginning are at the safe point.
    blocks : collection of str
        Blocks at the safe point in all evaluations.
    kinds : collection of str, optional
        Kinds of products that may run at `low`; by default all.
    exempt : tuple of (str, OperatingPoint)
        Kinds of products that never run at `low`, each with its own point: attention at the guard band, say.
    """

    low: OperatingPoint
    safe: OperatingPoint = NOMINAL
    first: int = 0
    evaluations: Collection[int] = ()
    blocks: Collection[str] = ()
    kinds: Collection[str] | None = None
    exempt: tuple[tuple[str, OperatingPoint], ...] = ()

    def __call__(self, site: ProductSite) -> OperatingPoint:
        """The operating point of a product."""
        for kind, point in self.exempt:
            if site.kind == kind:
                return point
        protected = (
            site.evaluation < self.first
            or site.evaluation in self.evaluations
            or site.block in self.blocks
            or (self.kinds is not None and site.kind not in self.kinds)
        )
        return self.safe if protected else self.low


def published(
    low: OperatingPoint, *, evaluations: Collection[int] = (0, 1), safe: OperatingPoint = NOMINAL
) -> SelectivePolicy:
    """DRIFT's fixed policy (arXiv 2604.09073): block Linear layers at the low point, the first two steps nominal.

    For PixArt-alpha in 30 steps it is `evaluations` 0 and 29.
    """
    return SelectivePolicy(low=low, safe=safe, evaluations=frozenset(evaluations), kinds=BLOCK_LINEAR_KINDS)


def whole(
    low: OperatingPoint,
    *,
    attention: OperatingPoint = GUARD_BAND,
    modulation: OperatingPoint = GUARD_BAND,
    first: int = 1,
) -> SelectivePolicy:
    """All layers at the low point but those few that hurt most, and attention at a point of its own.

    Parameters
    ----------
    low : OperatingPoint
        Of all other layers.
    attention : OperatingPoint
        Of both products of attention, in all evaluations; by default as low as nothing errs.
    modulation : OperatingPoint
        Likewise of adaptive norms, whose few rows scale and shift all tokens.
    first : int
        Evaluations at the beginning that are nominal: in the first there is nothing to go back to.
    """
    exempt = (*((kind, attention) for kind in ATTENTION_KINDS), ("modulation", modulation))
    return SelectivePolicy(low=low, first=first, exempt=exempt)


@dataclass(frozen=True)
class _Entry:
    """An entry of a table, by the names in files."""

    evaluation: Count
    block: str
    setting: OperatingPoint


@dataclass(frozen=True)
class TableDocument:
    """A table, by the names in files."""

    default: OperatingPoint
    kinds: list[str] | None
    settings: list[_Entry]

    def __post_init__(self) -> None:
        seen = set[tuple[int, str]]()
        for each in self.settings:
            if (each.evaluation, each.block) in seen:
                raise ValueError(f"evaluation {each.evaluation}, block {each.block!r} has two operating points")
            seen.add((each.evaluation, each.block))

    @property
    def table(self) -> TablePolicy:
        """The table."""
        return TablePolicy(
            {(each.evaluation, each.block): each.setting for each in self.settings},
            default=self.default,
            kinds=None if self.kinds is None else tuple(self.kinds),
        )


@dataclass(frozen=True)
class TablePolicy:
    """An operating point for each (evaluation, block), as policy search finds them.

    Attributes
    ----------
    points : mapping
        Operating points by (evaluation, block).
    default : OperatingPoint
        Point of all other sites.
    kinds : collection of str, optional
        Kinds of products that the table is for; others get `default`. By default all.
    """

    points: Mapping[tuple[int, str], OperatingPoint] = field(metadata={_NAME: "settings"})
    default: OperatingPoint = NOMINAL
    kinds: Collection[str] | None = field(default=None)

    def __call__(self, site: ProductSite) -> OperatingPoint:
        """The operating point of a product."""
        if self.kinds is not None and site.kind not in self.kinds:
            return self.default
        return self.points.get((site.evaluation, site.block), self.default)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "default": self.default.to_dict(),
            "kinds": None if self.kinds is None else list(self.kinds),
            "settings": [
                {"evaluation": evaluation, "block": block, "setting": point.to_dict()}
                for (evaluation, block), point in self.points.items()
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TablePolicy:
        """Undo `to_dict`; raises as `from_json`."""
        return check(dict(data), TableDocument, "this").table

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: Path | str = "this") -> TablePolicy:
        """Undo `to_json`.

        Parameters
        ----------
        text : str
            JSON that `to_json` gave.
        source : Path or str
            Where it was read: for messages.

        Raises
        ------
        FileRefusedError
            It is something else, or has points that cannot be.
        """
        return decode(text, TableDocument, source).table


_KINDS: dict[type[Any], str] = {ConstantPolicy: "Constant", SelectivePolicy: "Phases", TablePolicy: "Table"}
"""Names in descriptions, which checkpoints hold: they stay."""
