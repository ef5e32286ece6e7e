"""STADI: one image over several unequal accelerators, planned in simulated time and executed."""

from .execute.fleet import Fleet, Generated, PlacedDenoiser
from .execute.request import Sampling, Sharing
from .plan.coding import ExchangeCoding
from .plan.device import DeviceSpec, FleetSpec
from .plan.link import BandwidthTrace, Link, Links
from .plan.load import LoadTrace
from .plan.plan import Plan, Share
from .plan.planner import METHODS, Planner
from .simulate.gantt import gantt_svg
from .simulate.interval import Failure
from .simulate.replanning import Replanner
from .simulate.simulation import Simulation
from .simulate.timeline import Timeline

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
    "Sampling",
    "Share",
    "Sharing",
    "Simulation",
    "Timeline",
    "gantt_svg",
]
