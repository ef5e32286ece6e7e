"""Rows for devices, strides, and which devices to use: the allocations of STADI."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .costs import Array
from .link import Pair

THRESHOLDS: Mapping[int, float] = {2: 0.52, 4: 0.26}
"""Relative speed up to which a device may have a stride: v_i / v_max. The published values are not public. Ours are the
largest, in hundredths, at which a strided device that is balanced with one fast device by the full cost model of
DiT-XL/2 holds at most one row more than it (`largest_ratio`, docs/stadi.md): a region of coarse steps is never the
larger one."""

SAME_SPEED = 1.01
"""Ratio of bandwidths, as they are measured, up to which links are alike."""


def balanced_rows(times: Sequence[Array], rows: int) -> list[int]:
    """Whole rows, at least one for each device, that all are done soonest.

    Parameters
    ----------
    times : sequence of float64 arrays (rows + 1,)
        Time of each device for 0, 1, .. rows.
    rows : int
        Rows to be divided; at least as many as devices.

    Returns
    -------
    list of int
        Exact: no division has a smaller largest time.
    """
    # More rows may take less time (tiles that fit better): only the least time of "that many or more" is monotone.
    monotone = [np.maximum.accumulate(np.asarray(each)) for each in times]
    candidates = np.unique(np.concatenate([each[1:] for each in monotone]))

    def most(limit: float) -> list[int]:
        return [int(np.searchsorted(each, limit, side="right")) - 1 for each in monotone]

    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high) // 2
        counts = most(candidates[middle])
        if min(counts) >= 1 and sum(min(count, rows) for count in counts) >= rows:
            high = middle
        else:
            low = middle + 1
    counts = [min(count, rows) for count in most(candidates[low])]
    while sum(counts) > rows:
        # Surplus comes from the one that is busy longest.
        shrinkable = [index for index, count in enumerate(counts) if count > 1]
        counts[max(shrinkable, key=lambda index: monotone[index][counts[index]])] -= 1
    return counts


def proportional_rows(weights: Sequence[float], rows: int) -> list[int]:
    """Whole rows by weight, largest remainders first, at least one for each."""
    exact = np.array(weights) / sum(weights) * rows
    counts = np.maximum(1, np.floor(exact)).astype(int)
    while counts.sum() < rows:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > rows:
        counts[np.argmax(np.where(counts > 1, counts - exact, -np.inf))] -= 1
    return [int(count) for count in counts]


def largest_strides(
    relative: Sequence[float], max_stride: int, thresholds: Mapping[int, float] = THRESHOLDS
) -> list[int]:
    """Stride of each device by thresholds on its relative speed."""
    return [
        max([1, *(stride for stride, limit in thresholds.items() if stride <= max_stride and each <= limit)])
        for each in relative
    ]


def stride_choices(limits: Sequence[int], relative: Sequence[float]) -> Iterator[tuple[int, ...]]:
    """Strides up to each device's limit, never a smaller one for a slower device."""
    order = sorted(range(len(limits)), key=lambda index: (-relative[index], index))

    def extend(chosen: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(chosen) == len(order):
            yield chosen
            return
        stride = chosen[-1] if chosen else 1
        while stride <= limits[order[len(chosen)]]:
            yield from extend((*chosen, stride))
            stride *= 2

    for chosen in extend(()):
        strides = [0] * len(limits)
        for index, stride in zip(order, chosen, strict=True):
            strides[index] = stride
        yield tuple(strides)


def candidate_sets(ranked: Sequence[str], bandwidths: Mapping[Pair, float]) -> list[frozenset[str]]:
    """Sets of devices that are worth planning for.

    Of those that reach each other, the fastest ones, for every number of them; and the same without the ends of the
    slowest link, again and again, as long as some links are slower than others.

    Parameters
    ----------
    ranked : sequence of str
        Devices, the fastest first.
    bandwidths : mapping of Pair to float
        Bytes per second from each device to each other; 0 where there is no way.
    """
    found: dict[frozenset[str], None] = {}
    for group in _reachable(tuple(ranked), bandwidths, {}):
        left = list(group)
        while left:
            found.update(dict.fromkeys(frozenset(left[:count]) for count in range(1, len(left) + 1)))
            links = {
                name: sorted(min(bandwidths[name, peer], bandwidths[peer, name]) for peer in left if peer != name)
                for name in left
            }
            speeds = [speed for each in links.values() for speed in each]
            if not speeds or max(speeds) <= SAME_SPEED * min(speeds):
                break
            # Of both ends of the slowest link the one whose other links are slower, too; then the slower device.
            left.remove(min(reversed(left), key=lambda name: links[name]))
    return list(found)


def _reachable(
    names: tuple[str, ...], bandwidths: Mapping[Pair, float], known: dict[tuple[str, ...], list[tuple[str, ...]]]
) -> list[tuple[str, ...]]:
    """Groups of devices that all reach each other, among them all that cannot be enlarged."""
    if names not in known:
        cut = (pair for pair in itertools.combinations(names, 2) if not _connected(pair, bandwidths))
        if (pair := next(cut, None)) is None:
            return [names]
        without = (tuple(name for name in names if name != end) for end in reversed(pair))
        known[names] = list(dict.fromkeys(group for rest in without for group in _reachable(rest, bandwidths, known)))
    return known[names]


def _connected(pair: Pair, bandwidths: Mapping[Pair, float]) -> bool:
    return bool(bandwidths[pair] and bandwidths[pair[1], pair[0]])


def largest_ratio(table: Array, stride: int, resolution: int = 1000) -> float:
    """Largest relative speed at which a strided device holds at most one row more than a fast one.

    Parameters
    ----------
    table : float64 array (rows + 1,)
        Times of the fast device.
    stride : int
        Stride of the other one, which is slower by the same factor for all row counts.
    resolution : int
        Ratios tried.
    """
    rows = len(table) - 1
    for ratio in np.arange(resolution, 0, -1) / resolution:
        fast, slow = balanced_rows([stride * table, table / ratio], rows)
        if slow <= fast + 1:
            return float(ratio)
    raise ValueError(f"with stride {stride} even the slowest device holds more than half of {rows} rows")
