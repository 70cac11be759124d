"""Hierarchical reward fine-tuning (HRF) of diffusion models: the library behind the pipelines."""

from importlib.metadata import version

from hrf.networks import torchvision_ops

__version__ = version("hrf-pipelines")

# Here, since it must come before diffusers in every process.
torchvision_ops.declare_on_import()
