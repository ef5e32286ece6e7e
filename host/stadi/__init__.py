"""STADI: one image over several unequal accelerators, in simulated time."""
