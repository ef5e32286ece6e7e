"""Voltage, clock, errors, time and energy of a device."""
