"""Diffusion models seen as policies; the only place that imports diffusers."""
