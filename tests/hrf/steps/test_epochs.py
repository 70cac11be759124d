"""Whole epochs through folders: exact resume, equal routes to the same weights, counted costs, failing rewards."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from hrf.errors import ArtifactError, ConfigError, HrfError, NumericalError
from hrf.planning.cost import expected_epoch_evaluations
from hrf.policies.components import scheduler_config
from hrf.policies.folders import noise_schedule
from hrf.steps.check import check_shape, shape_of
from hrf.steps.gather import gather
from hrf.steps.history import read_update
from hrf.storage.folders import read_manifest
from hrf.trainer.trainer import branch_name

SPLIT = {
    "policy": {"split": 0.5, "prefix_pool": 4},
    "starts": {"kind": "window", "schedule": "uniform", "width": 0.0},
}
SHARED_START = {
    **SPLIT,
    "starts": {"kind": "window", "schedule": "fixed", "windows": [{"steps": [3, 4]}], "width": 0.0},
    "rollout": {"share_start": True},
    "update": {"trust_region": "divergence", "divergence_limit": 1e-4},
}
DIFFERENCE = {**SPLIT, "update": {"objective": "difference", "proximal_weight": 0.5, "levels_per_branch": 1}}
SHAPED = {
    **SPLIT,
    "shaping": {"reward": {"name": "python", "function": "tests.hrf.shared_work:mean_blue"}, "weight": -0.5},
    "update": {
        "objective": "difference",
        "levels_per_branch": 1,
        "reference_weight": 0.5,
        "sibling_distance_weight": 0.5,
    },
}
DDPO = {"starts": {"kind": "noise", "schedule": "uniform", "width": 0.0}}
TAIL_LOSS = {"starts": {**DDPO["starts"], "loss_from": 0.5}}
SELECTED = {
    "starts": {
        "kind": "selected",
        "schedule": "uniform",
        "width": 0.0,
        "selection": {"stride": 1, "branches": 2, "coarse_stride": 2, "preview_steps": 1},
    }
}


def digest(run, name: str) -> dict:
    """Digests of a folder's files, without the records that tell wall times."""
    files = read_manifest(run.at(name)).files
    return {file: entry["sha256"] for file, entry in files.items() if not file.startswith("updates/")}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {**SPLIT, "update": {"ema_decay": 0.9}},
        pytest.param(SHARED_START, marks=pytest.mark.slow),
        pytest.param(DIFFERENCE, marks=pytest.mark.slow),
        SHAPED,
    ],
    ids=["hrf", "split-average", "shared", "difference", "shaped"],
)
def test_2n_epochs_are_n_epochs_a_resume_and_n_more_bit_for_bit(steps, changes):
    """Trap 7: through files after every epoch, against four epochs in one process that never reads them back.

    Weights, moments, counters, learning rate, window and the next epoch's trajectories. Kills: moments not restored,
    a counter that starts again, a window by a mutable counter.
    """
    rates = {
        "update": {"rate_schedule": "warmup_cosine", "warmup_updates": 3, "total_updates": 10},
        "run": {"epochs": 5},
    }
    straight, resumed = steps("straight", changes), steps("resumed", changes)
    for run in (straight, resumed):
        run.config = run.config.with_changes(rates)
    straight.prepare()
    shutil.copytree(straight.folder, resumed.folder, dirs_exist_ok=True)
    straight.train(0, 4)
    resumed.train(0, 2)
    for epoch in (2, 3):
        resumed.epoch(epoch)

    assert digest(straight, "policy-4") == digest(resumed, "policy-4")
    assert digest(straight, "state-4") == digest(resumed, "state-4")
    for epoch in range(4):
        ours, theirs = (read_update(run.folder / "policy-4", epoch) for run in (straight, resumed))
        assert ours.model_copy(update={"seconds": {}}) == theirs.model_copy(update={"seconds": {}})
    for run in (straight, resumed):
        run.sample(4)
    following = [
        read_manifest(run.at("trajectories-4")).files["trajectories.safetensors"] for run in (straight, resumed)
    ]
    assert following[0] == following[1]
    assert [update.update for update in resumed.update_record(3).updates] == [6, 7]


