"""Timing errors and the checksum units that find and correct them; see docs/protection.md."""
