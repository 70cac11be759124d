"""Hierarchical reward fine-tuning (HRF) of diffusion models: the library behind the pipelines."""

from importlib.metadata import version

__version__ = version("hrf-pipelines")
