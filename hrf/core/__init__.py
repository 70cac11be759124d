"""The equations: pure functions of tensors and numbers, without IO, configuration or global random state."""
