"""How much memory a run takes on a GPU, and how many bytes an epoch's steps write. From its configuration."""

from __future__ import annotations

import math

from hrf.config import Config
from hrf.planning.footprint import Footprint

FLOAT_BYTES, BFLOAT16_BYTES, INDEX_BYTES = 4, 2, 8
_ADAM_MOMENTS = 2
_BFLOAT16_ACTIVATIONS = 0.5
_SCORE_BYTES = 22
"""Of one number in scores.json, at most."""
_BLOCKS_AT_A_TIME = 2
"""Of sharded weights: the one that is asked, and the next one, which is on its way."""
_STEP_NORM_COPIES = 1
"""An update that measures each step's part in the gradient holds the one before that step."""


def device_memory(config: Config, denoiser: Footprint, decoder: Footprint | None) -> dict[str, int]:
    """Bytes on the GPU: weights and what goes with each, and the peaks of sampling and of the update.

    What is there at the same time: the decoder while it decodes, copies of weights in bfloat16 while they are used, and
    what an update works with also while the next epoch is sampled in the same step. Of weights that processes share it
    is one process's part, and what is gathered: the whole to sample, in an update a block after the other.
    """
    shares = config.model.num_processes if config.model.shard_weights else 1
    low = config.model.forward_dtype == "bfloat16"
    whole, whole_tuned = FLOAT_BYTES * denoiser.num_parameters, FLOAT_BYTES * denoiser.num_tuned
    if config.policy.lora and low:
        # Frozen layers are held in the precision of the pass.
        whole -= (FLOAT_BYTES - BFLOAT16_BYTES) * denoiser.num_in_layers
    weights, tuned = math.ceil(whole / shares), math.ceil(whole_tuned / shares)
    activations, copy = (_BFLOAT16_ACTIVATIONS, BFLOAT16_BYTES) if low else (1.0, 0)
    second = not config.policy.lora and (config.switch_step > 0 or config.update.uses_reference)
    parts = {
        "weights": weights,
        "buffers": denoiser.buffer_bytes,
        # An adapter's reference is the same network, with the adapter switched off.
        "reference": tuned if config.policy.lora else weights * second,
        "gradients": tuned,
        "gradient_copies": _STEP_NORM_COPIES * tuned,
        "moments": _ADAM_MOMENTS * tuned,
        "average": tuned if config.update.ema_decay > 0 else 0,
        "decoder": FLOAT_BYTES * decoder.num_parameters if decoder else 0,
    }
    pairs = config.update.microbatch * config.episode_forwards
    at_a_time = (_BLOCKS_AT_A_TIME * denoiser.largest_block + denoiser.outside_blocks) / denoiser.num_parameters
    working = {
        "sample_activations": round(config.model.batch_size * config.forwards * denoiser.forward_bytes * activations),
        "sample_bfloat16_weights": copy * denoiser.forward_casts,
        # One latent after the other, in float32.
        "decoder_activations": decoder.forward_bytes if decoder else 0,
        "sample_gathered_weights": whole * (1 + second) if shares > 1 else 0,
        # With the gradients of what is tuned of it.
        "update_gathered_weights": math.ceil(at_a_time * (whole + whole_tuned)) if shares > 1 else 0,
        "update_activations": round(pairs * denoiser.backward_bytes * activations),
        "update_bfloat16_weights": copy * denoiser.backward_casts,
        "update_activations_checkpointed": round(pairs * denoiser.checkpointed_bytes * activations),
        "update_bfloat16_weights_checkpointed": copy * denoiser.checkpointed_casts,
    }
    held = parts["weights"] + parts["buffers"] + parts["reference"]
    learning = held + parts["gradients"] + parts["moments"] + parts["average"]
    # A step that only samples shares nothing.
    alone = whole * (1 + second) + parts["buffers"] + (whole_tuned if config.policy.lora else 0)
    sampling = alone if config.run.epochs_per_step == 1 else learning + working["sample_gathered_weights"]
    denoising = working["sample_activations"] + working["sample_bfloat16_weights"]
    decoding = parts["decoder"] + working["decoder_activations"]
    update = learning + parts["gradient_copies"] + working["update_gathered_weights"]
    return {
        **parts,
        **working,
        "sample": sampling + max(denoising, decoding),
        "update": update + working["update_activations"] + working["update_bfloat16_weights"],
        "update_checkpointed": update
        + working["update_activations_checkpointed"]
        + working["update_bfloat16_weights_checkpointed"],
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
