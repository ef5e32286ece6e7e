"""Costs that can be worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from brownout.host.stadi.plan.device import DeviceSpec, FleetSpec
from brownout.host.stadi.plan.divided import StageExchange
from brownout.host.stadi.plan.link import Link, Links
from brownout.hw.config import AcceleratorConfig

CONFIG = AcceleratorConfig()
FREE_LINKS = Links(Link(bytes_per_s=1e30, latency_s=0, byte_j=0))


class LinearCosts:
    """An evaluation takes ``fixed + rows`` over the device's speed, in equal stages; 1 J per row at 0.9 V.

    Speeds are by name; clocks other than 2 GHz change them in proportion.
    """

    def __init__(
        self,
        speeds,
        *,
        rows,
        fixed=0.0,
        exchanges=1,
        row_bytes=0,
        coded_row_bytes=None,
        coding=None,
        latent_bytes=0,
        images=2,
        leakage_w=0.0,
    ):
        self.speeds, self.fixed, self.leakage_w = speeds, fixed, leakage_w
        self.model = SimpleNamespace(
            rows=rows,
            images=images,
            exchanges=(StageExchange(row_bytes, coded_row_bytes),) * exchanges,
            coding=coding,
            latent_bytes_per_row=latent_bytes,
        )

    def of(self, device):
        return _Linear(self, device)


class _Linear:
    def __init__(self, costs, device):
        self.costs, self.device, self.leakage_w = costs, device, costs.leakage_w
        self.speed = costs.speeds[device.name] * device.frequency_hz / 2e9

    def seconds(self, rows, images=None):
        part = 1 if images is None else images / self.costs.model.images
        return (self.costs.fixed + rows * part) / self.speed

    def stage_seconds(self, rows, images=None):
        stages = len(self.costs.model.exchanges) + 1
        return np.full(stages, self.seconds(rows, images) / stages)

    def energy_j(self, rows, images=None):
        return rows * (self.device.voltage_v / 0.9) ** 2

    @property
    def table(self):
        return np.array([0.0, *(self.seconds(rows) for rows in range(1, self.costs.model.rows + 1))])


def fleet(names, links=FREE_LINKS, **changes):
    """Devices by name; ``changes`` maps names to fields."""
    return FleetSpec(tuple(DeviceSpec(name=name, config=CONFIG, **changes.get(name, {})) for name in names), links)
