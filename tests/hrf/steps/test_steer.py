"""A run under a diversity floor, step by step: weights, moments, windows and records after each decision."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from hrf.config import Config
from hrf.distributed.progress import PROGRESS_FILE
from hrf.errors import ConfigError
from hrf.steps.check import check_shape
from hrf.steps.gather import gather
from hrf.storage.folders import read_folder, read_manifest, writing_folder
from tests.hrf.steps.test_epochs import DDPO, SELECTED

WHOLE = {"diversity_floor": 0.9, "starts": {"kind": "window", "schedule": "uniform", "width": 0.0}}
FLOOR = {**WHOLE, "policy": {"split": 0.1}}
"""Switches at step 1 of 6."""
ONE_STEP = {"starts": {"kind": "window", "schedule": "fixed", "windows": [{"steps": [1, 2]}], "width": 0.0}}
SPLIT = {"policy": {"split": 0.3, "prefix_pool": 4}}
SHARED_START = {
    **SPLIT,
    "starts": {"kind": "window", "schedule": "fixed", "windows": [{"steps": [2, 3]}], "width": 0.0},
    "rollout": {"share_start": True},
}


def judged(run, epoch: int, *, bound: float, gain: float) -> dict:
    """Evaluate, put other numbers into the record, promote, and steer."""
    run.evaluate(epoch)
    folder = run.folder / f"evaluation-{epoch}"
    record = json.loads((folder / "evaluation.json").read_text())
    base = json.loads((run.folder / "baseline" / "baseline.json").read_text())
    record["diversity"]["vendi_order2_ratio"] = {"value": bound + 0.05, "low": bound, "high": bound + 0.1}
    record["rewards"] = [reward + gain * (1 + 0.01 * index) for index, reward in enumerate(base["rewards"])]
    record["reward_vs_base"]["value"] = gain
    record["monitors"] = {}
    with writing_folder(run.at("edited"), producer=read_manifest(folder).producer) as edited:
        shutil.copytree(folder, edited, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        (edited / "evaluation.json").write_text(json.dumps(record))
    shutil.rmtree(folder)
    (run.folder / "edited").rename(folder)
    # Fresh seeds would show what the policy really does.
    return {**run.promote(epoch, fresh_seeds=False), **run.steer(epoch)}


def weights(run, name: str) -> dict:
    """Digests of a policy's weights, whatever goes with them."""
    files = read_manifest(run.at(name)).files
    return {file: entry["sha256"] for file, entry in files.items() if file.startswith("unet/")}


def about(run, name: str, file: str) -> dict:
    return json.loads((run.folder / name / file).read_text())


def start_steps(run, epoch: int) -> list[int]:
    return load_file(run.folder / f"trajectories-{epoch}" / "trajectories.safetensors")["start_steps"].tolist()


def learning_rate(run, epoch: int) -> float:
    return run.update_record(epoch).updates[0].learning_rate


def test_evaluations_with_no_step_for_the_last_switch_that_a_floor_may_reach_are_refused_before_training(steps):
    """Of two steps the last is at timestep 499: at step 1 of 6 the switch could stay, at step 4 none would be tuned."""
    short = {"sampler": {"spacing": "trailing"}, "evaluation": {"steps": 2}}
    steps("held", {**FLOOR, **short, "diversity_floor": None}).prepare("held", "held")
    with pytest.raises(ConfigError, match="enough steps") as caught:
        steps("steered", {**FLOOR, **short}).prepare("steered", "steered")
    assert caught.value.field == "evaluation.steps"


def test_a_run_that_nobody_touches_crosses_its_floor_and_backs_up_to_the_base(steps):
    """Real numbers throughout: a rate at which the tiny model falls apart at once."""
    run = steps("run", {**FLOOR, "update": {"learning_rate": 1e-2}, "evaluation": {"num_samples": 16}})
    run.prepare()
    run.epoch(0)
    decision = run.judge(0)
    steered = run.steer(0)

    ratio = about(run, "evaluation-0", "evaluation.json")["diversity"]["vendi_order2_ratio"]
    assert decision["outcome"] == "rejected"
    assert ratio["low"] < 0.9
    assert (steered["action"], steered["kept_bound"], steered["rate_scale"]) == ("back_up", 1.0, 0.5)
    assert weights(run, "policy-1") == weights(run, "policy-0") != weights(run, "trained-policy-0")


