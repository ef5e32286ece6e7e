"""A power policy whose low operating point, theta and checkpoints follow the errors that the checks observe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...device.product.protection import Protection
from ...offloading.execution import ProductCall
from ...storage.decoding import Count, NotNegative, check
from ...workload.product_site import ProductSite
from ..operating_point import OperatingPoint
from ..power_policy import PowerPolicy, describe_policy
from ..strategies.base import DriftRun
from .controller import RateController
from .estimate import segment_widths
from .rules import best_theta, checkpoint_interval

SHARE_FORGETTING = 0.5
"""Weight of what was rolled back, after one more evaluation."""


@dataclass(frozen=True)
class _Values:
    """State of a policy."""

    controller: dict[str, Any]
    interval: tuple[Count, Count]
    marked: tuple[NotNegative, NotNegative]


class AdaptivePolicy:
    """What another policy lets run at operating points that may err runs at the one that a controller has chosen.

    It outlives runs: what is known about the chip is kept for the next image. Points of the other policy that may
    not err in the controller's worst case stay as they are.

    Parameters
    ----------
    base : PowerPolicy
        Which products may err at all. Its low points themselves are not used.
    controller : RateController
    staleness : float, optional
        Root mean square of what a sum changes by from one evaluation to the next: then the strategy's theta follows the
        rate (`best_theta`). By default it stays.
    design_share : float, optional
        Share of elements that the strategy rolled back at its interval when quality was found good: then the interval
        between checkpoints follows the observed share (`checkpoint_interval`). By default it stays.

    Attributes
    ----------
    thetas, intervals : list of int
        Values in each evaluation since the policy was made or loaded, where they follow.
    """

    def __init__(
        self,
        base: PowerPolicy,
        controller: RateController,
        *,
        staleness: float | None = None,
        design_share: float | None = None,
    ) -> None:
        self.base, self.controller = base, controller
        self.staleness, self.design_share = staleness, design_share
        self.thetas: list[int] = []
        self.intervals: list[int] = []
        self._design_interval = 0
        self._interval = 0
        self._elements = self._uncorrectable = 0.0
        self._run: DriftRun | None = None

    def __call__(self, site: ProductSite) -> OperatingPoint:
        """The operating point of a product: not the same for the rest of an evaluation after an emergency."""
        assert self._run is not None, "an AdaptivePolicy runs products of protect(...) only"
        planned = self.base(site)
        if self._run.is_safe(planned):
            return planned
        chosen = self.controller.point
        return self._run.safe if chosen is None else chosen

    def begin_run(self, run: DriftRun) -> None:
        """Another image begins.

        Raises
        ------
        ValueError
            The accelerator is not the controller's, the safe point is not safe in its worst case, or the strategy
            has nothing that could follow.
        """
        controller = self.controller
        if run.accelerator.config != controller.estimator.config:
            raise ValueError("the controller is for another AcceleratorConfig than the accelerator has")
        run.assumed_delay_model = controller.assumed_delay_model
        if not run.is_safe(run.safe):
            raise ValueError(
                f"safe={run.safe} errs where delays are worst_factor={controller.worst_factor:g} times those of the "
                "delay model; choose a safer one"
            )
        for wanted, name in ((self.staleness, "theta"), (self.design_share, "interval")):
            if wanted is not None and not hasattr(run.strategy, name):
                raise ValueError(f"strategy {run.strategy.name!r} has no {name} that could follow the error rate")
        controller.end_evaluation()
        if self.design_share is not None and not self._design_interval:
            self._design_interval = self._interval = run.strategy.interval  # type: ignore[attr-defined]
        self._run = run

    def begin_evaluation(self, run: DriftRun) -> None:
        """The next evaluation begins: decide by what the last one showed."""
        self.controller.begin_evaluation()
        rate = self.controller.rate(self.controller.candidate)
        if self.staleness is not None and rate is not None:
            checksum = run.accelerator.config.checksum
            assert checksum is not None
            theta = best_theta(rate, self.staleness, checksum)
            run.strategy.theta = theta  # type: ignore[attr-defined]
            self.thetas.append(theta)
        if self.design_share is not None:
            if self._elements:
                share = self._uncorrectable / self._elements
                self._interval = checkpoint_interval(share, self.design_share, self._design_interval)
            run.strategy.interval = self._interval  # type: ignore[attr-defined]
            self.intervals.append(self._interval)
            self._uncorrectable *= SHARE_FORGETTING
            self._elements *= SHARE_FORGETTING

    def product_checked(
        self,
        run: DriftRun,
        call: ProductCall,
        point: OperatingPoint,
        protection: Protection,
        found: Mapping[str, int],
    ) -> None:
        """A product has run with checks."""
        rows, cols = call.a.shape[:-1].numel(), call.w.shape[-1]
        if protection.on_uncorrectable == "reload":
            self._elements += rows * cols
            self._uncorrectable += found["suppressed"]
        checks = {width: rows * count for width, count in segment_widths(run.accelerator.config, cols).items()}
        self.controller.observe(point, protection.theta, checks, found["detected"])

    def end_run(self, run: DriftRun) -> None:
        """The last evaluation is over."""
        self.controller.end_evaluation()

    def describe(self) -> dict[str, Any]:
        """What makes it different from others, as JSON."""
        return {
            "base": describe_policy(self.base),
            "controller": self.controller.describe(),
            "staleness": self.staleness,
            "design_share": self.design_share,
        }

    def state(self) -> dict[str, Any]:
        """What a run that goes on needs, for JSON; to be taken between evaluations, because it ends the last one."""
        self.controller.end_evaluation()
        return {
            "controller": self.controller.state(),
            "interval": [self._design_interval, self._interval],
            "marked": [self._uncorrectable, self._elements],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        check(dict(state), _Values, "the state of the policy")
        self.controller.load_state(state["controller"])
        self._design_interval, self._interval = state["interval"]
        self._uncorrectable, self._elements = state["marked"]
