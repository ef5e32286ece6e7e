"""Ways to carry a product out: simulated RTL, or its functional twin."""
