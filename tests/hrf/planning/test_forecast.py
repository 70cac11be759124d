"""What a run will take, against runs that are made: their FLOPs, calls and files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hrf.config import Config, resolve
from hrf.core.schedule import build_schedule
from hrf.errors import ConfigError
from hrf.evaluation.samples import evaluation_samples, evaluation_starts
from hrf.planning.cost import (
    call_size,
    expected_epoch_evaluations,
    expected_sampling_evaluations,
    pool_evaluations,
    verdict_evaluations,
)
from hrf.planning.footprint import Footprint, denoiser_footprint
from hrf.planning.forecast import GPUS, OPERATION_SECONDS, forecast, num_calls
from hrf.planning.sizes import device_memory
from hrf.policies.diffusion import DiffusionPolicy
from hrf.seeds import Purpose, stream
from hrf.steps.sequence import legs_of
from hrf.trainer.episodes import Scores
from hrf.trainer.rollout import Batch, denoise
from hrf.trainer.starts import build_starts, draw_prefix_pool
from hrf.trainer.state import moments_of, save_training_state, save_trajectories
from hrf.trainer.trainer import Trainer, sample_episodes
from tests.hrf.planning.test_footprint import PIXELS
from tests.hrf.toys import LINEAR_ALPHA_BARS, small_policy

SMALL = {"sampler": {"steps": 6}, "rollout": {"roots": 8, "branches": 4}, "update": {"minibatch": 16, "microbatch": 16}}
"""Full calls, so that nothing is filled up."""


def configured(**sections) -> Config:
    values = {**SMALL, "evaluation": {"num_samples": 16, "features": "pixels", "classifier": ""}, **sections}
    values["gate"] = {"monitors": {"unrecognised_fraction": None}}
    return Config.from_mapping(values)


def window(start: float, stop: float) -> dict:
    return {"kind": "window", "schedule": "fixed", "windows": [{"fractions": [start, stop]}]}


@pytest.fixture(scope="module")
def counted() -> Footprint:
    return denoiser_footprint(PIXELS)


def policy_for(config: Config) -> DiffusionPolicy:
    from diffusers import UNet2DModel

    denoisers = [UNet2DModel.from_config(PIXELS).eval() for _ in range(2)]
    evaluated = build_schedule(LINEAR_ALPHA_BARS, num_steps=config.evaluation_steps)
    return DiffusionPolicy(
        denoiser=denoisers[0],
        reference=denoisers[1].requires_grad_(False),
        schedule=build_schedule(LINEAR_ALPHA_BARS, num_steps=config.sampler.steps, min_std=config.sampler.min_std),
        evaluation_schedule=evaluated.with_eta(config.evaluation.eta),
        prediction="epsilon",
        clip_range=1.0,
        sample_shape=(3, 16, 16),
        switch_step=config.switch_step,
    )


def random_scores() -> Scores:
    return Scores(rewards=np.random.default_rng(0).random(32), seconds=0.0)


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """torch's own counter. It knows attention that is written out, and not the CPU's fused kernel."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        yield flops


# One start step, so that what is expected is what is drawn.
RUNS = {
    "HRF": {"starts": window(0.5, 0.6)},
    "DDPO": {"starts": {"kind": "noise"}},
    "a split with a pool": {
        "starts": window(0.5, 0.6), "policy": {"split": 0.5, "prefix_pool": 16},
    },
    "shared starts, with means": {
        "starts": window(0.5, 0.6), "policy": {"split": 0.5}, "rollout": {**SMALL["rollout"], "share_start": True},
        "update": {**SMALL["update"], "trust_region": "divergence"},
    },
    "other steps where it is measured, behind a pool": {
        "policy": {"split": 0.5, "prefix_pool": 8},
        "starts": window(0.5, 0.6),
        "evaluation": {"num_samples": 8, "steps": 9, "eta": 0.0},
    },
    "a KL penalty, twice": {
        "starts": window(0.5, 0.6),
        "update": {"minibatch": 16, "microbatch": 16, "kl_weight": 0.1, "inner_epochs": 2},
    },
    "levels with pulls, twice": {
        "starts": window(0.3, 0.4),
        "update": {
            "minibatch": 16, "microbatch": 16, "objective": "difference", "levels_per_branch": 1,
            "proximal_weight": 1.0, "reference_weight": 1.0, "inner_epochs": 2,
        },
    },
}  # fmt: skip


