"""A plan: who computes which rows in which steps, and whose keys and values everyone uses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import PlanError
from ...storage.packable import packable


@packable("stadi.plan.Share")
@dataclass(frozen=True, kw_only=True)
class Share:
    """Part of a device in a plan.

    Attributes
    ----------
    device : str
        Its name.
    stride : int
        Steps that one evaluation advances after warm-up.
    rows, warmup_rows : (int, int)
        Token rows, first and one after the last, after and in warm-up.
    images : int or None
        Images of the batch that it evaluates; None for all of them.
    """

    device: str
    stride: int
    rows: tuple[int, int]
    warmup_rows: tuple[int, int]
    images: int | None = None

    @property
    def count(self) -> int:
        """Token rows after warm-up."""
        return self.rows[1] - self.rows[0]

    @property
    def warmup_count(self) -> int:
        """Token rows in warm-up."""
        return self.warmup_rows[1] - self.warmup_rows[0]


@packable("stadi.plan.Plan")
@dataclass(frozen=True, kw_only=True)
class Plan:
    """Division of an image over devices.

    Warm-up steps are synchronous: every self-attention waits for the keys and values of all rows. After it each device
    goes on by its own stride, with the keys and values of others as `held` says, and all meet every `interval` steps:
    there the latents of all rows are gathered, so that each device could go on with any of them.

    Attributes
    ----------
    method : str
        How it was made.
    shares : tuple of Share
        Shares in the order of their rows.
    rows : int
        Token rows of an image.
    steps, first_step : int
        Evaluations of a single device, and where the plan takes up (not 0 after a re-plan).
    warmup : int
        Synchronous steps from `first_step` on.

    Raises
    ------
    PlanError
        It does not cover every row and step exactly once.
    """

    method: str
    shares: tuple[Share, ...]
    rows: int
    steps: int
    warmup: int
    first_step: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.first_step < self.steps:
            raise PlanError(f"first_step must be in 0..{self.steps - 1}, not {self.first_step}")
        if not 0 <= self.warmup <= self.steps - self.first_step:
            raise PlanError(f"warmup must be in 0..{self.steps - self.first_step} steps, not {self.warmup}")
        for share in self.shares:
            if share.stride < 1 or share.stride & (share.stride - 1):
                raise PlanError(f"the stride of {share.device} must be a power of two, not {share.stride}")
        for what in ("rows", "warmup_rows"):
            next_row = 0
            for share in self.shares:
                start, stop = getattr(share, what)
                if (not self.divides_batch and start != next_row) or not start < stop <= self.rows:
                    raise PlanError(
                        f"{what} of {share.device} are {start}..{stop}, but must begin at {next_row}, hold at "
                        f"least one row and end within {self.rows}"
                    )
                next_row = stop
            if next_row != self.rows:
                raise PlanError(f"{what} end at {next_row}, but the image has {self.rows}")
        if self.divides_batch and self.warmup:
            raise PlanError(
                "devices that share the batch exchange nothing that warm-up would synchronise; use warmup=0"
            )
        if (self.steps - self.async_start) % self.interval:
            raise PlanError(
                f"{self.steps - self.async_start} steps after warm-up cannot be divided into intervals of "
                f"{self.interval}; lengthen the warm-up by {(self.steps - self.async_start) % self.interval}"
            )

    @property
    def divides_batch(self) -> bool:
        """Whether devices share the batch instead of the rows."""
        return any(share.images is not None for share in self.shares)

    @property
    def interval(self) -> int:
        """Steps from one sync point to the next: the least common multiple of the strides."""
        return math.lcm(*(share.stride for share in self.shares))

    @property
    def async_start(self) -> int:
        """First step after warm-up."""
        return self.first_step + self.warmup

    @property
    def intervals(self) -> tuple[tuple[int, int], ...]:
        """First step and one after the last between sync points; the warm-up is the first one."""
        found = [(self.first_step, self.async_start)] if self.warmup else []
        return (*found, *((m, m + self.interval) for m in range(self.async_start, self.steps, self.interval)))

    @property
    def fresh_share(self) -> float:
        """Evaluations of an average row after warm-up, over those of a single device."""
        return sum(share.count / share.stride for share in self.shares) / sum(share.count for share in self.shares)

    def evaluations(self, share: Share) -> range:
        """Steps at which a device evaluates after warm-up."""
        return range(self.async_start, self.steps, share.stride)

    def held(self, source: Share, step: int) -> int | None:
        """Evaluation of `source` whose keys and values the others use in an evaluation at `step`.

        It is the last one whose stride has ended by then; so what a device computes does not depend on how fast any
        device or link is.

        Returns
        -------
        int or None
            Step of that evaluation; None for what everyone has had since `async_start`.
        """
        last = self.async_start + (step - self.async_start) // source.stride * source.stride - source.stride
        return last if last >= self.async_start else None

    def sends(self, source: Share, receiver: Share) -> Iterator[int]:
        """Steps whose keys and values `source` sends to `receiver`: those that will be used."""
        held = (self.held(source, step) for step in self.evaluations(receiver))
        return iter(dict.fromkeys(step for step in held if step is not None))

    def message_number(self, source: Share, receiver: Share, step: int) -> int:
        """Which of the messages from `source` to `receiver` an evaluation's is, counted from the last synchronous step.

        The first one after synchronous steps has number 1, the first one of a plan without them 0.
        """
        return list(self.sends(source, receiver)).index(step) + (self.warmup > 0)

    def table(self) -> str:
        """The plan in words and columns."""
        lines = [
            f"{self.method}: steps {self.first_step}..{self.steps - 1}, {self.warmup} synchronous, then sync points "
            f"every {self.interval}",
            f"{'device':<16}{'stride':>8}{'rows':>8}{'warm-up rows':>14}",
        ]
        for share in self.shares:
            lines.append(f"{share.device:<16}{share.stride:>8}{share.count:>8}{share.warmup_count:>14}")
        return "\n".join(lines)
