"""Draw pictures from a promoted policy, or from the base that it was tuned from."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from hrf.config import Config
from hrf.errors import ArtifactError, ConfigError
from hrf.images import grid, to_images
from hrf.policies.folders import POLICY_FILE, load_policy
from hrf.policies.sources import fetch_base
from hrf.promoted import check_name, fetch_incumbent, read_pointer
from hrf.rollout import denoise, draw_noise
from hrf.seeds import Purpose, stream
from hrf.storage import Storage


def draw_samples(*, storage: str, experiment: str, source: str, num_samples: int, seed: int, output: str) -> None:
    """Draw samples with a promoted policy's own sampler into one picture.

    The same seed gives the same noise to the promoted policy and to its base, so that two pictures compare.

    Args:
        storage: `s3://bucket/prefix`.
        experiment: Whose promoted policy.
        source: `promoted`, or `base` for the model that it was tuned from.
        num_samples: How many.
        seed: Of the noise.
        output: The PNG file to write.

    Raises:
        ConfigError: If nothing is promoted yet, or the experiment's name can't be one.
        ArtifactError: If the base is not the one that the policy was tuned from.
    """
    check_name(experiment, "experiment")
    store = Storage.open(storage)
    pointer = read_pointer(store, experiment)
    if pointer is None:
        raise ConfigError(
            "experiment",
            expected="an experiment with a promoted policy",
            got=experiment,
            fix="run `hrf run` until a candidate passes the gate; `hrf runs list` shows what there is",
        )
    with tempfile.TemporaryDirectory() as scratch:
        promoted = fetch_incumbent(store, pointer, Path(scratch) / "promoted")
        config = Config.from_yaml((promoted / "config.yaml").read_text(encoding="utf-8"))
        base = Path(scratch) / "base"
        _check_base(promoted, fetch_base(config.model, base, {"step": "sample", "source": config.model.source}))
        policy = load_policy(config, base, promoted)
    if source == "base":
        policy = policy.as_reference()
    streams = [stream(seed, Purpose.EVALUATION, index) for index in range(num_samples)]
    samples = denoise(
        policy,
        draw_noise(streams, policy.sample_shape, policy.device),
        torch.zeros(num_samples, dtype=torch.int64),
        streams,
        batch_size=config.model.batch_size,
    )
    columns = max(1, round(num_samples**0.5))
    grid(to_images(samples.cpu().numpy()), columns=columns).save(output)


def _check_base(promoted: Path, digest: str) -> None:
    """Refuse to combine a policy with another base than its own."""
    origin = json.loads((promoted / POLICY_FILE).read_text(encoding="utf-8"))["base"]
    if origin["digest"] != digest:
        raise ArtifactError(
            origin["source"],
            problem=f"its digest is {digest}, the promoted policy was tuned from {origin['digest']}",
            producer="another version of the base model",
            fix="bring back the version of the base model that the policy was tuned from",
        )
