"""Amaranth hardware: everything that becomes Verilog, and its configuration."""

from .config import AcceleratorConfig, ChecksumConfig, MemoryConfig

__all__ = ["AcceleratorConfig", "ChecksumConfig", "MemoryConfig"]
