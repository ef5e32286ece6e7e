"""The functional twin: arithmetic of the accelerator in PyTorch, bit for bit."""
