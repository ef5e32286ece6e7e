"""Execution of plans with tensors: workers that each hold an accelerator and evaluate some rows of an image."""
