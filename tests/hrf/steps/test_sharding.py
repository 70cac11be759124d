"""Runs whose processes share the denoiser's weights between them, against the same runs in one process."""

from pathlib import Path

import pytest
import torch

from hrf.config import Config
from hrf.distributed.processes import run_in_processes
from hrf.errors import ConfigError
from hrf.steps.history import read_update
from hrf.steps.train import train
from tests.hrf import tiny_flux, tiny_stable_diffusion_3, tiny_stable_diffusion_xl
from tests.hrf.shared_work import call_steps, look_at_shares
from tests.hrf.steps.conftest import TINY, StepByStep
from tests.hrf.steps.test_processes import KINDS, SHARED, SMOOTH, assert_close_records, distance, tensors_of
from tests.hrf.steps.test_text_to_image import SD

MODELS = {
    "sd3": (tiny_stable_diffusion_3, {"guidance_scale": 2.0}),
    "sdxl": (tiny_stable_diffusion_xl, {"guidance_scale": 2.0}),
    "flux": (tiny_flux, {"guidance_scale": 1.0, "embedded_guidance": 3.5, "picture_size": 16}),
}
#: Prompts, guidance and an adapter, whose reference is the denoiser itself; parts are unequal.
TEXT = {**SD, "update": {**SD["update"], "learning_rate": 1e-3, "microbatch": 3, "kl_weight": 0.1, "ema_decay": 0.5}}
CHECKPOINTED = {"model": {"gradient_checkpointing": True}}
CASES = {
    # Two networks; processes that sample for long and for short; estimates that they make before an update.
    **{kind: (None, KINDS[kind]) for kind in ("hrf", "hrf-d", "difference")},
    "sd3-tuned-whole": ("sd3", {"policy": {"lora": None, "split": 0.4, "prefix_pool": 7}}),
    "sdxl": ("sdxl", {}),
    "flux-checkpointed": ("flux", CHECKPOINTED),
    # Frozen layers and an adapter in two precisions. Parts of a batch are rounded otherwise than the whole.
    "sd3-bfloat16": ("sd3", {"model": {"forward_dtype": "bfloat16"}}),
}
SHARING = {"num_processes": 2, "shard_weights": True}


@pytest.mark.slow
def test_epochs_of_processes_that_share_the_weights_are_those_of_one(tmp_path, storage_uri, tiny_model):
    """Two epochs in a step each, so that moments and averages are written and read back in between.

    On pixels two networks are shared; every text-to-image kind, with an adapter and without. In most steps
    of an update one process has fewer pairs than the other, or none. Weights, averages, moments and records are those
    of one process up to the order of a sum's terms. Kills: gradients averaged instead of added up, or added up twice; a
    process that skips a pass, or samples while another gathers (both hang); moments or averages of one part alone.
    """
    sources = {name: module.save(tmp_path / "models" / name) for name, (module, _) in MODELS.items()}
    pairs, calls = [], []
    for name, (kind, changes) in CASES.items():
        if kind is None:
            config = Config.from_mapping({**TINY, "model": {"source": str(tiny_model)}}).with_changes(SHARED)
        else:
            config = Config.from_mapping({**TEXT, "model": {"source": str(sources[kind]), **MODELS[kind][1]}})
        config = config.with_changes({**changes, "run": {"epochs": 2}, "reward": SMOOTH})
        alone = StepByStep(tmp_path / f"{name}-alone", storage_uri, config)
        together = StepByStep(tmp_path / f"{name}-together", storage_uri, config.with_changes({"model": SHARING}))
        for run in (alone, together):
            run.prepare(experiment=run.folder.name)
        alone.train(0, 2)
        calls += [(train, arguments_of_train(together, epoch)) for epoch in (0, 1)]
        pairs.append((alone, together))

    run_in_processes(call_steps, {"calls": calls}, num_processes=2, on_gpu=False, timeout_seconds=120)

    for alone, together in pairs:
        before, ours, theirs = (
            tensors_of(Path(path)) for path in (alone.at("policy-0"), alone.at("policy-2"), together.at("policy-2"))
        )
        moved = distance({name: ours[name] for name in before}, before)
        low = alone.config.model.forward_dtype == "bfloat16"
        assert distance(ours, theirs) < (0.2 if low else 1e-2) * moved, alone.folder.name
        if low:
            continue
        ours, theirs = (moments_of(run) for run in (alone, together))
        assert distance(ours, theirs) < 1e-3 * distance(ours, {key: torch.zeros(()) for key in ours}), alone.folder.name
        for epoch in (0, 1):
            records = [read_update(Path(run.at("policy-2")), epoch) for run in (alone, together)]
            # The second epoch samples with weights that are rounded otherwise, and a loss is a sum whose terms cancel.
            assert_close_records(*records, rel=1e-4 if epoch == 0 else 1e-3)


def moments_of(run: StepByStep) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tensors_of(Path(run.at("state-2"))).items() if "exp_avg" in name}


def arguments_of_train(run: StepByStep, epoch: int) -> dict:
    inputs = {name: run.at(name) for name in ("run", "base", "baseline")}
    return {
        **inputs,
        "policy": run.at(f"policy-{epoch}"),
        "training_state": run.at(f"state-{epoch}"),
        "epoch": epoch,
        "num_epochs": 1,
        "replica": 0,
        "new_policy": run.at(f"policy-{epoch + 1}"),
        "new_training_state": run.at(f"state-{epoch + 1}"),
    }


@pytest.mark.slow
def test_a_process_holds_its_part_of_both_networks_and_can_ask_them_alone_where_they_are_gathered(steps):
    """Kills: a step that asks for shared weights and gets whole ones."""
    run = steps("run", {**SHARED, "model": SHARING})
    run.prepare()
    folders = {"run": run.at("run"), "base": run.at("base"), "policy": run.at("policy-0")}
    folders["training_state"] = run.at("state-0")

    told = run_in_processes(look_at_shares, {"folders": folders}, num_processes=2, on_gpu=False, timeout_seconds=60)

    assert told["held"] == pytest.approx([0.5, 0.5], abs=0.01)
    shared, reference, whole = map(torch.tensor, told["answers"])
    # Weights that lie elsewhere in memory are multiplied by other instructions.
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(reference, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"shard_weights": True}, "model.shard_weights: expected false, as there is one process"),
        ({**SHARING, "compile": True}, "model.compile: expected false where the weights are sharded"),
    ],
)
def test_weights_are_sharded_between_several_processes_and_not_compiled(model, field):
    with pytest.raises(ConfigError, match=field):
        Config.from_mapping({"model": model})
