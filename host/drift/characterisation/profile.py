"""What characterisation finds: how much each slice of a run damages the image at each operating point."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from ...quality.paired import PairedBound, paired_bound
from ...storage.decoding import decode_format, read_text
from ...storage.files import write_text
from ..operating_point import OperatingPoint
from .slices import Slice
from .stopping import DamageEstimate, Stopping

FORMAT = "brownout resilience profile 1"

Values = Mapping[str, Sequence[float]]
"""Damage of each image by each metric."""


@dataclass(frozen=True)
class OrderChange:
    """Between two operating points, another slice becomes the worse one.

    Attributes
    ----------
    before, after : OperatingPoint
        The last one at which `worse_before` is shown to be worse, and the first at which `worse_after` is.
    worse_before, worse_after : str
        Names of the slices that are worse there.
    """

    before: OperatingPoint
    after: OperatingPoint
    worse_before: str
    worse_after: str

    @property
    def error_rate(self) -> float:
        """Geometric mean of both error rates.

        Raises
        ------
        ValueError
            They have none.
        """
        low, high = self.before.error_rate, self.after.error_rate
        if low is None or high is None:
            raise ValueError(f"an order change between {self.before.label} and {self.after.label} has no error rate")
        return math.sqrt(low * high)


@dataclass(frozen=True)
class _Document:
    """A profile, by the names in files, without its format."""

    about: dict[str, Any]
    stopping: Stopping
    metrics: list[str]
    unrelated: dict[str, float]
    settings: list[OperatingPoint]
    slices: list[Slice]
    values: list[dict[str, str | int | list[float]]]

    def __post_init__(self) -> None:
        names = [each.name for each in self.slices]
        if not self.metrics or len({*self.metrics, "slice", "setting"}) != len(self.metrics) + 2:
            raise ValueError(f"metrics must have different names, not {self.metrics}")
        if len(set(names)) < len(names):
            raise ValueError(f"slices must have different names, not {names}")
        if set(self.unrelated) != set(self.metrics):
            raise ValueError(f"unrelated must have {self.metrics}, not {list(self.unrelated)}")
        seen = set[tuple[Any, Any]]()
        for place, each in enumerate(self.values):
            if set(each) != {"slice", "setting", *self.metrics}:
                raise ValueError(f"values[{place}] has {sorted(each)}, not slice, setting and {self.metrics}")
            name, setting, found = each["slice"], each["setting"], [each[metric] for metric in self.metrics]
            if name not in names or not isinstance(setting, int) or not 0 <= setting < len(self.settings):
                raise ValueError(f"values[{place}] is of slice {name!r} at setting {setting!r}, which are not there")
            if (name, setting) in seen:
                raise ValueError(f"slice {name!r} has values at setting {setting} twice")
            seen.add((name, setting))
            counts = {len(one) if isinstance(one, list) else -1 for one in found}
            if len(counts) > 1 or min(counts) < 0:
                raise ValueError(f"values[{place}] must have lists of the same length for all metrics")


@dataclass(frozen=True)
class ResilienceProfile:
    """Damage per image of slices at operating points, against the clean int8 run with the same noise.

    Images of different slices and operating points are paired: image i has the same noise in all.

    Attributes
    ----------
    slices : tuple of Slice
        Slices that were measured, with different names.
    points : tuple of OperatingPoint
        Operating points, in the order in which they were given.
    metrics : tuple of str
        The first is the one that decisions were made on.
    values : mapping
        Damage of each image by each metric, by (name of the slice, index of the operating point).
    unrelated : mapping
        Mean damage by each metric between clean images that have nothing to do with each other.
    stopping : Stopping
        Rule by which measuring stopped.
    about : mapping
        What it was measured on, for JSON.
    """

    slices: tuple[Slice, ...]
    points: tuple[OperatingPoint, ...]
    metrics: tuple[str, ...]
    values: Mapping[tuple[str, int], Values]
    unrelated: Mapping[str, float]
    stopping: Stopping = field(default_factory=Stopping)
    about: Mapping[str, Any] = field(default_factory=dict)

    def _at(self, slice_name: str, point: OperatingPoint | int) -> Values:
        index = point if isinstance(point, int) else self.points.index(point)
        try:
            return self.values[slice_name, index]
        except KeyError:
            known = ", ".join(each.name for each in self.slices)
            raise KeyError(f"slice {slice_name!r} was not measured; there are {known}") from None

    def damage(self, slice_name: str, point: OperatingPoint | int, metric: str | None = None) -> DamageEstimate:
        """Mean damage of a slice at an operating point (or its index), with its interval.

        Raises
        ------
        KeyError, ValueError
            It was not measured.
        """
        chosen = self.metrics[0] if metric is None else metric
        return self.stopping.estimate(self._at(slice_name, point)[chosen], self.unrelated[chosen])

    def difference(
        self,
        first: str,
        second: str,
        point: OperatingPoint | int,
        *,
        metric: str | None = None,
        confidence: float = 0.95,
    ) -> PairedBound:
        """Mean damage of one slice minus that of another, over the images that both have."""
        chosen = self.metrics[0] if metric is None else metric
        a, b = (self._at(name, point)[chosen] for name in (first, second))
        count = min(len(a), len(b))
        return paired_bound(a[:count], b[:count], confidence=confidence)

    def worse(self, first: str, second: str, point: OperatingPoint | int) -> str | None:
        """Which of two slices is shown to damage more, at the profile's confidence for all looks; None if neither."""
        bound = self.difference(first, second, point, confidence=self.stopping.look_confidence)
        return first if bound.lower > 0 else second if bound.upper < 0 else None

    def ranking(
        self, point: OperatingPoint | int, names: Sequence[str] | None = None
    ) -> list[tuple[str, DamageEstimate]]:
        """Slices from the most to the least damaging, with intervals; all of them, or those named."""
        chosen = [each.name for each in self.slices] if names is None else names
        found = [(name, self.damage(name, point)) for name in chosen]
        return sorted(found, key=lambda each: -each[1].mean)

    def ordered_pairs(self, point: OperatingPoint | int, names: Sequence[str] | None = None) -> list[tuple[str, str]]:
        """Pairs (worse, better) whose order is shown, with the error shared by all pairs and looks (Bonferroni)."""
        ranked = [name for name, _ in self.ranking(point, names)]
        pairs = list(combinations(ranked, 2))
        confidence = 1 - (1 - self.stopping.look_confidence) / max(1, len(pairs))
        return [pair for pair in pairs if self.difference(*pair, point, confidence=confidence).lower > 0]

    def order_changes(self, first: str, second: str) -> list[OrderChange]:
        """Where, along the operating points, the order of two slices turns; those without one are passed over."""
        changes: list[OrderChange] = []
        last: tuple[OperatingPoint, str] | None = None
        for index, point in enumerate(self.points):
            worse = self.worse(first, second, index)
            if worse is None:
                continue
            if last is not None and last[1] != worse:
                changes.append(OrderChange(last[0], point, last[1], worse))
            last = point, worse
        return changes

    def rows(self) -> list[dict[str, Any]]:
        """A table: one row for each slice, operating point and metric."""
        return [
            {"slice": each.name, "setting": point.label, "metric": metric}
            | asdict(self.damage(each.name, index, metric))
            for each in self.slices
            for index, point in enumerate(self.points)
            for metric in self.metrics
        ]

    def to_json(self) -> str:
        """All of it."""
        document = {
            "format": FORMAT,
            "about": dict(self.about),
            "stopping": asdict(self.stopping),
            "metrics": list(self.metrics),
            "unrelated": dict(self.unrelated),
            "settings": [each.to_dict() for each in self.points],
            "slices": [each.to_dict() for each in self.slices],
            "values": [
                {"slice": name, "setting": index} | {metric: list(each) for metric, each in values.items()}
                for (name, index), values in self.values.items()
            ],
        }
        return json.dumps(document, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: Path | str = "this") -> ResilienceProfile:
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
            It is something else, or has values that cannot be.
        """
        data = decode_format(text, FORMAT, "resilience profile", _Document, source)
        values: dict[tuple[str, int], Values] = {}
        for each in data.values:
            entry: dict[str, Any] = dict(each)
            values[entry["slice"], entry["setting"]] = {metric: tuple(entry[metric]) for metric in data.metrics}
        return cls(
            slices=tuple(data.slices),
            points=tuple(data.settings),
            metrics=tuple(data.metrics),
            values=values,
            unrelated=data.unrelated,
            stopping=data.stopping,
            about=data.about,
        )

    def save(self, path: Path | str) -> None:
        """Write `to_json` to a file, whole or not at all; raises `FileUnwrittenError`."""
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> ResilienceProfile:
        """Read what `save` wrote; errors as `from_json`."""
        return cls.from_json(read_text(Path(path)), Path(path))
