"""What every strategy against timing errors provides."""

from __future__ import annotations

import abc
from dataclasses import asdict, is_dataclass, replace
from typing import Any, ClassVar, Protocol

import torch

from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.errors.model import erring_models

from ...device.accelerator import Accelerator
from ...device.power.timing import DelayModel
from ...device.product.operands import ResidentWeights
from ...device.product.protection import UNCHECKED, Protection
from ...offloading.execution import CalledProduct, ProductCall
from ...storage.state import State
from ...workload.product_site import ProductSite
from ..operating_point import OperatingPoint


def _as_json(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


class DriftRun(Protocol):
    """What a strategy and a power policy may ask of the run that they serve: a `DriftExecution`."""

    strategy: Strategy
    """Strategy of the run."""
    safe: OperatingPoint
    """Operating point at which nothing errs."""
    evaluation: int
    """Evaluation of the denoiser; -1 before the first."""
    clean: int
    """Products that ran at the safe point for want of a history."""
    recomputed_rows: int
    """Rows of products that were computed again."""
    assumed_delay_model: DelayModel | None
    """Delay model by which operating points are judged; None for the accelerator's present one."""

    @property
    def accelerator(self) -> Accelerator:
        """Accelerator on which products run."""

    @property
    def is_valueless(self) -> bool:
        """Whether products have shapes alone, so that what depends on values is taken from `expected`."""

    def expected(self, name: str) -> float:
        """Figure that `Strategy.measured` had in a run with values; raises `ValueError` if it was not given."""

    def is_safe(self, point: OperatingPoint) -> bool:
        """Whether nothing errs at an operating point."""

    def site(self, product: CalledProduct) -> ProductSite:
        """Place of a product in the run."""

    def run(
        self,
        call: ProductCall,
        out: torch.Tensor,
        point: OperatingPoint,
        protection: Protection = UNCHECKED,
        *,
        checkpoint: torch.Tensor | None = None,
        attempt: int = 0,
    ) -> torch.Tensor:
        """Run a product at an operating point into `out`; further attempts (1 to 3) have errors of their own."""

    def scratch(self, name: str, call: ProductCall) -> torch.Tensor:
        """Memory for the outputs of a product."""

    def history(self, call: ProductCall) -> tuple[torch.Tensor, bool]:
        """Slot of a product with the outputs of the evaluation before, and whether there are any."""

    def recompute_rows(self, call: ProductCall, out: torch.Tensor, rows: torch.Tensor) -> None:
        """Compute some rows (int64, ascending) again at the safe point."""

    def recompute_columns(
        self,
        call: ProductCall,
        out: torch.Tensor,
        rows: torch.Tensor,
        columns: slice,
        w: torch.Tensor | ResidentWeights,
    ) -> None:
        """Compute some columns of some rows again at the safe point; `w` are the operand's columns."""


class Strategy(abc.ABC):
    """What is done about timing errors in products.

    Attributes
    ----------
    name : str
        Name in reports and messages.
    name_in_files : str, optional
        Name in profiles and descriptions of runs, where it is another; use `stored_name`.
    checksum : ChecksumConfig or None
        Checksum units that it needs, if these are always the same.
    razor : bool
        Whether it needs elements that detect their own errors.
    reads_values : bool
        Whether what it does depends on sums themselves, and not on what checks find alone.
    priced_by_measurement : bool
        Whether, if it reads values, it also runs without them, as `DriftRun.expected` says.
    """

    name: ClassVar[str]
    name_in_files: ClassVar[str | None] = None
    checksum: ChecksumConfig | None = None
    razor: bool = False
    reads_values: ClassVar[bool] = False
    priced_by_measurement: ClassVar[bool] = False

    def hardware(self, config: AcceleratorConfig) -> AcceleratorConfig:
        """`config` with what the strategy needs, and without what it does not."""
        return replace(config, checksum=self.checksum_for(config))

    def checksum_for(self, config: AcceleratorConfig) -> ChecksumConfig | None:
        """Checksum units that it needs in an accelerator with this model of timing errors."""
        return self.checksum

    def check_hardware(self, config: AcceleratorConfig) -> None:
        """Refuse an accelerator that lacks what is needed.

        Raises
        ------
        ValueError
            With the remedy.
        """
        if not config.error_model.errs:
            raise ValueError(
                f"strategy {self.name!r} needs an AcceleratorConfig with timing_model={erring_models()}, "
                f"not {config.timing_model!r}"
            )
        needed = self.checksum_for(config)
        if needed is not None and config.checksum != needed:
            raise ValueError(
                f"strategy {self.name!r} needs checksum={needed}, but the accelerator has {config.checksum}; "
                "make it with strategy.hardware(config)"
            )

    def begin_run(self, run: DriftRun) -> None:  # noqa: B027 - most have nothing to forget
        """Another image begins: forget everything about the last."""

    def forget_product(self, number: int) -> None:  # noqa: B027
        """Forget the values of a product: its weights are others, and so is the meaning of sums."""

    def begin_evaluation(self, run: DriftRun) -> None:  # noqa: B027
        """The next evaluation of the denoiser begins."""

    @property
    def stored_name(self) -> str:
        """Name in profiles and descriptions of runs."""
        # Of the class that has the name: a subclass with a name of its own is another strategy.
        owner = next(each for each in type(self).__mro__ if "name" in vars(each))
        return vars(owner).get("name_in_files") or self.name

    def describe(self) -> dict[str, Any]:
        """Name and parameters, as JSON."""
        parameters = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {"name": self.stored_name, **{name: _as_json(value) for name, value in parameters.items()}}

    def state(self) -> State:
        """What the next evaluation depends on, beside histories."""
        return State()

    def load_state(self, state: State, run: DriftRun) -> None:  # noqa: B027
        """Take up a state of an equal strategy."""

    def measured(self) -> dict[str, float]:
        """What its decisions by values came to in the present run, by name, for a run without values."""
        return {}

    def point_for(self, planned: OperatingPoint) -> OperatingPoint:
        """What a product runs at, from what the policy says."""
        return planned

    def attention_protection(self) -> Protection | None:
        """Use of the checks where both products of attention are one command; None where they must be apart."""
        return None

    def takes_narrow(self) -> bool:
        """Whether `layer` serves calls with a requantisation; otherwise it gets none, and the host scales the sums."""
        return False

    @abc.abstractmethod
    def layer(self, run: DriftRun, call: ProductCall, point: OperatingPoint) -> torch.Tensor:
        """Run a layer's product; the outputs, of `ProductCall.dtype`, may lie in memory that is used again."""

    @abc.abstractmethod
    def attention_product(self, run: DriftRun, call: ProductCall, point: OperatingPoint, out: torch.Tensor) -> None:
        """Run a block of a product of attention at an operating point at which it may err."""
