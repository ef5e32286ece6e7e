"""STADI: one image over several unequal accelerators, planned in simulated time and executed."""

from .coding import ExchangeCoding
from .device import DeviceSpec, FleetSpec
from .gantt import gantt_svg
from .interval import Failure
from .link import BandwidthTrace, Link, Links
from .load import LoadTrace
from .plan import Plan, Share
from .planner import METHODS, Planner
from .replanning import Replanner
from .runtime.fleet import Fleet, Generated, PlacedDenoiser
from .simulation import Simulation
from .timeline import Timeline

__all__ = [
    "METHODS",
    "BandwidthTrace",
    "DeviceSpec",
    "ExchangeCoding",
    "Failure",
    "Fleet",
    "FleetSpec",
    "Generated",
    "Link",
    "Links",
    "LoadTrace",
    "PlacedDenoiser",
    "Plan",
    "Planner",
    "Replanner",
    "Share",
    "Simulation",
    "Timeline",
    "gantt_svg",
]