def test_near_the_floor_the_weights_and_moments_stay_and_the_switch_step_moves(steps):
    run = steps("run", FLOOR)
    run.prepare()
    run.epoch(0)
    steered = judged(run, 0, bound=0.92, gain=0.1)

    assert (steered["action"], steered["outcome"], steered["switch_step"]) == ("tighten", "promoted", 2)
    assert weights(run, "policy-1") == weights(run, "trained-policy-0")
    assert about(run, "policy-1", "policy.json") == {**about(run, "policy-0", "policy.json"), "switch_step": 2}
    files = [read_manifest(run.at(name)).files for name in ("state-1", "trained-state-0")]
    assert files[0]["moments.safetensors"] == files[1]["moments.safetensors"]
    assert about(run, "state-1", "state.json")["rate_scale"] == 1.0


def test_a_crossed_floor_brings_the_best_candidate_back_with_fresh_moments_and_a_smaller_rate(steps):
    """Kills: backing up to the candidate that crossed, or to the last one above the floor; old moments; counters that
    start again; a rate that no update sees."""
    run = steps("run", FLOOR)
    run.prepare()
    for epoch, (bound, gain) in enumerate([(0.97, 0.2), (0.96, 0.1), (0.85, 0.3)]):
        run.epoch(epoch)
        steered = judged(run, epoch, bound=bound, gain=gain)

    assert (steered["action"], steered["kept_bound"], steered["rate_scale"]) == ("back_up", 0.97, 0.5)
    assert weights(run, "policy-3") == weights(run, "policy-1") != weights(run, "policy-2")
    assert about(run, "policy-3", "policy.json")["switch_step"] == steered["switch_step"] > 1
    before, after = (about(run, name, "state.json") for name in ("trained-state-2", "state-3"))
    assert after == {**before, "rate_scale": 0.5}
    assert list(read_manifest(run.at("state-3")).files) == ["state.json"]

    run.epoch(3)
    assert min(start_steps(run, 3)) >= steered["switch_step"]
    assert learning_rate(run, 3) == 0.5 * learning_rate(run, 2)
    assert run.update_record(3).updates[0].update == before["num_updates"]
    records = sorted((run.folder / "history-3" / "epochs").glob("*/steering.json"))
    assert [json.loads(file.read_text())["action"] for file in records] == ["keep", "keep", "back_up"]


