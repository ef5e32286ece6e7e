"""What runs and workloads cost: as published, and counted on our accelerators."""