class TestFlops:
    @pytest.mark.parametrize("name", RUNS)
    def test_they_are_those_that_torch_counts_in_a_run(self, name, counted):
        """Sampling, updates, pool, baseline, evaluation and verdict of one epoch; within 2 percent: a first layer's
        backward pass is shorter, as nobody wants the gradient of what goes in."""
        config = configured(**RUNS[name], run={"epochs": 1})
        policy = policy_for(config)
        expected = forecast(config, policy.schedule, counted, evaluated_from=policy.as_evaluated().switch_step)
        found: dict[str, FlopCounterMode] = {}
        pool = None
        if config.policy.prefix_pool:
            with counting() as found["prefix_pool"]:
                pool = draw_prefix_pool(policy, config, run_seed=0, on_advance=None)
        with counting() as starting:
            starts = evaluation_starts(policy, config, None)
        with counting() as evaluating:
            evaluation_samples(policy, starts, config, None)
        with counting() as found["sample"]:
            drawn = build_starts(config, policy, reward=pytest.fail, pool=pool)
            episodes = sample_episodes(policy, drawn, config, run_seed=0, epoch=0)
        trainer = Trainer(policy, config, run_seed=0)
        with counting() as found["update"]:
            trainer.learn(episodes.trajectories, episodes.sampling, random_scores(), epoch=0)
        (epoch,) = expected.epochs
        parts = {"sample": epoch.sample, "update": epoch.update, **expected.once}
        begun, evaluated = starting.get_total_flops(), evaluating.get_total_flops()
        counts = {part: flops.get_total_flops() for part, flops in found.items()}
        # What the base gives from the seeds, what a policy gives from there, and three policies from fresh seeds.
        counts |= {"baseline": begun + evaluated, "evaluations": evaluated, "verdicts": begun + 3 * evaluated}
        for part, flops in counts.items():
            assert parts[part].flops == pytest.approx(flops, rel=0.02 if part == "update" else 1e-6), part
        assert expected.total.flops == pytest.approx(sum(counts.values()), rel=0.02)

    @pytest.mark.parametrize(
        ("starts", "shared"),
        [(window(0.3, 0.4), False), (window(0.3, 0.4), True), ({"kind": "noise"}, False)],
        ids=["HRF", "shared", "DDPO"],
    )
    @pytest.mark.parametrize("prefix_pool", [0, 32])
    @pytest.mark.parametrize("switch_step", [2, 3])
    def test_an_epoch_costs_what_is_expected_of_it_also_after_the_switch_step_has_moved(
        self, starts, shared, prefix_pool, switch_step
    ):
        """Kills: the window or the first loss as they were before a diversity floor moved the switch step."""
        split = {"split": 0.3, "prefix_pool": prefix_pool}
        rollout = {**SMALL["rollout"], "share_start": shared}
        config = configured(starts=starts, policy=split, rollout=rollout, run={"epochs": 1})
        policy = policy_for(config)
        pool = draw_prefix_pool(policy, config, run_seed=0, on_advance=None) if config.policy.prefix_pool else None
        moved = dataclasses.replace(policy, switch_step=switch_step)
        starts = build_starts(config, moved, reward=pytest.fail, pool=pool)
        episodes = sample_episodes(moved, starts, config, run_seed=0, epoch=0)
        assert episodes.sampling.num_evaluations == expected_sampling_evaluations(
            config, policy.schedule, 0, switch_step=switch_step
        )

    def test_evaluations_are_those_that_training_counts(self, counted):
        for preset in ("avatars-split", "avatars-hrf-d", "avatars-published"):
            config = resolve(preset)
            schedule = build_schedule(LINEAR_ALPHA_BARS, num_steps=config.sampler.steps, min_std=config.sampler.min_std)
            found = forecast(config, schedule, counted)
            epochs = range(config.run.epochs)
            assert sum(
                epoch.num_epochs * (epoch.sample.evaluations + epoch.update.evaluations) for epoch in found.epochs
            ) == pytest.approx(sum(expected_epoch_evaluations(config, schedule, epoch) for epoch in epochs))
            assert found.once["prefix_pool"].evaluations == pool_evaluations(config)
            verdicts = sum(leg.evaluated for leg in legs_of(config)) * verdict_evaluations(config, config.switch_step)
            assert found.once["verdicts"].evaluations == verdicts
            assert sum(epoch.num_epochs for epoch in found.epochs) == config.run.epochs

    def test_processes_share_the_time_of_sampling_and_updates_and_none_of_the_work(self, counted):
        """Kills: measuring shared out, too, which one process does; FLOPs or evaluations divided."""
        config = configured(run={"epochs": 2})
        schedule = build_schedule(LINEAR_ALPHA_BARS, num_steps=6)
        one, four = (
            forecast(config.with_changes({"model": {"num_processes": count}}), schedule, counted) for count in (1, 4)
        )
        assert (four.total.flops, four.total.evaluations) == (one.total.flops, one.total.evaluations)
        assert four.once == one.once
        saved = 0.0
        for shared, alone in zip(four.epochs, one.epochs, strict=True):
            for part in ("sample", "update"):
                seconds = getattr(alone, part).seconds
                assert getattr(shared, part).seconds == pytest.approx(seconds / 4)
                saved += alone.num_epochs * seconds * 3 / 4
        assert one.total.seconds - four.total.seconds == pytest.approx(saved)
        assert any("4 processes" in assumption for assumption in four.assumptions)

    def test_replicas_train_at_the_same_time_and_all_cost(self, counted):
        """Their epochs' work so many times, in the time of one; the rest once. Kills: replicas that cost nothing."""
        config, schedule = configured(run={"epochs": 2}), build_schedule(LINEAR_ALPHA_BARS, num_steps=6)
        one, three = (
            forecast(config.with_changes({"run": {"replicas": count}}), schedule, counted) for count in (1, 3)
        )
        assert three.total.seconds == one.total.seconds
        assert three.once == one.once
        once = sum(work.evaluations for work in one.once.values())
        assert three.total.evaluations - once == pytest.approx(3 * (one.total.evaluations - once))
        assert any("3 replicas" in assumption for assumption in three.assumptions)

    def test_gradient_checkpointing_does_a_forward_pass_more(self, counted):
        plain, recomputed = (
            forecast(configured(model={"gradient_checkpointing": on}), build_schedule(LINEAR_ALPHA_BARS, num_steps=6),
                     counted) for on in (False, True)
        )  # fmt: skip
        assert recomputed.epochs[0].update.flops == pytest.approx(plain.epochs[0].update.flops * 4 / 3)
        assert recomputed.epochs[0].update.evaluations == plain.epochs[0].update.evaluations
        assert recomputed.epochs[0].sample == plain.epochs[0].sample


