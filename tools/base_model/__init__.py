"""The base model that ships with the library, and everything needed to make it again.

A small diffusion model of six kinds of drawn pictures (CC0 artwork) at 32 x 32 pixels, small enough to be fine-tuned
on a laptop's CPU, with a classifier that says which kind a picture is. The six kinds make diversity countable: a
fine-tuned model that has collapsed shows an empty bin in its mode histogram.

``python -m tools.base_model OUT`` draws the data set, trains both models, judges them and writes the model card. Using
the shipped result, ``hrf/assets/avatars-32``, needs nothing from this package.
"""

from hrf.networks import torchvision_ops

# Its modules import diffusers before anything else of ours.
torchvision_ops.declare_missing()
