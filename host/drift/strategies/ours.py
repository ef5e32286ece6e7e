"""Correct what can be located, keep the last evaluation's value of the rest, repeat attention where it was marked."""

from __future__ import annotations

import torch

from brownout.hw.config import ChecksumConfig

from ...offloading.execution import ProductCall
from ...protection import Protection
from ..runtime import DriftExecution
from ..setting import Setting
from .base import Strategy

RESIDUE = ChecksumConfig(scheme="residue", segment_cols=16, column_checks=False)

ATTEMPTS_LIMIT = 3


class Rollback(Strategy):
    """Residue checks correct errors on the fly; what they cannot locate is not written and keeps its last value.

    Neither costs memory traffic. A product without a last value runs at the safe point. Products of attention, whose
    history would be larger than the model, are repeated at the same point where something was marked: what was marked
    before and is not marked now is overwritten, so that after n repetitions only what was marked every time is left.

    Parameters
    ----------
    checksum : ChecksumConfig
        The checksum units.
    theta : int
        Syndromes below 2^theta are let pass.
    attempts : int
        Most repetitions of a product of attention, 0 to 3.
    """

    name = "ours"

    def __init__(self, checksum: ChecksumConfig = RESIDUE, *, theta: int = 0, attempts: int = 2) -> None:
        if not 0 <= attempts <= ATTEMPTS_LIMIT:
            raise ValueError(f"attempts must be in 0..{ATTEMPTS_LIMIT}, not {attempts!r}")
        self.checksum, self.theta, self.attempts = checksum, theta, attempts

    def layer(self, run: DriftExecution, call: ProductCall, setting: Setting) -> torch.Tensor:
        out, valid = run.history(call)
        if run.is_safe(setting):
            return run.run(call, out, setting)
        if not valid:
            run.clean += 1
            return run.run(call, out, run.safe)
        return run.run(call, out, setting, Protection(on_mark="suppress", theta=self.theta, log_records=0))

    def pair(self, run: DriftExecution, call: ProductCall, setting: Setting, out: torch.Tensor) -> None:
        counts = run.accelerator.check_counts["suppressed"]
        run.run(call, out, setting, Protection(on_mark="keep", theta=self.theta, log_records=0))
        for attempt in range(1, self.attempts + 1):
            marked = run.accelerator.check_counts["suppressed"]
            if marked == counts:
                break
            counts = marked
            run.recomputed_rows += call.a.shape[:-1].numel()
            again = Protection(on_mark="suppress", theta=self.theta, log_records=0)
            run.run(call, out, setting, again, attempt=attempt)
