"""Verilog of a configuration."""

from __future__ import annotations

from typing import Any

from amaranth.back import verilog
from amaranth.hdl import Elaboratable, Signal

from .accelerator import Accelerator
from .array.row import MODULE_NAME, ArrayRow
from .config import AcceleratorConfig
from .protect.check_row import MODULE_NAME as CHECK_MODULE_NAME
from .protect.check_row import CheckRow

TOP_NAME = "brownout_accelerator"


def _ports(accelerator: Accelerator) -> dict[str, tuple[Signal, None]]:
    ports: dict[str, tuple[Signal, None]] = {}
    for interface in ("m_axi", "s_axil"):
        bundle = getattr(accelerator, interface)
        for name in bundle.signature.members:
            ports[f"{interface}_{name}"] = (getattr(bundle, name), None)
    ports["irq"] = (accelerator.irq, None)
    return ports


def _convert(design: Elaboratable, name: str, ports: Any) -> str:
    return verilog.convert(design, name=name, ports=ports, strip_internal_attrs=True, emit_src=False)


def verilog_text(config: AcceleratorConfig) -> str:
    """Verilog-2005 source with top module `brownout_accelerator`.

    The rows of the array are instances of one module, converted once: conversion, and whatever reads the result,
    then scale with C instead of R * C.
    """
    accelerator = Accelerator(config)
    row = ArrayRow(config)
    text = _convert(accelerator, TOP_NAME, _ports(accelerator))
    row_text = _convert(row, MODULE_NAME, row.ports)
    if config.checksum is None:
        return f"{text}\n{row_text}"
    check_row = CheckRow(config)
    return f"{text}\n{row_text}\n{_convert(check_row, CHECK_MODULE_NAME, check_row.ports)}"
