"""Draw pictures from a promoted policy, or from the base that it was tuned from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hrf.config import Config
from hrf.errors import ArtifactError, ConfigError
from hrf.evaluation.record import EvaluationRecord
from hrf.images import grid, to_images
from hrf.policies.architecture import Architecture
from hrf.policies.folders import evaluated_from, load_policy
from hrf.policies.kinds import kind_of
from hrf.policies.sources import fetch_base
from hrf.policies.strength import fold_strength
from hrf.promotion.pointer import check_name, fetch_incumbent, read_pointer
from hrf.seeds import Purpose, stream
from hrf.storage.folders import writing_file
from hrf.storage.names import CONFIG_FILE, EVALUATION_FILE, POLICY_FILE
from hrf.storage.objects import Storage
from hrf.trainer.rollout import Batch, denoise


def draw_samples(
    *,
    storage: str,
    experiment: str,
    source: str,
    num_samples: int,
    seed: int,
    strength: float,
    output: str,
    prompts: Sequence[str] = (),
    num_steps: int | None = None,
) -> None:
    """Draw samples as a promoted policy was measured, by the sampler of its evaluations, into one picture.

    The same seed gives the same noise to the promoted policy and to its base, so that two pictures compare.

    The arguments are the options of `hrf sample`, and the storage, `s3://bucket/prefix`.

    Raises:
        ConfigError: If nothing is promoted yet, the experiment's name can't be one, or an unconditional model is given
            prompts.
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
        config = Config.from_yaml((promoted / CONFIG_FILE).read_text(encoding="utf-8"))
        if num_steps is not None:
            config = config.with_changes({"evaluation": {"steps": num_steps}})
        base = Path(scratch) / "base"
        check_base(promoted, fetch_base(config.model, base, {"step": "sample", "source": config.model.source}))
        folder, numbers = _embed(promoted, base, config, prompts, num_samples)
        (weights := Path(scratch) / "weights").mkdir()
        fold_strength(promoted, base, weights, strength)
        policy = load_policy(config, base, weights, prompts=folder, reference=source == "base")
        evaluated_from(Architecture.of(base), config, policy.switch_step)
        if numbers is not None:
            # The autoencoder is read when the first picture is decoded, and the folder is gone by then.
            policy.decode(torch.zeros(1, *policy.sample_shape))
    if source == "base":
        policy = policy.as_reference()
    streams = [stream(seed, Purpose.EVALUATION, index) for index in range(num_samples)]
    sampler = policy.as_evaluated()
    samples = denoise(sampler, Batch.from_noise(policy, streams, numbers), batch_size=config.model.batch_size)
    columns = max(1, round(num_samples**0.5))
    with writing_file(output) as file:
        grid(to_images(policy.decode(samples).cpu().numpy()), columns=columns).save(file)


def _embed(
    promoted: Path, base: Path, config: Config, prompts: Sequence[str], num_samples: int
) -> tuple[Path | None, Tensor | None]:
    """Embed prompts beside the base: (folder of the embeddings, each sample's prompt); nothing for other models."""
    if config.prompts is None:
        if prompts:
            raise ConfigError(
                "prompt", expected="none, as the model is an unconditional one", got=list(prompts), fix="leave it out"
            )
        return None, None
    measured = EvaluationRecord.read(promoted / EVALUATION_FILE).by_prompt or []
    texts = list(prompts) or [entry.prompt for entry in measured]
    folder = base.parent / "prompts"
    folder.mkdir()
    kind_of(base).embed_prompts(base, texts, negative=config.prompts.negative).save(folder)
    return folder, torch.arange(num_samples) % len(texts)


def check_base(promoted: Path, digest: str) -> None:
    """Refuse to combine a policy with another base than its own."""
    origin = json.loads((promoted / POLICY_FILE).read_text(encoding="utf-8"))["base"]
    if origin["digest"] != digest:
        raise ArtifactError(
            origin["source"],
            problem=f"its digest is {digest}, the promoted policy was tuned from {origin['digest']}",
            producer="another version of the base model",
            fix="bring back the version of the base model that the policy was tuned from",
        )
