"""A rate from a quality budget; theta and the age of checkpoints from a rate: docs/adaptive.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from brownout.hw.config import ChecksumConfig

from .double_errors import unlocated_double_errors
from .estimate import OUTPUT_BITS


def rate_within_budget(rates: Sequence[float], distances: Sequence[float], budget: float) -> float:
    """Largest error rate whose damage is within a budget, by a profile of measured points.

    On lines between the points, both axes logarithmic, and on the first of them below the first point. Distances that
    fall as the rate rises are noise: each counts as at least that of the lower rates.

    Parameters
    ----------
    rates : sequence of float
        Ascending and positive, two or more.
    distances : sequence of float
        What was measured there: positive, the more the worse.
    budget : float
        Largest distance that is allowed.

    Raises
    ------
    ValueError
        The profile is unusable, or the budget is positive nowhere in it or beyond its last point.
    """
    if len(rates) != len(distances) or len(rates) < 2 or min(rates) <= 0 or sorted(set(rates)) != list(rates):
        raise ValueError(f"rates must ascend, be positive and as many as distances, not {list(rates)!r}")
    if min(distances) <= 0:
        raise ValueError(f"distances must be positive, not {list(distances)!r}")
    worst = [max(distances[: index + 1]) for index in range(len(distances))]
    if not 0 < budget <= worst[-1]:
        raise ValueError(f"budget must be in 0..{worst[-1]:.4g}, as far as the profile goes, not {budget!r}")
    after = next(index for index, distance in enumerate(worst) if distance >= budget)
    left, right = (after - 1, after) if after else (0, 1)
    rise = math.log(worst[right] / worst[left])
    if not rise:
        return rates[left]
    share = math.log(budget / worst[left]) / rise
    return rates[left] * (rates[right] / rates[left]) ** share


@lru_cache(maxsize=64)
def unlocated_share(checksum: ChecksumConfig) -> float:
    """Share of the double errors of one segment that cannot be located.

    Without `pairs` that is all; with them those whose sum is 0 or a power of two (the same bit, or neighbouring bits of
    opposite signs), those which are alike to locators (2^13 is 1), so that their places might be exchanged, and those
    for which other places explain the locators by chance: `unlocated_double_errors`.
    """
    if not checksum.pairs:
        return 1.0
    return unlocated_double_errors([checksum.weights(check) for check in range(1, checksum.checks)])


def best_theta(rate: float, staleness: float, checksum: ChecksumConfig) -> int:
    """Theta of least squared damage, where single errors are corrected and others roll back their whole segment.

    Of a segment of S sums of which each errs at a rate p, in one of 31 bits, theta lets pass single errors of the bits
    b < theta, which costs S p / 31 * sum of 4^b; in return it does not roll back two errors that are both below, which
    saves u (S p)^2 / 2 * (theta / 31)^2 * S * staleness^2, where u is `unlocated_share`. One more step of theta pays
    while 4^theta < (2 theta + 1) * u S^2 p staleness^2 / 62. Three errors and more are neglected.

    Parameters
    ----------
    rate : float
        Errors per output of the product.
    staleness : float
        Root mean square of what a sum changes by from one evaluation to the next.
    checksum : ChecksumConfig
        The checksum units, with segments of S columns.

    Returns
    -------
    int
        0 to 31.
    """
    if rate < 0 or staleness < 0:
        raise ValueError(f"rate and staleness must not be negative, but are {rate!r} and {staleness!r}")
    scale = unlocated_share(checksum) * checksum.segment_cols**2 * rate * staleness**2 / (2 * OUTPUT_BITS)
    theta = 0
    while theta < OUTPUT_BITS and 4.0**theta < (2 * theta + 1) * scale:
        theta += 1
    return theta


def checkpoint_interval(share: float, design_share: float, design_interval: int, longest: int = 50) -> int:
    """Longest interval between checkpoints that makes what is rolled back no staler than at the design point.

    What goes back to a checkpoint is up to `interval` evaluations old, (interval + 1) / 2 on average; its squared
    damage grows in proportion, if evaluations move as a random walk does. So share * (interval + 1) is what the budget
    was spent on when the interval was chosen, and is kept. A longer interval costs less traffic: a checkpoint reads and
    writes the whole output, going back only what was uncorrectable, whatever the interval.

    Parameters
    ----------
    share : float
        Elements rolled back over all elements, observed.
    design_share, design_interval : float, int
        Share and interval at which quality was found good.
    longest : int
        Upper limit of the interval, in evaluations.
    """
    if not (share >= 0 and design_share > 0 and 1 <= design_interval <= longest):
        raise ValueError(
            f"shares must be positive and 1 <= design_interval <= longest, not {share}, {design_share}, "
            f"{design_interval}, {longest}"
        )
    if share * (longest + 1) <= design_share * (design_interval + 1):
        return longest
    return max(1, math.floor(design_share * (design_interval + 1) / share - 1 + 1e-9))