class TestCalls:
    @settings(max_examples=20)
    @given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.integers(1, 5))
    def test_they_are_those_that_sampling_makes(self, lengths, batch_size):
        policy = small_policy(num_steps=6)
        calls = []
        steps = torch.tensor([6 - length for length in lengths])
        streams = [stream(0, Purpose.ROOT, 0, index) for index in range(len(lengths))]
        batch = Batch(states=torch.zeros(len(lengths), 3, 8, 8), steps=steps, streams=streams)
        denoise(policy, batch, batch_size=batch_size, on_advance=calls.append)
        assert num_calls(lengths, call_size(len(lengths), batch_size)) == len(calls)
        assert sum(lengths) == sum(calls)

    def test_calls_that_are_filled_up_take_their_time(self, counted):
        """23 samples in calls of at most 16: two of 12, as long as 24; and 20 in two of 10."""
        slow = dataclasses.replace(counted, num_operations=0)
        schedule = build_schedule(LINEAR_ALPHA_BARS, num_steps=6)

        def baseline(samples: int) -> float:
            config = configured(model={"batch_size": 16})
            config = config.with_changes({"evaluation": {"num_samples": samples}})
            return forecast(config, schedule, slow).once["baseline"].seconds

        assert baseline(23) == pytest.approx(baseline(24))
        assert baseline(20) == pytest.approx(baseline(16) * 20 / 16)


