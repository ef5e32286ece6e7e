"""A fleet, and what a model costs on it, as simulations ask for it."""

from __future__ import annotations

from ..plan.costs import Costs
from ..plan.device import FleetSpec
from ..plan.divided import MessageSizes
from ..plan.link import Link


class FleetModel:
    """Costs and message sizes of a model on a fleet.

    Parameters
    ----------
    fleet : FleetSpec
        Devices and links.
    costs : Costs
        Costs of the model.
    """

    def __init__(self, fleet: FleetSpec, costs: Costs) -> None:
        self.fleet, self.costs = fleet, costs
        self.devices = {device.name: device for device in fleet.devices}
        self.sizes = MessageSizes(costs.model)

    def link(self, sender: str, receiver: str) -> Link:
        """Link from one device to another."""
        return self.fleet.links.between(sender, receiver)
