"""Plans in simulated time."""
