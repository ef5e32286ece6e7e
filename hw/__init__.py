"""Amaranth hardware: everything that becomes Verilog, and its configuration."""
