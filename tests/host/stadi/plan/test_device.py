from __future__ import annotations

import re

import pytest

from brownout.host import DelayModel
from brownout.host.errors import PlanError
from brownout.host.stadi.plan.device import DeviceSpec, FleetSpec
from brownout.host.stadi.plan.link import Link, Links
from brownout.hw.configurations import SERVER, SERVER_FLIP

from ..fakes import CONFIG, fleet


def refused(message, error=ValueError):
    return pytest.raises(error, match=f"^{re.escape(message)}$")


def test_a_device_that_errs_needs_checksums():
    rate = DelayModel().error_rate(0.7, 2e9)
    with refused(
        f"device 'a' errs at 0.7 V and 2e+09 Hz (rate {rate:.3g}); raise voltage_v, lower frequency_hz, or give it a "
        "config with timing_model='flip' and a ChecksumConfig"
    ):
        DeviceSpec(name="a", config=SERVER, voltage_v=0.7)
    assert DeviceSpec(name="a", config=SERVER_FLIP, voltage_v=0.7).error_rate > 0
    assert DeviceSpec(name="a", config=SERVER, voltage_v=0.7, frequency_hz=1.2e9).error_rate == 0


def test_bad_devices_and_fleets_are_refused():
    with refused("DeviceSpec.name must not be empty"):
        DeviceSpec(name="", config=CONFIG)
    with refused("DeviceSpec.frequency_hz must be positive, not 0"):
        DeviceSpec(name="a", config=CONFIG, frequency_hz=0)
    with refused("FleetSpec.devices must hold at least one device"):
        FleetSpec(())
    with refused("FleetSpec.devices must have unique names, but 'a' is there twice"):
        fleet(["a", "a"])
    with refused("FleetSpec.links name 'c', which is no device; there are a, b"):
        fleet(["a", "b"], Links(special={("a", "c"): None}))


def test_links_have_two_directions():
    slow = Link(bytes_per_s=1e9, latency_s=1e-3)
    links = Links(special={("a", "b"): slow, ("b", "c"): None})
    assert links.between("a", "b").seconds(1e6) == pytest.approx(2e-3)
    assert links.between("b", "a") == Link()
    with refused("the link from b to c is down; leave one of the two out, or use one device", PlanError):
        links.between("b", "c")
    with refused("Link.bytes_per_s must be positive, not 0; a link that is down is None in Links"):
        Link(bytes_per_s=0)
    with refused("Link.latency_s must not be negative, but is -1"):
        Link(latency_s=-1)
