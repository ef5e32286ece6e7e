"""From accumulators to memory: requantisation, packing, writing."""
