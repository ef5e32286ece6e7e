"""The systolic array, its accumulators and the sequencing of passes."""
