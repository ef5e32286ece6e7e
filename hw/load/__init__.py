"""From memory to scratchpads: fetching, unpacking, storing."""
