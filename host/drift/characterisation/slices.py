"""Slices of a run: the sites, and bits, in which characterisation lets errors happen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import nn

from ...storage.decoding import Count, check
from ...workload.product_site import ProductSite
from ..operating_point import NOMINAL, OperatingPoint, only_bits
from ..power_policy import PowerPolicy
from ..runtime import protect
from ..strategies import Unprotected

T = TypeVar("T")

Run = Callable[[int, int], torch.Tensor]
"""``run(seed, count)``: one sampling run of the offloaded denoiser, images (count, C, H, W) in [0, 1].

The noise follows from `seed` alone, and all images go through the denoiser together.
"""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Some of a run's products, and some bits of their sums; what is None is not restricted.

    Attributes
    ----------
    name : str
        How profiles call it.
    bits : tuple of int, optional
        Bits that are hit, all alike.
    evaluations : tuple of int, optional
        Evaluations of the denoiser, from 0 on.
    blocks, kinds : tuple of str, optional
        Blocks and kinds of products (`ProductSite`).
    """

    name: str
    bits: tuple[int, ...] | None = None
    evaluations: tuple[Count, ...] | None = None
    blocks: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.bits is not None:
            only_bits(self.bits)
        for name in ("evaluations", "blocks", "kinds"):
            if getattr(self, name) == ():
                raise ValueError(f"Slice.{name} of {self.name!r} is empty; None stands for all")

    def __contains__(self, site: ProductSite) -> bool:
        return (
            (self.evaluations is None or site.evaluation in self.evaluations)
            and (self.blocks is None or site.block in self.blocks)
            and (self.kinds is None or site.kind in self.kinds)
        )

    def __and__(self, other: Slice) -> Slice:
        """What is in both; named after both.

        Raises
        ------
        ValueError
            Nothing can be in both.
        """
        both: dict[str, Any] = {}
        for each in fields(self)[1:]:
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if mine is not None and theirs is not None:
                both[each.name] = tuple(value for value in mine if value in theirs)
            else:
                both[each.name] = theirs if mine is None else mine
        return Slice(name=f"{self.name}/{other.name}", **both)

    def low(self, point: OperatingPoint) -> OperatingPoint:
        """What its sites run at.

        Raises
        ------
        ValueError
            Bits are chosen, but the operating point has no error rate of its own.
        """
        if self.bits is None:
            return point
        if point.error_rate is None:
            raise ValueError(
                f"slice {self.name!r} chooses bits, which needs operating points with error_rate, not {point}"
            )
        return replace(point, bit_weights=only_bits(self.bits))

    def to_dict(self) -> dict[str, Any]:
        """What is restricted, for JSON."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Slice:
        """Undo `to_dict`; raises `FileRefusedError` for anything else."""
        return check(dict(data), cls, "a slice")


def bit_slices(bits: Iterable[int], within: Slice | None = None) -> list[Slice]:
    """One slice for each bit, named ``bit8``; `within` restricts them further."""
    base = Slice(name="") if within is None else within
    return [replace(base, name=f"bit{bit}", bits=(bit,)) for bit in bits]


def evaluation_slices(groups: Iterable[Sequence[int]], within: Slice | None = None) -> list[Slice]:
    """One slice for each group of evaluations, named ``steps0-4``."""
    base = Slice(name="") if within is None else within
    return [
        replace(base, name=f"steps{group[0]}" + f"-{group[-1]}" * (len(group) > 1), evaluations=tuple(group))
        for group in groups
    ]


def block_slices(groups: Iterable[Sequence[str]], within: Slice | None = None) -> list[Slice]:
    """One slice for each group of blocks, named after its first and last."""
    base = Slice(name="") if within is None else within
    return [replace(base, name=group[0] + f"..{group[-1]}" * (len(group) > 1), blocks=tuple(group)) for group in groups]


def kind_slices(kinds: Iterable[str], within: Slice | None = None) -> list[Slice]:
    """One slice for each kind of product."""
    base = Slice(name="") if within is None else within
    return [replace(base, name=kind, kinds=(kind,)) for kind in kinds]


def cross(first: Iterable[Slice], second: Iterable[Slice]) -> list[Slice]:
    """Every slice of one list with every slice of the other."""
    others = list(second)
    return [one & other for one in first for other in others]


def split(values: Sequence[T], parts: int) -> list[Sequence[T]]:
    """Neighbours in `parts` groups of about the same size.

    Raises
    ------
    ValueError
        There are fewer values than groups.
    """
    if not 1 <= parts <= len(values):
        raise ValueError(f"parts must be in 1..{len(values)}, not {parts!r}")
    bounds = [len(values) * part // parts for part in range(parts + 1)]
    return [values[low:high] for low, high in itertools.pairwise(bounds)]


@dataclass(frozen=True)
class SubjectLayout:
    """What a sampling run is made of.

    Attributes
    ----------
    evaluations : int
        Number of evaluations of the denoiser.
    blocks, kinds : tuple of str
        Blocks and kinds of products, in the order in which they run.
    """

    evaluations: int
    blocks: tuple[str, ...]
    kinds: tuple[str, ...]


def recording(policy: PowerPolicy, sites: list[ProductSite]) -> PowerPolicy:
    """A policy that notes every site that it is asked for."""

    def record(site: ProductSite) -> OperatingPoint:
        sites.append(site)
        return policy(site)

    return record


def layout_of(module: nn.Module, run: Run, *, kinds: Collection[str] | None = None) -> SubjectLayout:
    """Find evaluations, blocks and kinds of an offloaded denoiser by drawing one image without errors.

    Parameters
    ----------
    module : nn.Module
        Denoiser that draws, offloaded.
    run : callable
        Function that draws images (`Run`).
    kinds : collection of str, optional
        Only blocks with products of these kinds; by default all.
    """
    sites: list[ProductSite] = []
    with protect(module, Unprotected(), recording(lambda site: NOMINAL, sites)):
        run(0, 1)
    chosen = [site for site in sites if kinds is None or site.kind in kinds]
    return SubjectLayout(
        max((site.evaluation for site in sites), default=-1) + 1,
        tuple(dict.fromkeys(site.block for site in chosen)),
        tuple(dict.fromkeys(site.kind for site in chosen)),
    )
