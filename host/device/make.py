"""Backends by name."""

from __future__ import annotations

from pathlib import Path

from brownout.hw.config import AcceleratorConfig

from .backends.base import Backend
from .mixed.options import MixedOptions

BACKENDS = ("rtl", "twin", "mixed")


def make_backend(
    config: AcceleratorConfig,
    name: str,
    *,
    waves: Path | None,
    check_axi: bool,
    deadline_s: float,
    mixed: MixedOptions | None,
    layout: str,
    loop_order: str,
) -> Backend:
    """Make a backend by its name; parameters are those of `Accelerator`, and so are errors."""
    if name in ("rtl", "mixed"):
        from brownout.cosim.simulator import Simulator

        from .backends.rtl import RtlBackend

        def start() -> Simulator:
            return Simulator(config, waves=waves, check_axi=check_axi, deadline_s=deadline_s)

        def start_rtl() -> RtlBackend:
            return RtlBackend(config, start, deadline_s=deadline_s, layout=layout, loop_order=loop_order)

        if name == "rtl":
            return start_rtl()

        from .mixed.backend import MixedBackend

        options = MixedOptions() if mixed is None else mixed
        return MixedBackend(config, options, start_rtl, layout=layout, loop_order=loop_order)
    if name == "twin":
        from .backends.twin import TwinBackend

        if waves is not None:
            raise ValueError("waves are recorded from RTL; use backend='rtl', not 'twin'")
        return TwinBackend(config, layout=layout, loop_order=loop_order)
    raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, not {name!r}")