def test_what_shapes_training_does_not_change_how_it_is_measured(steps):
    """Kills: a second reward in the digest of evaluations, so that candidates would not compare."""
    runs = [steps(f"run-{number}", {"shaping": shaping}) for number, shaping in enumerate((None, SHAPED["shaping"]))]
    for run in runs:
        run.prepare(experiment=run.folder.name)
    abouts = [json.loads((run.folder / "run" / "run.json").read_text()) for run in runs]
    assert abouts[0]["evaluation_digest"] == abouts[1]["evaluation_digest"]


def test_moments_that_are_not_restored_change_the_next_weights(steps):
    """The mutant of trap 7: a fresh optimizer state at the same weights."""
    run = steps()
    run.prepare()
    run.epoch(0)
    run.epoch(1)
    honest = digest(run, "policy-2")
    (run.folder / "state-1").rename(run.folder / "kept")
    (run.folder / "state-0").rename(run.folder / "state-1")

    run.epoch(1)

    assert digest(run, "policy-2") != honest


def test_a_step_that_runs_again_gives_the_same_bytes(steps):
    """All but the wall times, which `about.json` and the update records tell."""

    def contents() -> dict:
        folders = ("trajectories-0", "samples-0", "policy-1", "state-1")
        files = {(name, file): entry for name in folders for file, entry in read_manifest(run.at(name)).files.items()}
        return {
            key: entry["sha256"] for key, entry in files.items() if key[1] not in ("about.json", "updates/0000.json")
        }

    run = steps()
    run.prepare()
    run.epoch(0)
    before = contents()

    run.epoch(0)

    assert contents() == before


@pytest.mark.parametrize(
    "changes",
    [{}, SPLIT, SHARED_START, DDPO, TAIL_LOSS, SELECTED, DIFFERENCE, SHAPED],
    ids=["hrf", "split", "shared", "ddpo", "tail-loss", "hrf-d", "difference", "shaped"],
)
def test_every_start_distribution_trains_and_its_cost_is_counted_as_spent(steps, changes):
    """Costs recomputed from the start steps: a forward per tail step, and forward plus backward per trained one.

    Of the difference objective, per level, with one more forward for its pull. Scores have distances to siblings and a
    second reward where they are asked for, and are as they were elsewhere; what is reported as the reward is the first.
    """
    run = steps("run", changes)
    run.prepare()
    run.epoch(0)

    about = json.loads((run.folder / "trajectories-0" / "about.json").read_text())
    starts = load_file(run.folder / "trajectories-0" / "trajectories.safetensors")["start_steps"]
    steps_of_k, trained, switch = 6, 4, run.config.switch_step
    per_root = steps_of_k - switch if run.config.policy.prefix_pool else steps_of_k
    roots = 2 * per_root
    if run.config.starts.kind == "noise":
        roots = len(starts) * run.config.first_loss_step
    if run.config.rollout.share_start:
        roots = 0
    tails = int((steps_of_k - starts).sum())
    if run.config.starts.kind != "selected":
        assert about["num_evaluations"] == roots + tails
    pool = run.config.policy.prefix_pool * switch
    learning = 4 * len(starts) if changes in (DIFFERENCE, SHAPED) else 3 * int((trained - starts).sum())
    scores = json.loads((run.folder / "scores-0" / "scores.json").read_text())
    more = {"distances", "shaping"} if changes is SHAPED else set()
    assert scores.keys() == {"name", "seconds", "rewards", *more}
    record = run.update_record(0)
    assert record.reward_mean == pytest.approx(sum(scores["rewards"]) / len(starts), rel=1e-12)
    assert record.shaping_mean == (
        pytest.approx(sum(scores["shaping"]) / len(starts), rel=1e-12) if changes is SHAPED else None
    )
    spent = pool + about["num_evaluations"] + learning
    assert record.num_evaluations == spent
    schedule = noise_schedule(scheduler_config(run.folder / "base"), run.config)
    assert expected_epoch_evaluations(run.config, schedule, 0) == pytest.approx(spent - pool, rel=0.5)


