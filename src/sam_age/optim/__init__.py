"""Optimizers that launch little: see `ranger`."""
