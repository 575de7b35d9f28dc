"""Tensors that nobody may compute with as they lie, and those that can be dequantised."""