@pytest.mark.parametrize(
    ("changes", "num_shards", "epoch"),
    [({}, 2, 0), ({}, 3, 1), (SPLIT, 3, 0), (SHARED_START, 3, 0), (DDPO, 3, 0), (SELECTED, 3, 0), (DIFFERENCE, 3, 0)],
    ids=["hrf-even", "hrf-second-epoch", "split", "shared", "ddpo", "hrf-d", "difference"],
)
def test_sampling_in_shards_gives_the_bits_of_one_step(steps, changes, num_shards, epoch):
    """Kills: noise numbered within a shard, shards joined in the order in which they come, calls of other sizes."""
    run = steps("run", {**changes, "rollout": {**changes.get("rollout", {}), "roots": 4, "branches": 3}})
    run.prepare()
    if epoch:
        run.train(0, epoch)
    run.sample(epoch)
    run.sample_in_shards(epoch, num_shards, "-gathered")

    for name, file in (("trajectories", "trajectories.safetensors"), ("samples", "samples.safetensors")):
        whole, gathered = (read_manifest(run.at(f"{name}-{epoch}{suffix}")).files[file] for suffix in ("", "-gathered"))
        assert gathered == whole
    whole, gathered = (
        json.loads((run.folder / f"trajectories-{epoch}{suffix}" / "about.json").read_text())
        for suffix in ("", "-gathered")
    )
    assert {**gathered, "seconds": 0} == {**whole, "seconds": 0}


def test_shards_that_are_not_the_whole_epoch_are_refused(steps):
    run = steps()
    run.prepare()
    run.sample(0, shard=1, num_shards=2)

    with pytest.raises(ArtifactError, match=r"shards \[1\] of \[2\] are not a whole epoch's"):
        gather(
            run=run.at("run"),
            epoch=0,
            replica=0,
            trajectory_shards=[run.at("trajectories-0")],
            sample_shards=[run.at("samples-0")],
            trajectories=run.at("trajectories"),
            samples=run.at("samples"),
        )


def test_one_step_per_epoch_and_several_epochs_per_step_promote_the_same_weights(steps):
    separate, together = steps("separate"), steps("together")
    for run in (separate, together):
        run.prepare(experiment=run.folder.name)
    for epoch in (0, 1):
        separate.epoch(epoch)
    together.train(0, 2)

    separate.judge(1)
    together.judge(1)

    for name in ("policy-2", "evaluation-1"):
        assert digest(separate, name) == digest(together, name)


def test_the_records_of_a_run_are_gathered_in_its_summary(steps):
    run = steps("run", {"run": {"epochs": 2}})
    run.prepare()
    run.epoch(0)
    run.judge(0)
    run.epoch(1)
    run.judge(1)

    metrics = run.summarize("judged-1")

    summary = json.loads((run.folder / "summary" / "summary.json").read_text())
    assert [epoch["epoch"] for epoch in summary["epochs"]] == [0, 1]
    assert all(epoch[part] for epoch in summary["epochs"] for part in ("update", "evaluation", "decision"))
    assert metrics["num_epochs"] == 2
    assert metrics["reward"] == summary["epochs"][1]["evaluation"]["reward"]["value"]
    assert (run.folder / "report.html").read_text().startswith("<!")


