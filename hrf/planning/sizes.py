"""How much memory a run takes on a GPU, and how many bytes an epoch's steps write. From its configuration."""

from __future__ import annotations

import math

from hrf.config import Config
from hrf.planning.footprint import Footprint

FLOAT_BYTES, INDEX_BYTES = 4, 8
_ADAM_MOMENTS = 2
_BFLOAT16_ACTIVATIONS = 0.5
_SCORE_BYTES = 22
"""Of one number in scores.json, at most."""
_STEP_NORM_COPIES = 1
"""An update that measures each step's part in the gradient holds the one before that step."""


def device_memory(config: Config, denoiser: Footprint, decoder: Footprint | None) -> dict[str, int]:
    """Bytes on the GPU: weights and what goes with each, and the peaks of sampling and of the update."""
    weights, tuned = FLOAT_BYTES * denoiser.num_parameters, FLOAT_BYTES * denoiser.num_tuned
    low = config.model.forward_dtype == "bfloat16"
    activations = _BFLOAT16_ACTIVATIONS if low else 1.0
    second = config.switch_step > 0 or config.update.uses_reference
    parts = {
        "weights": weights,
        "buffers": denoiser.buffer_bytes,
        # An adapter's reference is the same network, with the adapter switched off.
        "reference": tuned if config.policy.lora else weights if second else 0,
        "bfloat16_weights": weights // 2 if low else 0,
        "gradients": tuned,
        "gradient_copies": _STEP_NORM_COPIES * tuned,
        "moments": _ADAM_MOMENTS * tuned,
        "average": tuned if config.update.ema_decay > 0 else 0,
        "decoder": FLOAT_BYTES * decoder.num_parameters if decoder else 0,
    }
    forward = round(config.model.batch_size * config.forwards * denoiser.forward_bytes * activations)
    # One latent after the other, in float32.
    decoding = decoder.forward_bytes if decoder else 0
    pairs = config.update.microbatch * config.episode_forwards
    trained = round(pairs * denoiser.backward_bytes * activations)
    checkpointed = round(pairs * denoiser.checkpointed_bytes * activations)
    held = parts["weights"] + parts["buffers"] + parts["reference"] + parts["bfloat16_weights"]
    learning = held + parts["gradients"] + parts["gradient_copies"] + parts["moments"] + parts["average"]
    return {
        **parts,
        "sample_activations": max(forward, decoding),
        "update_activations": trained,
        "update_activations_checkpointed": checkpointed,
        "sample": held + parts["decoder"] + max(forward, decoding),
        "update": learning + trained,
        "update_checkpointed": learning + checkpointed,
    }


def artifact_bytes(config: Config, denoiser: Footprint, decoder: Footprint | None, pairs: float) -> dict[str, int]:
    """Contents of what an epoch's steps write; `pairs` are its (branch, trained step) pairs."""
    branches = config.rollout.roots * config.rollout.branches
    state = FLOAT_BYTES * math.prod(denoiser.sample_shape)
    image = FLOAT_BYTES * math.prod((decoder or denoiser).output_shape)
    tuned = FLOAT_BYTES * denoiser.num_tuned
    # The finished samples, too, as their differences are what is learned from; and means, to measure divergences from.
    states = (2 if config.update.trust_region == "divergence" else 1) * pairs
    states += (2 if config.update.objective == "difference" else 1) * branches
    indices = (3 if config.prompts else 2) * branches * INDEX_BYTES
    # Rewards, and what else advantages are made of.
    numbers = 1 + (config.shaping is not None) + (config.update.sibling_distance_weight > 0)
    return {
        "trajectories": round(states * state + pairs * FLOAT_BYTES + indices),
        "samples": branches * (image + INDEX_BYTES),
        "scores": numbers * branches * _SCORE_BYTES,
        "policy": (2 if config.update.ema_decay else 1) * tuned,
        "training_state": _ADAM_MOMENTS * tuned + FLOAT_BYTES * denoiser.num_tuned_tensors,
    }
