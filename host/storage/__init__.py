"""Values and tensors as files: their format, the strict decoder of all that is read, and result files."""
