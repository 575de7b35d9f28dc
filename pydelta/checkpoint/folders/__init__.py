"""What lies in a checkpoint's folder beside its tensors: where weights are, and small files."""
