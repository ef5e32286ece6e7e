"""A device's side of the exchange in an evaluation: what it sends to whom, and whose values it uses."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from ..plan.coding import ExchangeCoding
from ..plan.plan import Plan, Share
from .mailbox import Key, Mailbox, Tensors


class Exchange:
    """Exchange of a device under a plan.

    Parameters
    ----------
    mailbox : Mailbox
        Mailbox of the device.
    plan : Plan
        Plan that says who uses what.
    epoch : int
        Number of the plan.
    reached : callable
        Called when an evaluation reaches an exchange: a stage is over.
    coding : ExchangeCoding, optional
        Coding of keys and values; by default they are always sent whole.

    Attributes
    ----------
    me : Share
        The device's part.
    step : int
        Step of the present evaluation.
    synchronous : bool
        Whether all use what all others send in the same step.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        plan: Plan,
        epoch: int,
        reached: Callable[[], None],
        coding: ExchangeCoding | None = None,
    ) -> None:
        self.mailbox, self.plan, self.epoch, self.reached, self.coding = mailbox, plan, epoch, reached, coding
        self.me = next(share for share in plan.shares if share.device == mailbox.name)
        self.others = tuple(share for share in plan.shares if share is not self.me)
        self.step, self.synchronous = plan.first_step, plan.warmup > 0
        self._numbers = cache(self._numbers_to)

    def _numbers_to(self, receiver: int) -> dict[int, int]:
        sends = self.plan.sends(self.me, self.plan.shares[receiver])
        return {step: number for number, step in enumerate(sends, int(self.plan.warmup > 0))}

    @property
    def alone(self) -> bool:
        """Whether nobody else evaluates other rows of the same images."""
        return not self.others or self.plan.divides_batch

    @property
    def ends_warmup(self) -> bool:
        """Whether the present evaluation is the last synchronous one, and others follow it."""
        return self.synchronous and self.step + 1 == self.plan.async_start < self.plan.steps

    def begin(self, step: int, *, synchronous: bool) -> None:
        """An evaluation begins."""
        self.mailbox.check()
        self.step, self.synchronous = step, synchronous
        if synchronous:
            # Everybody has begun the step before this one, and so has received all of the one before that.
            self.mailbox.forget(before=step - 1)

    def rows(self, share: Share) -> tuple[int, int]:
        """Token rows of a share in the present evaluation."""
        return share.warmup_rows if self.synchronous else share.rows

    def number(self, receiver: Share) -> int | None:
        """Of the messages of the present evaluation to a device, as `Plan.message_number`; None if it uses none."""
        return self._numbers(self.plan.shares.index(receiver)).get(self.step)

    def send(self, site: str, tensors: Tensors, receivers: tuple[Share, ...] | None = None) -> None:
        """Send what belongs to a place of the model to those who will use it, by default all that do."""
        wanted = [
            share.device
            for share in (self.others if receivers is None else receivers)
            if self.synchronous or self.number(share) is not None
        ]
        self.mailbox.send(wanted, Key(self.epoch, self.me.device, self.step, site), tensors)

    def swap(self, site: str, tensors: Tensors, other: Share) -> dict[str, torch.Tensor]:
        """Exchange with one other device, both at the same step; raises as `Mailbox.take`."""
        self.mailbox.send([other.device], Key(self.epoch, self.me.device, self.step, site), tensors)
        return self.receive(site, other, self.step)

    def held(self, sender: Share) -> int | None:
        """Step of a sender's evaluation that is used in the present one; None: what was held when the plan began."""
        return self.step if self.synchronous else self.plan.held(sender, self.step)

    def receive(self, site: str, sender: Share, step: int) -> dict[str, torch.Tensor]:
        """Wait for what a sender sent; it can be received once. Raises as `Mailbox.take`."""
        return self.mailbox.take(Key(self.epoch, sender.device, step, site))
