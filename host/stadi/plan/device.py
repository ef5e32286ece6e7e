"""The devices of a fleet: accelerators at an operating point, under a background load."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from brownout.hw.config import AcceleratorConfig

from ...device.power.timing import NOMINAL_FREQUENCY_HZ, NOMINAL_VOLTAGE_V, DelayModel
from .link import Links, Pair
from .load import LoadTrace


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """One accelerator of a fleet.

    Attributes
    ----------
    name : str
        Unique in its fleet.
    config : AcceleratorConfig
        The hardware. Where the operating point errs it must draw errors and have checksum units: its
        products are then corrected, and rolled back by not writing.
    voltage_v, frequency_hz : float
        Operating point of array and checks.
    load : LoadTrace
        What others take of its time.
    delay_model : DelayModel
        Law from operating points to errors.

    Raises
    ------
    ValueError
        The operating point is beyond what the delay model covers, it errs and nothing protects the device, or the
        accelerator has an attention unit.
    """

    name: str
    config: AcceleratorConfig
    voltage_v: float = NOMINAL_VOLTAGE_V
    frequency_hz: float = NOMINAL_FREQUENCY_HZ
    load: LoadTrace = field(default_factory=LoadTrace)
    delay_model: DelayModel = field(default_factory=DelayModel)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("DeviceSpec.name must not be empty")
        if not self.frequency_hz > 0:
            raise ValueError(f"DeviceSpec.frequency_hz must be positive, not {self.frequency_hz!r}")
        if self.config.attention:
            raise ValueError(
                f"device {self.name!r} has an attention unit, which takes no keys and values that are divided over "
                "devices, and an image must not depend on how it is divided; give it a config with attention=False"
            )
        if self.error_rate and (self.config.checksum is None or not self.config.error_model.draws):
            raise ValueError(
                f"device {self.name!r} errs at {self.voltage_v:g} V and {self.frequency_hz:g} Hz "
                f"(rate {self.error_rate:.3g}); raise voltage_v, lower frequency_hz, or give it a config with "
                "timing_model='flip' and a ChecksumConfig"
            )

    @cached_property
    def error_rate(self) -> float:
        """Errors per output at the operating point."""
        return self.delay_model.error_rate(self.voltage_v, self.frequency_hz)


@dataclass(frozen=True)
class FleetSpec:
    """Devices and what connects them.

    Attributes
    ----------
    devices : tuple of DeviceSpec
        Devices, at least one; names are unique.
    links : Links
        Links from each to each other.

    Raises
    ------
    ValueError
        There is no device, or two have the same name.
    """

    devices: tuple[DeviceSpec, ...]
    links: Links = field(default_factory=Links)

    def __post_init__(self) -> None:
        names = [device.name for device in self.devices]
        if not names:
            raise ValueError("FleetSpec.devices must hold at least one device")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"FleetSpec.devices must have unique names, but {name!r} is there twice")
        for pair in self.links.special:
            for name in pair:
                if name not in names:
                    raise ValueError(f"FleetSpec.links name {name!r}, which is no device; there are {', '.join(names)}")

    def bandwidths(self, time_s: float) -> dict[Pair, float]:
        """Bytes per second of each link at a time; 0 where it is down."""
        names = [device.name for device in self.devices]
        pairs = ((sender, receiver) for sender in names for receiver in names if sender != receiver)
        special, default = self.links.special, self.links.default
        links = ((pair, special.get(pair, default)) for pair in pairs)
        return {pair: 0.0 if link is None else link.bandwidth(time_s) for pair, link in links}
