"""Voltage, theta and age of checkpoints that follow the errors seen (docs/adaptive.md)."""
