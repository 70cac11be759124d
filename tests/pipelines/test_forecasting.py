"""How many epochs a task of a cluster trains, where the configuration leaves it open."""

import pytest

from hrf.config import resolve
from hrf.planning.cost import pool_evaluations
from hrf.storage.shipped import shipped_folder
from hrf_pipelines.forecasting import (
    CPU_FLOPS,
    STEP_SECONDS,
    compute,
    epoch_seconds,
    evaluations_by_epoch,
    settle_epochs_per_step,
)
from hrf_pipelines.placement import Placement
from hrf_pipelines.plan import count_tasks, plan_epochs
from tests.hrf import tiny_flux, tiny_stable_diffusion_3, tiny_stable_diffusion_xl


def settled(preset, overrides="", placement=None):
    return settle_epochs_per_step(resolve(preset, overrides), placement).run.epochs_per_step


def test_short_epochs_between_two_evaluations_share_a_task_on_a_cluster():
    assert settled("avatars-split", "{run: {epochs: 6}, evaluation: {every: 3}}", Placement()) == 3
    assert settled("avatars-split", "{run: {epochs: 6}, evaluation: {every: 2}}", Placement()) == 2


def test_it_divides_the_run_too():
    """Kills: epochs that are left over."""
    assert settled("avatars-split", "{run: {epochs: 4}, evaluation: {every: 6}}", Placement()) == 2


def test_on_this_machine_every_epoch_has_its_own_steps():
    assert settled("avatars-split") == 1


def test_epochs_that_last_minutes_keep_their_own_steps():
    seconds = epoch_seconds(resolve("avatars-split"))
    # So many roots that an epoch lasts longer than a task should.
    roots = round(4 * 1.5 * STEP_SECONDS / seconds)
    changes = f"{{rollout: {{roots: {roots}}}, policy: {{prefix_pool: {roots}}}}}"
    assert settled("avatars-split", changes, Placement()) == 1


def test_replicas_spend_a_budget_together_and_epochs_last_as_long_as_one():
    """The prefix pool is drawn once. Kills: a study whose arm with replicas trains so many times its budget."""
    one, three = (resolve("avatars-split", f"run: {{replicas: {count}}}") for count in (1, 3))
    assert epoch_seconds(one) == epoch_seconds(three)
    pool = pool_evaluations(one)
    spent, together = (evaluations_by_epoch(config, shipped_folder("avatars-32")) for config in (one, three))
    assert pool > 0
    assert [value - pool for value in together] == pytest.approx([3 * (value - pool) for value in spent])


def test_a_number_that_was_chosen_stays():
    assert settled("avatars-split", "{run: {epochs: 6, epochs_per_step: 1}}", Placement()) == 1


def test_shards_share_the_sampling_of_single_epochs():
    assert settled("avatars-split", "", Placement(shards=2)) == 1


def test_a_model_that_is_not_here_leaves_every_epoch_its_own_steps(tmp_path):
    assert settled("avatars-split", f"{{model: {{source: {tmp_path}/absent}}}}", Placement()) == 1


@pytest.mark.parametrize("preset", ["avatars-split", "avatars-floor"])
def test_presets_of_short_epochs_have_few_tasks_on_a_cluster(preset):
    config = settle_epochs_per_step(resolve(preset), Placement())
    tasks = count_tasks(plan_epochs(config))
    assert tasks <= (14 if preset == "avatars-split" else 25)


def test_an_epoch_lasts_as_long_as_its_operations_take():
    config = resolve("avatars-split")
    twice = config.with_changes({"rollout": {"branches": 2 * config.rollout.branches}})
    assert epoch_seconds(config) < epoch_seconds(twice) < 2 * epoch_seconds(config)
    assert CPU_FLOPS < 1e12


@pytest.mark.parametrize(
    ("kind", "denoiser", "settings"),
    [
        (tiny_stable_diffusion_3, "transformer", ""),
        (tiny_stable_diffusion_xl, "unet", ""),
        (tiny_flux, "transformer", ", picture_size: 16, embedded_guidance: 3.5"),
    ],
)
def test_other_text_to_image_models_are_planned_from_their_configurations_alone(kind, denoiser, settings, tmp_path):
    """Kills: a denoiser that is looked for in `unet/` alone, the tables of another noise process."""
    model = kind.pipeline()
    for part in (denoiser, "vae", "scheduler"):
        getattr(model, part).save_config(tmp_path / part)
    config = resolve("sd15-compressibility", f"model: {{source: {tmp_path}, revision: ''{settings}}}")
    planned = compute(config, "a100", 0.3)
    assert planned.num_parameters == getattr(model, denoiser).num_parameters()
    assert planned.memory_bytes["decoder"] == 4 * model.vae.num_parameters()
    assert planned.memory_bytes["gradients"] < planned.memory_bytes["weights"]
    assert planned.total.flops > planned.total.evaluations * planned.forward_flops
