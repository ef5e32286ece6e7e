"""Softmax between the two products of attention: only with `AcceleratorConfig.attention`."""