class TestTime:
    SCHEDULE = build_schedule(LINEAR_ALPHA_BARS, num_steps=6)

    def seconds(self, counted: Footprint, **options) -> float:
        model = {"forward_dtype": options.pop("forward_dtype", "float32")}
        return forecast(configured(model=model), self.SCHEDULE, counted, **options).total.seconds

    def test_in_bfloat16_it_is_flops_over_what_the_gpu_reaches(self, counted):
        large = dataclasses.replace(counted, convolution_flops=10**12, other_flops=10**12)
        config = configured(model={"forward_dtype": "bfloat16"})
        found = forecast(config, self.SCHEDULE, large, gpu="a100", utilisation=0.25)
        # All calls are full.
        assert found.total.seconds == pytest.approx(found.total.flops / (312e12 * 0.25), rel=1e-6)

    def test_in_float32_convolutions_run_in_tf32(self, counted):
        convolutions = dataclasses.replace(counted, convolution_flops=10**12, other_flops=0)
        others = dataclasses.replace(counted, convolution_flops=0, other_flops=10**12)
        assert self.seconds(others) / self.seconds(convolutions) == pytest.approx(156 / 19.5)

    def test_a_small_model_takes_as_long_as_its_operations_are_many(self, counted):
        found = forecast(configured(), self.SCHEDULE, counted)
        calls = found.once["baseline"].evaluations / 8
        assert found.once["baseline"].seconds == pytest.approx(calls * counted.num_operations * OPERATION_SECONDS)

    @pytest.mark.parametrize("gpu", GPUS)
    def test_half_the_utilisation_takes_twice_the_time(self, counted, gpu):
        large = dataclasses.replace(counted, convolution_flops=10**14)
        half, whole = (self.seconds(large, gpu=gpu, utilisation=share) for share in (0.5, 1.0))
        assert half == pytest.approx(2 * whole)

    @pytest.mark.parametrize("options", [{"gpu": "tpu"}, {"utilisation": 0.0}, {"utilisation": 1.5}])
    def test_what_cannot_be_is_refused(self, counted, options):
        with pytest.raises(ConfigError, match="--"):
            forecast(configured(), self.SCHEDULE, counted, **options)

    def test_all_that_is_assumed_is_told(self, counted):
        told = " ".join(forecast(configured(), self.SCHEDULE, counted, utilisation=0.4).assumptions)
        for assumption in ("40%", "156 TFLOP/s", "19.5", "20 microseconds", "2 forward passes"):
            assert assumption in told


class TestMemory:
    def test_it_adds_up(self, counted):
        config = configured(model={"batch_size": 5}, run={"epochs_per_step": 1})
        found = device_memory(config, counted, None)
        weights = 4 * counted.num_parameters
        assert found["sample"] == weights + 5 * counted.forward_bytes
        # Of several epochs in a step, gradients and moments are there while the next one is sampled.
        assert (
            device_memory(configured(model={"batch_size": 5}), counted, None)["sample"] == found["sample"] + 3 * weights
        )
        # Weights, gradient, a copy of it for each step's norm, two moments.
        assert found["update"] == 5 * weights + 16 * counted.backward_bytes
        assert found["update"] - found["update_checkpointed"] == 16 * (
            counted.backward_bytes - counted.checkpointed_bytes
        )

    @pytest.mark.parametrize(
        ("sections", "reference", "average"),
        [
            ({}, 0, 0),
            ({"policy": {"split": 0.5}}, 1, 0),
            ({"update": {**SMALL["update"], "kl_weight": 0.1}}, 1, 0),
            ({"update": {**SMALL["update"], "ema_decay": 0.9}}, 0, 1),
        ],
    )
    def test_what_is_needed_is_held(self, sections, reference, average, counted):
        found, plain = (device_memory(configured(**each), counted, None) for each in (sections, {}))
        weights = 4 * counted.num_parameters
        assert (found["reference"], found["average"]) == (reference * weights, average * weights)
        assert found["update"] - plain["update"] == (reference + average) * weights

    def test_of_weights_that_processes_share_each_holds_a_part_and_gathers_what_it_uses(self, counted):
        """Kills: a part of the average left whole, gathered blocks without their gradients, sampling from parts."""
        sections = {
            "model": {"num_processes": 4, "batch_size": 5},
            "update": {**SMALL["update"], "kl_weight": 0.1, "ema_decay": 0.9},
        }
        sizes = {"num_parameters": 4000, "num_tuned": 4000, "largest_block": 300, "outside_blocks": 50}
        counted = dataclasses.replace(counted, **sizes)
        whole = device_memory(configured(**sections), counted, None)
        sections["model"]["shard_weights"] = True
        found = device_memory(configured(**sections), counted, None)
        weights, gathered = 4 * 4000, 2 * 4 * (2 * 300 + 50)
        # Weights, reference, gradients and their copies, two moments, average.
        assert found["update"] - gathered == whole["update"] - 7 * weights * 3 / 4
        assert found["sample"] - 2 * weights == whole["sample"] - 6 * weights * 3 / 4
        apart = configured(**sections, run={"epochs_per_step": 1})
        assert device_memory(apart, counted, None)["sample"] == 2 * weights + 5 * counted.forward_bytes

    def test_an_adapter_has_gradients_and_moments_of_its_own_only(self, counted):
        text = {"model": {"source": "somewhere", "guidance_scale": 5.0}, "prompts": {}}
        adapted = dataclasses.replace(counted, num_tuned=100)
        config = configured(**text, policy={"lora": {}})
        found = device_memory(config, adapted, counted)
        assert (found["reference"], found["gradients"], found["moments"]) == (400, 400, 800)
        assert found["decoder"] == found["weights"]
        # Guidance asks twice.
        assert found["update_activations"] == 2 * 16 * counted.backward_bytes

    def test_bfloat16_halves_activations_and_copies_the_weights(self, counted):
        low = device_memory(configured(model={"forward_dtype": "bfloat16"}), counted, None)
        high = device_memory(configured(), counted, None)
        for part, casts in (("update", counted.backward_casts), ("update_checkpointed", counted.checkpointed_casts)):
            activations = part.replace("update", "update_activations")
            assert low[activations] == high[activations] / 2
            assert low[part] == high[part] - low[activations] + 2 * casts

    def test_beside_an_adapter_in_bfloat16_frozen_layers_take_half(self, counted):
        text = {"source": "somewhere", "guidance_scale": 5.0}
        configs = [
            configured(model={**text, "forward_dtype": dtype}, prompts={}, policy={"lora": {}})
            for dtype in ("float32", "bfloat16")
        ]
        high, low = (device_memory(config, counted, counted)["weights"] for config in configs)
        assert high - low == 2 * counted.num_in_layers > 0

    def test_a_decoder_is_there_while_it_decodes_and_the_denoisers_activations_while_it_denoises(self, counted):
        """Kills: both at a time, one of them never."""
        config = configured(model={"batch_size": 5}, run={"epochs_per_step": 1})
        weights = 4 * counted.num_parameters
        for scale in (1, 100):
            decoder = dataclasses.replace(counted, num_parameters=scale * counted.num_parameters)
            decoding = scale * weights + counted.forward_bytes
            found = device_memory(config, counted, decoder)
            assert found["sample"] == weights + max(5 * counted.forward_bytes, decoding)
            assert found["update"] == device_memory(config, counted, None)["update"]