@pytest.mark.parametrize("changes", [{}, DDPO], ids=["hrf", "ddpo"])
def test_a_policy_without_a_split_stays_whole_and_only_its_rate_falls(steps, changes):
    """Kills: a split that nobody asked for, near the floor or below it."""
    run = steps("run", {**WHOLE, **changes})
    run.prepare()
    run.epoch(0)
    near = judged(run, 0, bound=0.92, gain=0.1)
    run.epoch(1)
    crossed = judged(run, 1, bound=0.85, gain=0.2)

    assert (near["action"], near["outcome"], near["switch_step"], near["rate_scale"]) == ("keep", "promoted", 0, 1.0)
    assert (crossed["action"], crossed["switch_step"], crossed["rate_scale"]) == ("back_up", 0, 0.5)
    assert about(run, "policy-2", "policy.json") == about(run, "policy-0", "policy.json")
    assert weights(run, "policy-2") == weights(run, "policy-1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, ONE_STEP, SPLIT, SHARED_START, DDPO, SELECTED],
    ids=["hrf", "hrf-one-step", "split", "shared", "ddpo", "hrf-d"],
)
def test_every_start_distribution_goes_on_from_a_later_switch_step(steps, changes, tmp_path, monkeypatch):
    """Kills: a prefix pool or evaluation starts that are taken for states at the later step; a window before it; a
    total for the progress display as if the step had not moved."""
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "progress.jsonl"))
    run = steps("run", {**FLOOR, **changes, "run": {"epochs": 2}})
    run.prepare()
    run.epoch(0)
    steered = judged(run, 0, bound=0.5, gain=0.1)
    run.epoch(1)
    metrics = judged(run, 1, bound=0.95, gain=0.1)

    assert steered["switch_step"] > run.config.switch_step
    starts = start_steps(run, 1)
    assert min(starts) >= steered["switch_step"]
    events = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    sampled = [
        each for each in events if (each["event"], each.get("step"), each.get("epoch")) == ("advanced", "sample", 1)
    ]
    if run.config.starts.kind == "noise":
        assert set(starts) == {steered["switch_step"]}
    if run.config.starts.kind == "selected":
        # The total takes every branch to start in the middle of the candidates.
        window = range(*run.update_record(1).window)
        middle = sum(window) / len(window)
        assert sampled[-1]["done"] == sampled[-1]["total"] + sum(middle - start for start in starts)
    elif len(set(starts)) == 1:
        assert sampled[-1]["done"] == sampled[-1]["total"]
    if run.config.policy.prefix_pool:
        about_sampling = about(run, "trajectories-1", "about.json")
        end = steered["switch_step"] if run.config.rollout.share_start else 6
        roots, tails = 2 * (end - run.config.switch_step), sum(6 - start for start in starts)
        assert about_sampling["num_evaluations"] == roots + tails
    assert metrics["outcome"] == "promoted"


@pytest.mark.slow
def test_untrained_weights_at_a_later_switch_step_are_still_the_base(steps):
    """The reference takes over from the earlier step's states, on the same noise. Kills: states that are denoised by
    the tuned weights in between, noise that does not go on where the prefix has left it."""
    run = steps("run", {**FLOOR, **SPLIT, "update": {"learning_rate": 1e-7}})
    run.prepare()
    run.epoch(0)
    judged(run, 0, bound=0.5, gain=0.1)
    run.epoch(1)
    # Of the base's weights: `policy-1` is what the run backed up to, at the later switch step.
    run.forget_training(1)
    run.evaluate(1)

    record = about(run, "evaluation-1", "evaluation.json")
    assert record["rewards"] == about(run, "baseline", "baseline.json")["rewards"]
    assert record["diversity"]["vendi_order2_ratio"]["value"] == pytest.approx(1.0, abs=1e-5)


def test_a_run_that_gains_nothing_stops_and_later_steps_pass_on_what_they_are_given(steps):
    run = steps("run", {**FLOOR, "run": {"epochs": 5}})
    run.prepare()
    for epoch in range(3):
        run.epoch(epoch)
        steered = judged(run, epoch, bound=1.0, gain=-0.1)
    assert (steered["action"], steered["stopped"]) == ("stop", 1)

    run.sample(3, 0, 2, "-a")
    run.sample(3, 1, 2, "-b")
    names = [f"{name}-3{shard}" for name in ("trajectories", "samples") for shard in ("-a", "-b")]
    joined = {"trajectories": run.at("trajectories-joined"), "samples": run.at("samples-joined")}
    shards = {"trajectory_shards": list(map(run.at, names[:2])), "sample_shards": list(map(run.at, names[2:]))}
    assert gather(run=run.at("run"), epoch=3, replica=0, **shards, **joined) == {"stopped": 1}
    run.epoch(3)
    assert run.judge(3) == run.steer(3) == {"stopped": 1}
    run.train(4, 1)
    for name, last in (("policy", 5), ("state", 5), ("history", 4)):
        assert read_manifest(run.at(f"{name}-{last}")) == read_manifest(run.at(f"{name}-3"))
        read_folder(run.at(f"{name}-{last}"))

    facts = run.summarize("history-4")
    assert facts["num_epochs"] == 3
    page = (run.folder / "report.html").read_text()
    table, reason, _ = page.rpartition("the reward has not risen for 3 evaluations")
    assert reason
    # Of text: its lines are broken where the page ends.
    assert table.rpartition("<table")[2].startswith(' class="text"')