def test_evaluation_noise_is_the_same_for_base_and_candidate(steps):
    """The base, evaluated as a candidate, differs from itself by nothing."""
    run = steps()
    run.prepare()
    run.epoch(0)
    run.forget_training()

    run.judge(0)

    evaluation = json.loads((run.folder / "evaluation-0" / "evaluation.json").read_text())
    assert evaluation["reward_vs_base"] == {"value": 0.0, "low": 0.0, "high": 0.0, "standard_error": 0.0}
    assert evaluation["diversity"]["vendi_order2_ratio"]["value"] == 1.0
    assert {file.name for file in (run.folder / "evaluation-0").iterdir()} == {
        "evaluation.json", "grid.png", "manifest.json",
    }, "the pictures themselves are not kept"  # fmt: skip


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_base_draws_the_same_pictures_whether_the_policy_is_split_or_not(steps, eta):
    """Arms of a comparison share base and seeds. Kills: step noise that depends on where the evaluation starts."""
    rewards = []
    for name, changes in (("whole", {}), ("split", SPLIT)):
        run = steps(name, {**changes, "evaluation": {"eta": eta}})
        run.prepare(experiment=name)
        rewards.append(json.loads((run.folder / "baseline" / "baseline.json").read_text())["rewards"])

    assert rewards[0] == rewards[1]


def test_a_damaged_artifact_is_named_with_its_producer(steps):
    run = steps()
    run.prepare()
    weights = run.folder / "policy-0" / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))

    with pytest.raises(ArtifactError, match=r"diffusion_pytorch_model.*sha256.*step prepare, run run"):
        run.sample(0)


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        ({"num_epochs": 5}, r"run\.epochs:"),
        ({"epochs_per_step": 2}, r"run\.epochs_per_step:"),
        ({"evaluate_every": 2}, r"evaluation\.every:"),
        ({"replicas": 2}, r"run\.replicas:"),
    ],
)
def test_a_pipeline_compiled_for_another_shape_is_refused(steps, shape, field):
    config = steps("run", {"run": {"epochs_per_step": 1}}).config
    with pytest.raises(ConfigError, match=field):
        check_shape(config, **{**shape_of(config), **shape})


@pytest.fixture
def user_rewards(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "import numpy as np\n"
        "def nan_at_4(images):\n    r = images.mean(axis=(1, 2, 3)).astype('float64'); r[4] = np.nan; return r\n"
        "def broken(images):\n    raise RuntimeError('my scorer broke')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_rewards", None)


def with_reward(function: str) -> dict:
    return {"reward": {"name": "python", "function": f"my_rewards:{function}"}}


def score_tiny(run) -> None:
    from hrf.steps.score import score

    run.sample(0)
    score(run=run.at("run"), samples=run.at("samples-0"), epoch=0, replica=0, scores=run.at("scores-0"))


def test_a_reward_that_is_not_finite_names_epoch_root_and_branch_and_leaves_nothing(steps, user_rewards, monkeypatch):
    run = steps()
    run.prepare()
    changed = run.config.with_changes(with_reward("nan_at_4"))
    monkeypatch.setattr("hrf.steps.context.Config.from_yaml", lambda text: changed)

    with pytest.raises(NumericalError, match="epoch=0, root=1, branch=1"):
        score_tiny(run)

    assert not (run.folder / "scores-0").exists()


def test_a_reward_that_raises_is_reported_with_its_own_error(steps, user_rewards, monkeypatch):
    run = steps()
    run.prepare()
    changed = run.config.with_changes(with_reward("broken"))
    monkeypatch.setattr("hrf.steps.context.Config.from_yaml", lambda text: changed)

    with pytest.raises(HrfError, match="my scorer broke"):
        score_tiny(run)


def test_branches_are_counted_within_their_root():
    groups = torch.tensor([3, 3, 5, 3, 5])

    assert [branch_name(groups, i, 7) for i in range(5)] == [
        "epoch=7, root=3, branch=0",
        "epoch=7, root=3, branch=1",
        "epoch=7, root=5, branch=0",
        "epoch=7, root=3, branch=2",
        "epoch=7, root=5, branch=1",
    ]