class TestArtifacts:
    @pytest.mark.parametrize("name", RUNS)
    def test_they_are_as_large_as_the_files(self, name, counted, tmp_path):
        config = configured(**RUNS[name], run={"epochs": 1})
        policy = policy_for(config)
        pool = draw_prefix_pool(policy, config, run_seed=0, on_advance=None) if config.policy.prefix_pool else None
        starts = build_starts(config, policy, reward=pytest.fail, pool=pool)
        episodes = sample_episodes(policy, starts, config, run_seed=0, epoch=0)
        save_trajectories(episodes.trajectories, episodes.sampling, tmp_path)
        trainer = Trainer(policy, config, run_seed=0)
        trainer.learn(episodes.trajectories, episodes.sampling, random_scores(), epoch=0)
        save_training_state(trainer, moments_of(trainer), tmp_path)
        policy.denoiser.save_pretrained(tmp_path / "unet")
        evaluated_from = policy.as_evaluated().switch_step
        expected = forecast(config, policy.schedule, counted, evaluated_from=evaluated_from).epochs[0].artifact_bytes
        for artifact, file in {
            "trajectories": "trajectories.safetensors",
            "policy": "unet/diffusion_pytorch_model.safetensors",
            "training_state": "moments.safetensors",
        }.items():
            written = (tmp_path / file).stat().st_size
            header = int.from_bytes((tmp_path / file).read_bytes()[:8], "little") + 8
            assert expected[artifact] == written - header, artifact
        assert expected["samples"] == episodes.finished.samples.numel() * 4 + 32 * 8


def test_epochs_of_one_window_are_told_together(counted):
    config = configured(
        starts={"kind": "window", "schedule": "baseline"}, run={"epochs": 5}, evaluation={"num_samples": 16, "every": 2,
        "features": "pixels", "classifier": ""},
    )  # fmt: skip
    schedule = build_schedule(LINEAR_ALPHA_BARS, num_steps=6)
    found = forecast(config, schedule, counted)
    assert [(epoch.first_epoch, epoch.num_epochs) for epoch in found.epochs] == [(0, 3), (3, 2)]
    assert found.epochs[0].update.evaluations > found.epochs[1].update.evaluations
    # After epochs 1, 3 and 4.
    assert found.once["evaluations"].evaluations == 3 * 16 * 6
    weighed = forecast(config.with_changes({"evaluation": {"num_strengths": 3}}), schedule, counted)
    assert weighed.once["evaluations"].evaluations == (1 + 3) * 3 * 16 * 6
    assert any("all 3 strengths beside 1" in line for line in weighed.assumptions)