@pytest.mark.slow
def test_steering_again_gives_the_same_bytes_and_needs_nothing_but_the_records(steps):
    """Kills: state that is kept beside the history. The second pass knows the outputs of training and promote only."""
    run = steps("run", FLOOR)
    run.prepare()
    for epoch, (bound, gain) in enumerate([(0.97, 0.2), (0.85, 0.3)]):
        run.epoch(epoch)
        judged(run, epoch, bound=bound, gain=gain)
    before = [read_manifest(run.at(f"{name}-2")) for name in ("policy", "state", "history")]
    for name, trained in (("policy-2", "policy"), ("state-2", "state")):
        shutil.rmtree(run.folder / name)
        (run.folder / f"trained-{trained}-1").rename(run.folder / name)
    (run.folder / "trained-history-1").rename(run.folder / "judged-1")

    run.steer(1)

    assert [read_manifest(run.at(f"{name}-2")) for name in ("policy", "state", "history")] == before


@pytest.mark.slow
def test_the_next_run_goes_on_from_the_switch_step_at_which_the_promoted_policy_was_sampled(steps):
    """Kills: a start from the configured step; a kept policy that is forgotten; a rate that stays small."""
    first, second = steps("first", FLOOR), steps("second", FLOOR)
    first.prepare("first")
    for epoch, (bound, gain) in enumerate([(0.92, 0.1), (0.95, 0.2)]):
        first.epoch(epoch)
        decided = judged(first, epoch, bound=bound, gain=gain)
    assert (decided["outcome"], decided["action"]) == ("promoted", "keep")

    second.prepare("second")
    assert about(second, "policy-0", "policy.json")["switch_step"] == 2
    assert about(second, "baseline", "start.json")["switch_step"] == 2
    second.epoch(0)
    assert min(start_steps(second, 0)) >= 2
    steered = judged(second, 0, bound=0.5, gain=0.3)
    assert (steered["action"], steered["switch_step"]) == ("back_up", 3)
    kept = about(second, "history-1", "epochs/0000/steering.json")["steering"]["kept"]["candidate"]
    # The tiny models are next to each other, and which is above the floor is a matter of their real numbers.
    start = about(second, "baseline", "start.json")
    above = start["diversity"]["vendi_order2_ratio"]["low"] > 0.9 and start["reward_vs_base"]["value"] > 0
    assert kept == ("first/epoch-0001" if above else None)

    # Three start steps are the fewest that a choice needs at this stride, and two of the four trained ones are left.
    selected = {**SELECTED["starts"], "selection": {**SELECTED["starts"]["selection"], "stride": 2, "coarse_stride": 4}}
    with pytest.raises(ConfigError, match=r"run\.start_from.*switches at step 2"):
        steps("choosing", {**FLOOR, "starts": selected, "policy": {"split": 0.0001}}).prepare("choosing")

    plain, whole = steps("third", {**FLOOR, "diversity_floor": None}), steps("fourth", WHOLE)
    for run, name, differs in ((plain, "third", "switch_step"), (whole, "fourth", "kind")):
        with pytest.raises(ConfigError, match=f"same {differs} as this configuration"):
            run.prepare(name)


@pytest.mark.parametrize("steered", [True, False])
def test_a_floor_and_a_pipeline_that_was_compiled_otherwise_do_not_go_together(steered):
    config = Config() if steered else Config.from_mapping({"diversity_floor": 0.9})
    shape = {"num_epochs": 3, "epochs_per_step": 1, "evaluate_every": 1, "replicas": 1}
    with pytest.raises(ConfigError, match="diversity_floor"):
        check_shape(config, **shape, steered=steered)
