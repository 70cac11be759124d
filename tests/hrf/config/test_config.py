"""The configuration: what it accepts, what it refuses and how it says so, and its text form."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hrf.config import Config, Rollout, Run, Shaping, list_presets, resolve
from hrf.config.overrides import deep_merge
from hrf.core.window import Window
from hrf.errors import ConfigError
from hrf.rewards.classifier import ClassifierReward
from hrf.rewards.jpeg import JpegReward
from hrf.steps.check import check_prompts
from hrf.storage.yaml_text import dump_yaml, parse_yaml

PRESETS = [preset.name for preset in list_presets()]
SPLIT = "avatars-split"


TEXT = "model: {source: sd}\nprompts: {}"


def error_of(preset: str, overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        resolve(preset, overrides)
    return caught.value


def preset_text(name: str) -> str:
    return resources.files("hrf").joinpath(f"presets/{name}.yaml").read_text(encoding="utf-8")


def test_the_presets_are_these():
    assert PRESETS == [
        "avatars-compressibility",
        "avatars-ddpo",
        "avatars-floor",
        "avatars-hrf",
        "avatars-hrf-d",
        "avatars-incompressibility",
        "avatars-planets",
        "avatars-published",
        "avatars-smoke",
        "avatars-split",
        "celebahq-aesthetic",
        "celebahq-compressibility",
        "celebahq-incompressibility",
        "celebahq-over50",
        "flux-dev-pickscore",
        "sd15-aesthetic",
        "sd15-compressibility",
        "sd15-pickscore",
        "sd35-medium-compressibility",
        "sd35-medium-pickscore",
        "sdxl-aesthetic",
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_run_and_describes_itself(name):
    config = resolve(name)
    own = {preset.name: preset.description for preset in list_presets()}[name]
    assert own
    assert config.description == own
    assert len(config.window_schedule(config.sampler.steps - 1).stages) if config.starts.kind != "noise" else True


@pytest.mark.parametrize("name", PRESETS)
def test_the_prompts_of_a_preset_fit_its_evaluation(name):
    check_prompts(resolve(name))


@pytest.mark.parametrize("name", PRESETS)
def test_every_number_in_a_preset_says_where_it_comes_from(name):
    numbers = [line for line in preset_text(name).splitlines() if re.search(r"[:\[] *-?\.?\d", line.split("#")[0])]
    silent = [
        line
        for line in numbers
        if not re.search(r"# (paper|published code|DDPO's code|Flow-GRPO's code|FDFO's code|ours)\b", line)
        and not re.search(r"prefix_pool: 0$", line)
    ]
    assert numbers or "extends:" in preset_text(name)
    assert silent == []


def test_the_method_presets_differ_only_in_where_episodes_start():
    split = resolve(SPLIT).to_mapping()
    for name in ("avatars-ddpo", "avatars-hrf", "avatars-hrf-d"):
        other = resolve(name).to_mapping()
        assert {key for key in split if split[key] != other[key]} <= {"description", "policy", "starts"}


def test_the_gate_takes_a_diversity_floor_in_place_of_its_margin():
    """Kills: a candidate that the run counts as above its floor and the gate does not, or the other way round."""
    assert resolve("avatars-floor", "diversity_floor: 0.8").gate_floor == 0.8
    assert resolve("avatars-floor").gate_floor == resolve(SPLIT).gate_floor == 0.9
    assert resolve(SPLIT, "gate: {diversity_margin: 0.25}").gate_floor == 0.75


def test_the_published_preset_holds_the_published_numbers():
    config = resolve("avatars-published")
    assert (config.sampler.steps, config.sampler.min_std, config.rollout.branches) == (40, 0.0, 5)
    assert (config.update.learning_rate, config.update.weight_decay, config.update.clip_range) == (5e-6, 1e-3, 1e-4)
    schedule = config.window_schedule(39)
    assert [schedule.window(epoch) for epoch in (0, 34, 35, 69)] == [Window(0, 20)] * 2 + [Window(20, 39)] * 2


def test_overrides_replace_single_fields_and_keep_the_rest():
    config = resolve(SPLIT, "update: {learning_rate: 3e-5}\nrun: {epochs: 7}")
    assert config.update.learning_rate == 3e-5
    assert config.run.epochs == 7
    assert config.update.weight_decay == resolve(SPLIT).update.weight_decay


def test_without_a_preset_the_overrides_are_everything_and_may_extend_one():
    assert resolve("") == Config()
    assert resolve("", f"extends: {SPLIT}\nrun: {{seed: 5}}") == resolve(SPLIT, "run: {seed: 5}")


def test_a_preset_and_extends_together_are_refused():
    error = error_of(SPLIT, "extends: avatars-hrf")
    assert error.field == "extends"
    assert "choose no preset" in error.fix


@pytest.mark.parametrize(
    ("preset", "overrides", "field"), [("avatar-hrf", "", "preset"), ("", "extends: avatar-hrf", "extends")]
)
def test_an_unknown_preset_lists_the_presets_and_guesses(preset, overrides, field):
    error = error_of(preset, overrides)
    assert error.field == field
    assert all(name in error.expected for name in PRESETS)
    assert "did you mean 'avatars-hrf'" in error.fix


def test_changes_are_checked_again():
    config = resolve(SPLIT)
    assert config.with_changes({"run": {"epochs": 5}}).run.epochs == 5
    with pytest.raises(ConfigError, match=r"run\.epochs"):
        config.with_changes({"run": {"epochs": 0}})


def test_a_configuration_cannot_be_changed_in_place():
    with pytest.raises(ValidationError, match="frozen"):
        resolve(SPLIT).run.epochs = 5


def test_one_made_in_python_is_checked_as_well():
    with pytest.raises(ConfigError, match=r"update\.minibatch"):
        Config(rollout=Rollout(roots=1, branches=2))


@pytest.mark.parametrize(
    ("overrides", "field", "expected", "fix"),
    [
        ("update: {learning_rate: '1e-4'}", "update.learning_rate", "a number", "without quotes"),
        ("update: {learning_rate: true}", "update.learning_rate", "a number", ""),
        ("update: {learning_rate: 0}", "update.learning_rate", "greater than 0", ""),
        ("update: {kl_weight: .nan}", "update.kl_weight", "a finite number", ""),
        ("update: {kl_weight: .inf}", "update.kl_weight", "a finite number", ""),
        ("update: {scale_trust_region: 'true'}", "update.scale_trust_region", "true or false", "without quotes"),
        ("update: {scale_trust_region: yes}", "update.scale_trust_region", "true or false", "without quotes"),
        ("update: {scale_trust_region: 1}", "update.scale_trust_region", "true or false", ""),
        ("run: {epochs: 3.0}", "run.epochs", "an integer", ""),
        ("run: {epochs: true}", "run.epochs", "an integer", ""),
        ("run: {epochs: '3'}", "run.epochs", "an integer", "without quotes"),
        ("run: {epochs: 0}", "run.epochs", "greater than or equal to 1", ""),
        ("run: {seed: -1}", "run.seed", "greater than or equal to 0", ""),
        ("run: {start_from: promotd}", "run.start_from", "'promoted' or 'base'", "did you mean 'promoted'"),
        ("run: 3", "run", "a mapping of fields", "`run: {name: value}`"),
        ("run:", "run", "a mapping of fields", ""),
        ("model: {source: 3}", "model.source", "text", "in quotes"),
        ("model: {revision: null}", "model.revision", "text", ""),
        ("starts: {windows: [{fractions: [0.5]}]}", "starts.windows[0].fractions[1]", "a pair", ""),
        ("starts: {windows: [{steps: [1, 2, 3]}]}", "starts.windows[0].steps", "a pair", ""),
        ("starts: {windows: {steps: [1, 2]}}", "starts.windows", "a list", ""),
        ("policy: {split: 1.0}", "policy.split", "less than 1", ""),
        ("sampler: {eta: 1.5}", "sampler.eta", "less than or equal to 1", ""),
        ("evaluation: {held_out_reward: {quality: 101}}", "evaluation.held_out_reward.quality", "100", ""),
    ],
)
def test_a_wrong_value_is_named_with_its_rule_and_a_fix(overrides, field, expected, fix):
    error = error_of(SPLIT, overrides)
    assert error.field == field
    assert expected in error.expected
    assert fix in error.fix


@pytest.mark.parametrize(
    ("overrides", "field", "fix"),
    [
        ("updat: {beta1: 0.5}", "updat", "did you mean update?"),
        ("update: {learning_rat: 0.5}", "update.learning_rat", "did you mean update.learning_rate?"),
        ("learning_rate: 0.5", "learning_rate", "`update: {learning_rate: ...}`"),
        ("update.learning_rate: 0.5", "update.learning_rate", "`update: {learning_rate: ...}`"),
        ("gate: {dark_pixel_fraction: 0.5}", "gate.dark_pixel_fraction", "`gate.monitors: {dark_pixel_fraction: ...}`"),
        ("evaluation: {held_out_reward: {nam: x}}", "evaluation.held_out_reward.nam", "held_out_reward.name?"),
        ("starts: {windows: [{step: [1, 2]}]}", "starts.windows[0].step", "did you mean starts.windows[0].steps?"),
        ("run: {zzz: 1}", "run.zzz", "the fields here are epochs"),
    ],
)
def test_an_unknown_key_is_answered_with_the_one_that_was_meant(overrides, field, fix):
    error = error_of(SPLIT, overrides)
    assert error.field == field
    assert fix in error.fix


def test_the_first_problem_names_the_fields_of_the_others():
    error = error_of(SPLIT, "run: {epochs: 0, seed: x}\nupdate: {beta1: 2}")
    assert error.field == "update.beta1"
    assert "2 more problems: run.epochs, run.seed" in error.fix


def test_an_integer_is_a_number():
    assert resolve(SPLIT, "update: {learning_rate: 1}").update.learning_rate == 1.0


SHA1, SHA256 = "0123456789" * 4, "0123456789abcdef" * 4

HF = "hf:google/ddpm-celebahq-256"


@pytest.mark.parametrize(
    ("preset", "overrides", "field"),
    [
        (SPLIT, f"model: {{source: '{HF}'}}", "model.revision"),
        (SPLIT, f"model: {{source: '{HF}', revision: main}}", "model.revision"),
        (SPLIT, "model: {source: 'hf:ddpm', revision: cd5c944777ea2668051904ead6cc120739b86c4d}", "model.source"),
        (SPLIT, "model: {revision: cd5c944777ea2668051904ead6cc120739b86c4d}", "model.revision"),
        (SPLIT, "model: {source: 'shipped:avatar-32'}", "model.source"),
        (SPLIT, "model: {source: 'https://x/y'}", "model.source"),
        (SPLIT, "model: {source: 's3://bucket'}", "model.source"),
        (SPLIT, "model: {source: ''}", "model.source"),
        (SPLIT, "sampler: {eta: 0}", "sampler.eta"),
        (SPLIT, "policy: {split: 0.0}", "policy.prefix_pool"),
        (SPLIT, "policy: {prefix_pool: 3}", "policy.prefix_pool"),
        (SPLIT, "policy: {split: 0.95}", "policy.split"),
        (SPLIT, "policy: {split: 0.75}", "starts.windows[0]"),
        (SPLIT, "policy: {split_sigma: 0.5}", "policy.split"),
        (SPLIT, "starts: {windows: [{fractions: [0.5, 1.0], sigmas: [0.5, 0.0]}]}", "starts.windows[0]"),
        (SPLIT, "starts: {windows: [{sigmas: [0.0, 0.5]}]}", "starts.windows[0].sigmas"),
        (SPLIT, "starts: {windows: [{}]}", "starts.windows[0]"),
        ("avatars-hrf", "starts: {windows: [{fractions: [0.95, 1.0]}]}", "starts.windows[0]"),
        ("avatars-hrf", "starts: {windows: [{steps: [10, 20]}]}", "starts.windows[0]"),
        ("avatars-hrf", "starts: {windows: [{steps: [5, 5]}]}", "starts.windows[0]"),
        ("avatars-hrf", "starts: {windows: []}", "starts.windows"),
        ("avatars-hrf", "starts: {schedule: baseline}", "starts.windows"),
        ("avatars-hrf", "starts: {schedule: baseline, windows: []}\nrun: {epochs: 1}", "starts.schedule"),
        (SPLIT, "starts: {schedule: baseline, windows: []}", "starts.schedule"),
        ("avatars-hrf", "starts: {schedule: sliding, windows: []}", "starts.width"),
        ("avatars-hrf", "starts: {width: 0.2}", "starts.width"),
        ("avatars-hrf", "starts: {loss_from: 0.5}", "starts.loss_from"),
        ("avatars-ddpo", "starts: {loss_from: 0.95}", "starts.loss_from"),
        ("avatars-ddpo", "{starts: {loss_from: 0.3}, policy: {split: 0.5}}", "starts.loss_from"),
        ("avatars-hrf", "starts: {selection: {beta: 0.7}}", "starts.selection"),
        ("avatars-hrf", "starts: {kind: noise}", "starts.schedule"),
        ("avatars-published", "run: {epochs: 60}", "starts.windows"),
        ("avatars-hrf-d", "starts: {selection: {coarse_stride: 3}}", "starts.selection.coarse_stride"),
        ("avatars-hrf-d", "starts: {selection: {coarse_stride: 2}}", "starts.selection.coarse_stride"),
        (
            "avatars-hrf-d",
            "starts: {selection: {rule: exhaustive, coarse_stride: 8}}",
            "starts.selection.coarse_stride",
        ),
        ("avatars-hrf-d", "starts: {schedule: fixed, windows: [{steps: [4, 6]}]}", "starts.selection.stride"),
        (SPLIT, "rollout: {branches: 1}\nupdate: {minibatch: 8}", "rollout.branches"),
        ("avatars-ddpo", "rollout: {roots: 1, branches: 1}\nupdate: {minibatch: 1}", "rollout.branches"),
        (SPLIT, "update: {minibatch: 65}", "update.minibatch"),
        (SPLIT, "reward: {label: planets}", "reward.label"),
        (SPLIT, "reward: {function: 'a:b'}", "reward.function"),
        (SPLIT, "reward: {name: classifier}", "reward.label"),
        (SPLIT, "reward: {name: classifier, label: planets, classifier: ''}", "reward.classifier"),
        (SPLIT, "reward: {name: classifier, label: planets, quality: 80}", "reward.quality"),
        (SPLIT, "reward: {name: classifier, label: planets, legacy_range: true}", "reward.legacy_range"),
        (SPLIT, "reward: {name: python}", "reward.function"),
        (SPLIT, "reward: {name: python, function: 'a.b.c'}", "reward.function"),
        (SPLIT, "reward: {name: classifer}", "reward.name"),
        (SPLIT, "reward: {name: 3}", "reward.name"),
        (SPLIT, "reward: jpeg_compressibility", "reward"),
        (SPLIT, "reward: {name: python, function: 'a:b', quality: 80}", "reward.quality"),
        (SPLIT, "reward: {name: aesthetic}", "reward.clip.source"),
        (SPLIT, "reward: {name: clip_score, clip: {source: ./clip}}", "reward.clip.sha256"),
        (SPLIT, f"reward: {{name: clip_score, clip: {{source: ./clip, sha256: {'0' * 63}}}}}", "reward.clip.sha256"),
        (SPLIT, "reward: {name: clip_score, clip: {source: 'hf:a/b'}}", "reward.clip.revision"),
        (SPLIT, f"reward: {{name: clip_score, clip: {{source: 'hf:a', revision: {SHA1}}}}}", "reward.clip.source"),
        (
            SPLIT,
            f"reward: {{name: clip_score, clip: {{source: 'hf:a/b', revision: {SHA1}, sha256: {SHA256}}}}}",
            "reward.clip.sha256",
        ),
        (
            SPLIT,
            f"reward: {{name: pickscore, model: {{source: ./a, revision: {SHA1}, sha256: {SHA256}}}}}",
            "reward.model.revision",
        ),
        (
            SPLIT,
            f"reward: {{name: image_classifier, model: {{source: 'hf:a/b', revision: {SHA1}}}}}",
            "reward.labels",
        ),
        (
            SPLIT,
            f"reward: {{name: onnx_classifier, model: {{source: a.onnx, sha256: {SHA256}}}}}",
            "reward.classes",
        ),
        (
            SPLIT,
            f"reward: {{name: onnx_classifier, classes: [1, 2], crop: [0.5, 0, 0.5, 1], "
            f"model: {{source: a.onnx, sha256: {SHA256}}}}}",
            "reward.crop",
        ),
        (
            SPLIT,
            "reward: {name: weighted_sum, terms: [{reward: {name: classifier}}, {reward: {}}]}",
            "reward.terms[0].reward.label",
        ),
        (
            SPLIT,
            "reward: {name: weighted_sum, terms: [{reward: {name: weighted_sum}}, {}]}",
            "reward.terms[0].reward.name",
        ),
        (
            SPLIT,
            "reward: {name: weighted_sum, terms: [{reward: {quality: high}}, {}]}",
            "reward.terms[0].reward.quality",
        ),
        (SPLIT, "evaluation: {held_out_reward: {name: clip_score}}", "evaluation.held_out_reward.clip.source"),
        (SPLIT, "reward: {name: onnx_classifier, below: -2.0}", "reward.below"),
        (SPLIT, "evaluation: {features: clip}", "evaluation.encoder.model.source"),
        (SPLIT, "evaluation: {encoder: {batch_size: 2}}", "evaluation.encoder"),
        (SPLIT, "rollout: {share_start: true}", "rollout.share_start"),
        (SPLIT, "{rollout: {share_start: true}, starts: {windows: [{steps: [11, 12]}]}}", "rollout.share_start"),
        ("avatars-ddpo", "{rollout: {share_start: true}, policy: {split: 0.5}}", "rollout.share_start"),
        ("avatars-hrf", "rollout: {share_start: true}", "rollout.share_start"),
        (
            "avatars-hrf-d",
            "{rollout: {share_start: true}, policy: {split: 0.5}, starts: {schedule: uniform, windows: []}}",
            "rollout.share_start",
        ),
        (SPLIT, "update: {levels_per_branch: 3}", "update.levels_per_branch"),
        (SPLIT, "update: {proximal_weight: 0.1}", "update.proximal_weight"),
        (SPLIT, "update: {divergence_limit: 1.0e-4}", "update.divergence_limit"),
        (SPLIT, "update: {trust_region: divergence, clip_range: 1.0e-3}", "update.clip_range"),
        (SPLIT, "update: {objective: difference, trust_region: divergence}", "update.trust_region"),
        (SPLIT, "update: {objective: difference, divergence_limit: 1.0e-4}", "update.divergence_limit"),
        (SPLIT, "update: {reference_weight: 0.1}", "update.reference_weight"),
        ("avatars-ddpo", "update: {sibling_distance_weight: 0.1}", "update.sibling_distance_weight"),
        ("avatars-ddpo", "update: {objective: difference}", "update.objective"),
        (SPLIT, "update: {objective: difference, clip_range: 1.0e-3}", "update.clip_range"),
        (SPLIT, "update: {objective: difference, scale_trust_region: false}", "update.scale_trust_region"),
        (SPLIT, "update: {objective: difference, log_prob_reduction: sum}", "update.log_prob_reduction"),
        (SPLIT, "update: {objective: difference, kl_weight: 0.1}", "update.kl_weight"),
        (SPLIT, "update: {objective: difference, levels_per_branch: 10}", "update.levels_per_branch"),
        (SPLIT, "update: {objective: difference, proximal_weight: 1, minibatch: 32}", "update.proximal_weight"),
        (SPLIT, "update: {warmup_updates: 3}", "update.warmup_updates"),
        (SPLIT, "update: {rate_schedule: warmup_cosine, warmup_updates: 3}", "update.total_updates"),
        (SPLIT, "prompts: {}", "prompts"),
        (SPLIT, "model: {guidance_scale: 2.0}", "model.guidance_scale"),
        (SPLIT, "policy: {lora: {}}", "policy.lora"),
        (SPLIT, "update: {guidance: false}", "update.guidance"),
        (SPLIT, f"{TEXT}\nupdate: {{guidance: false}}", "update.guidance"),
        (SPLIT, "model: {source: sd}\nprompts: {negative: ugly}", "prompts.negative"),
        (SPLIT, "model: {source: sd}\nprompts: {texts: [a, b], source: mine.txt}", "prompts.source"),
        (
            SPLIT,
            "model: {source: sd}\nprompts: {evaluation_source: a.txt, held_out_fraction: 0.3}",
            "prompts.held_out_fraction",
        ),
        (SPLIT, "model: {source: sd}\nprompts: {template: a photo}", "prompts.template"),
        (SPLIT, "model: {source: sd}\nprompts: {statistics_buffer: 8}", "prompts.statistics_buffer"),
        ("avatars-ddpo", "model: {source: sd}\nprompts: {statistics_buffer: 8}", "prompts.statistics_min_count"),
        (SPLIT, "evaluation: {classifier: ''}", "evaluation.features"),
        (SPLIT, "evaluation: {classifier: '', features: pixels}", "gate.monitors.unrecognised_fraction"),
        (SPLIT, "evaluation: {held_out_reward: {}}", "evaluation.held_out_reward"),
        (
            SPLIT,
            "{shaping: {reward: {quality: 80}}, evaluation: {held_out_reward: {quality: 80}}}",
            "evaluation.held_out_reward",
        ),
        (SPLIT, "shaping: {reward: {name: jpeg_compressibility}, weight: -2}", "shaping.reward"),
        (SPLIT, "shaping: {reward: {quality: 80}, weight: 0}", "shaping.weight"),
        (SPLIT, "shaping: {reward: {name: classifier}}", "shaping.reward.label"),
        (SPLIT, "evaluation: {held_out_reward: {name: classifier}}", "evaluation.held_out_reward.label"),
        (SPLIT, "run: {epochs: 3, epochs_per_step: 2}\nevaluation: {every: 2}", "run.epochs"),
        (SPLIT, "run: {epochs: 6, epochs_per_step: 2}", "evaluation.every"),
        ("avatars-floor", "gate: {diversity_margin: 0.2}", "gate.diversity_margin"),
        ("avatars-floor", "diversity_floor: 1.0", "diversity_floor"),
        ("avatars-floor", "run: {replicas: 2}", "run.replicas"),
        (SPLIT, "run: {replicas: 9}", "run.replicas"),
    ],
)
def test_options_that_contradict_each_other_or_do_nothing_are_refused(preset, overrides, field):
    assert error_of(preset, overrides).field == field


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        (SPLIT, "model: {source: 's3://bucket/models/a'}"),
        (SPLIT, "model: {source: ../models/mine}"),
        (SPLIT, f"{TEXT}\npolicy: {{lora: {{rank: 8}}}}"),
        (SPLIT, "model: {source: sd, guidance_scale: 2.0}\nprompts: {}\nupdate: {guidance: false}"),
        ("avatars-ddpo", "model: {source: sd}\nprompts: {statistics_buffer: 8, statistics_min_count: 4}"),
        (SPLIT, "policy: {split: 0.9, prefix_pool: 0}\nstarts: {schedule: uniform, windows: []}"),
        ("avatars-hrf", "starts: {schedule: sliding, windows: [], width: 0.25}"),
        ("avatars-ddpo", "policy: {split: 0.5, prefix_pool: 64}"),
        ("avatars-ddpo", "rollout: {roots: 64, branches: 1}"),
        (SPLIT, "{rollout: {share_start: true}, starts: {windows: [{fractions: [0.5, 0.55]}]}}"),
        (SPLIT, "update: {clip_range: 1.0e-2, sibling_distance_weight: 0.5}"),
        (SPLIT, "update: {objective: difference, reference_weight: 0.5, minibatch: 32}"),
        (SPLIT, "update: {trust_region: divergence, divergence_limit: 1.0e-4, scale_trust_region: false}"),
        (SPLIT, "reward: {name: classifier, label: planets}"),
        (SPLIT, "evaluation: {held_out_reward: {name: classifier, label: planets}}"),
        (SPLIT, "shaping: {reward: {name: classifier, label: unrecognised}, weight: -0.33}"),
        (SPLIT, "reward: {name: python, function: 'my.rewards:redness'}"),
        (SPLIT, f"reward: {{name: clip_score, clip: {{source: 'hf:a/b', revision: {SHA1}}}}}"),
        (SPLIT, f"reward: {{name: clip_score, clip: {{source: ../clip, sha256: {SHA256}}}}}"),
        (SPLIT, "reward: {name: weighted_sum, terms: [{reward: {quality: 80}, weight: -1}, {}]}"),
        (SPLIT, f"evaluation: {{features: dinov2, encoder: {{model: {{source: s3://bkt/d, sha256: {SHA256}}}}}}}"),
        (SPLIT, "update: {rate_schedule: warmup_cosine, warmup_updates: 3, total_updates: 10}"),
        (SPLIT, "run: {epochs: 6, epochs_per_step: 3}\nevaluation: {every: 3}"),
    ],
)
def test_what_can_be_run_is_accepted(preset, overrides):
    assert isinstance(resolve(preset, overrides), Config)


def test_an_unknown_reward_is_answered_with_the_rewards():
    error = error_of(SPLIT, "reward: {name: jpeg_compresibility}")
    assert "aesthetic, clip_score, pickscore" in error.expected
    assert error.got == "jpeg_compresibility"
    assert "did you mean 'jpeg_compressibility'?" in error.fix
    within = error_of(SPLIT, "reward: {name: weighted_sum, terms: [{reward: {name: weighted_sum}}, {}]}")
    assert "weighted_sum" in error.expected
    assert "weighted_sum" not in within.expected


def test_another_rewards_option_is_answered_with_the_reward_that_has_it():
    error = error_of(SPLIT, "reward: {name: python, function: 'a:b', label: planets}")
    assert "'python' (reward.name)" in error.expected
    assert error.fix == "remove it, or name the reward that has it: classifier"


def test_a_reward_of_another_family_does_not_inherit_options():
    """`avatars-published` sets legacy_range, which says nothing about a classifier."""
    assert resolve("avatars-published").reward == JpegReward(legacy_range=True)
    changed = resolve("avatars-published", "reward: {name: classifier, label: planets}")
    assert changed.reward == ClassifierReward(label="planets")
    assert resolve("avatars-published", "reward: {name: jpeg_incompressibility}").reward == JpegReward(
        name="jpeg_incompressibility", legacy_range=True
    )
    shaped = changed.with_changes({"shaping": {"reward": {"name": "python", "function": "a:b"}, "weight": -0.5}})
    shaped = shaped.with_changes({"shaping": {"reward": {"name": "jpeg_incompressibility"}}})
    assert shaped.shaping == Shaping(reward=JpegReward(name="jpeg_incompressibility"), weight=-0.5)
    held_out = {"evaluation": {"held_out_reward": {"name": "python", "function": "a:b"}}}
    assert changed.with_changes(held_out).with_changes(
        {"evaluation": {"held_out_reward": {"name": "jpeg_incompressibility"}}}
    ).evaluation.held_out_reward == JpegReward(name="jpeg_incompressibility")


def test_windows_past_the_models_trained_steps_are_found_when_those_are_known():
    config = resolve("avatars-hrf", "starts: {windows: [{steps: [10, 19]}]}")
    with pytest.raises(ConfigError, match="not trained") as caught:
        config.window_schedule(18)
    assert caught.value.field == "starts.windows[0]"


def test_a_choice_needs_two_candidates_among_the_models_trained_steps():
    """Kills: a width that is checked with the step that is only known to be trained once the model is; a window that a
    later switch step pushes past the trained steps."""
    config = resolve("avatars-hrf-d", "starts: {schedule: fixed, windows: [{fractions: [0.8, 1.0]}]}")
    assert config.window_schedule(19).window(0) == Window(16, 19)
    with pytest.raises(ConfigError, match="the 2 steps of the narrowest window") as caught:
        config.window_schedule(18)
    assert caught.value.field == "starts.selection.stride"

    whole = resolve("avatars-hrf-d")
    assert whole.window_schedule(18, switch_step=15).window(0) == Window(15, 18)
    with pytest.raises(ConfigError, match="switches at step 16") as caught:
        whole.window_schedule(18, switch_step=16)
    assert caught.value.field == "run.start_from"


SIGMAS = (1.0, 0.960, 0.913, 0.858, 0.790, 0.707, 0.602, 0.465, 0.278, 0.009)
"""Of a flow of 10 steps with a shift of 3."""
BY_SIGMA = """
sampler: {steps: 10}
policy: {split: 0.0, split_sigma: 0.8, prefix_pool: 8}
starts: {schedule: fixed, windows: [{sigmas: [0.8, 0.3]}]}
"""


@pytest.mark.parametrize(
    ("window", "steps"),
    [
        ("[0.8, 0.3]", (4, 8)),  # 0.790 to 0.465
        ("[0.707, 0.465]", (5, 7)),  # from the first itself on, without the second
        ("[0.7, 0.0]", (6, 8)),  # as far as there are trained steps
    ],
)
def test_windows_and_a_split_by_noise_level_are_the_steps_that_have_it(window, steps):
    """Kills: the first level left out or the last one taken in; an untrained step in a window."""
    config = resolve(SPLIT, BY_SIGMA.replace("[0.8, 0.3]", window))
    found = config.in_steps(SIGMAS, 8)
    assert (found.switch_step, found.starts.windows[0].steps) == (4, steps)
    assert found.window_schedule(8).window(0) == Window(*steps)
    assert found.policy.split_sigma is found.starts.windows[0].sigmas is None
    assert found.in_steps(SIGMAS, 8) is found
    # Nothing asks which steps they are before the model has told.
    with pytest.raises(ValueError, match="given by sigma"):
        _ = config.switch_step
    with pytest.raises(ValueError, match="given by sigma"):
        config.window_schedule(8)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("[0.8, 0.3]", "[0.75, 0.71]", "starts.windows[0].sigmas"),  # between two steps
        ("[0.8, 0.3]", "[0.3, 0.0]", "starts.windows[0].sigmas"),  # not trained
        ("[0.8, 0.3]", "[0.9, 0.3]", "starts.windows[0]"),  # before the switch
        ("split_sigma: 0.8", "split_sigma: 0.3", "policy.split_sigma"),  # not trained
        ("split_sigma: 0.8", "split_sigma: 0.001", "policy.split_sigma"),  # no step at all
    ],
)
def test_noise_levels_that_no_trained_step_has_are_refused_once_the_model_is_known(old, new, field):
    config = resolve(SPLIT, BY_SIGMA.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        config.in_steps(SIGMAS, 8)
    assert field in caught.value.field


def test_a_split_at_more_noise_than_the_first_step_has_is_none_and_refused():
    """Kills: a configuration with a split that quietly becomes one without."""
    with pytest.raises(ConfigError, match="below the first step's") as caught:
        resolve(SPLIT, BY_SIGMA).in_steps((0.75, *SIGMAS[5:]), 5)
    assert caught.value.field == "policy.split_sigma"


@pytest.mark.parametrize(("split", "steps", "switch"), [(0.0, 20, 0), (0.5, 20, 10), (0.5, 7, 4), (0.07, 100, 7)])
def test_the_switch_step_is_the_first_at_or_after_the_split(split, steps, switch):
    overrides = f"sampler: {{steps: {steps}}}\npolicy: {{split: {split}}}"
    assert resolve("", overrides).switch_step == switch


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.e+3", 1000.0),
        (".5", 0.5),
        ("-3", -3),
        ("no", "no"),
        ("on", "on"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("true", True),
        ("null", None),
        ("'1e-4'", "1e-4"),
    ],
)
def test_plain_scalars_are_read_as_yaml_1_2_reads_them(text, value):
    read = parse_yaml(f"x: {text}", origin="test")["x"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("run: [", "line 1"),
        ("run: {epochs: 1}\nrun: {seed: 1}", "line 2, column 1: key 'run' twice"),
        ("1: 2", "key 1 is no string"),
        ("a: !!python/object/apply:os.system [ls]", "line 1, column 4"),
        ("a: \x07", "special characters"),
    ],
)
def test_broken_yaml_is_reported_with_its_place(text, got):
    error = error_of("", text)
    assert error.field == "overrides"
    assert got in str(error.got)


@pytest.mark.parametrize("text", ["- a", "just text", "3"])
def test_overrides_are_a_mapping(text):
    assert "a mapping" in error_of("", text).expected


TAGS = [
    "bool x",
    "bool 'true'",
    "int ''",
    "int x",
    "float x",
    "float 5",
    "null x",
    "timestamp x",
    "timestamp 2024-01-01",
]
TAGS += [
    "binary x",
    "binary aGk=",
    "str 5",
    "set {b}",
    "omap [b: 1]",
    "pairs [b: 1]",
    "map [1]",
    "seq {b: 1}",
    "merge x",
]


@pytest.mark.parametrize("text", TAGS)
def test_a_tag_that_makes_of_a_value_what_it_does_not_look_like_is_refused(text):
    """Kills: KeyError, IndexError, AttributeError and TypeError out of PyYAML's constructors."""
    error = error_of("", f"description: !!{text}")
    assert error.field == "overrides"
    assert f"line 1, column 14: tag {text.split()[0]!r}" in str(error.got)


def test_a_tag_that_says_what_a_value_is_anyway_is_taken():
    assert resolve("avatars-smoke", "run: !!map {seed: !!int 5}\ndescription: !!str 'a'") == resolve(
        "avatars-smoke", "run: {seed: 5}\ndescription: a"
    )


def test_an_alias_stands_for_what_it_is_an_alias_of():
    assert parse_yaml("a: &a {b: [1]}\nc: [*a, *a]", origin="test")["c"] == [{"b": [1]}, {"b": [1]}]


@pytest.mark.parametrize("text", ["a: &x [*x]", "run: &x {epochs: *x}", "a: &x {b: &y [*x, *y]}"])
def test_an_alias_within_what_it_stands_for_is_refused(text):
    assert "alias within what it stands for" in str(error_of("", text).got)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 500 + "]" * 500,
        "a: " + "{a: " * 500 + "}" * 500,
        "a:\n" + "- " * 500,
        "\n".join(f"{' ' * depth}a:" for depth in range(500)),
        "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [[[[[[*a{n - 1}]]]]]]" for n in range(1, 90)),
    ],
    ids=["lists", "mappings", "dashes", "indented", "aliases"],
)
def test_deep_nesting_is_refused_with_its_place(text):
    """Kills: RecursionError."""
    assert re.search(r"line \d+, column \d+: nested more than 40 levels", str(error_of("", text).got))


def test_forty_levels_of_nesting_are_read():
    text = "a: " + "[" * 38 + "1" + "]" * 38
    assert repr(parse_yaml(text, origin="test")["a"]) == "[" * 38 + "1" + "]" * 38


def test_aliases_that_multiply_are_refused_before_they_are_written_out():
    """Kills: 322 bytes that take gigabytes, and a message of millions of characters."""
    lines = [f"a{n}: &a{n} [{','.join([f'*a{n - 1}' if n else 'x'] * 9)}]" for n in range(9)]
    error = error_of("", "\n".join(lines))
    assert "more than 20000 values" in str(error.got)
    assert len(str(error)) < 300


def test_a_list_of_as_many_prompts_as_a_run_may_have_is_read():
    texts = [f"prompt {number}" for number in range(19_990)]
    assert parse_yaml(json.dumps({"prompts": {"texts": texts}}), origin="test")["prompts"]["texts"] == texts


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ('description: "\\ud800"', "description"),
        ('model: {source: "models\\0/a"}', "model.source"),
        ('prompts: {texts: [a, "b\\0"]}', "prompts.texts[1]"),
        ('prompts: {"te\\uDC00xts": [a]}', "prompts"),
        ('"\\ud83d": 1', "configuration"),
    ],
)
def test_text_that_no_path_or_database_can_hold_is_refused(overrides, field):
    error = error_of("avatars-smoke", overrides)
    assert error.field == field
    assert "NUL" in error.expected


@pytest.mark.parametrize("text", ["\U0001f600", "a \U00010000b\U0010ffff", "\uffff\ue000"])
def test_a_character_beyond_the_first_65536_may_be_written_as_json_writes_it(text):
    """Kills: two halves of a character, which is what PyYAML reads."""
    for written in (json.dumps({"description": text}), dump_yaml({"description": text})):
        assert resolve("avatars-smoke", written).description == text


def test_a_message_shows_a_line_of_a_long_value_and_the_error_holds_all_of_it():
    error = error_of("avatars-smoke", f"run: {{epochs: {'x' * 100_000}}}")
    assert len(error.got) == 100_000
    assert len(str(error)) < 400
    assert len(str(error_of("avatars-smoke", f"run: {{epochs: 1, ? {'x' * 100_000} : 1}}"))) < 600


def test_of_many_problems_the_first_is_told_and_a_line_of_the_others():
    error = error_of("avatars-smoke", "\n".join(f"key_{number}: 1" for number in range(3000)))
    assert error.field == "key_0"
    assert "2999 more problems: key_1, key_2, " in error.fix
    assert len(str(error)) < 600


@pytest.mark.parametrize(
    "overrides",
    [
        "run: {epochs: 100001}\nstarts: {schedule: sliding, width: 0.2}",
        "rollout: {roots: 3000000000}",
        "evaluation: {num_samples: 3000000000}",
        "update: {rate_schedule: warmup_cosine, warmup_updates: 3000000000, total_updates: 3000000001}",
        f"run: {{epochs: {'9' * 400}}}",
        f"run: {{seed: {'9' * 5000}}}",
    ],
)
def test_numbers_beyond_any_machine_are_refused_at_once(overrides):
    """Kills: a schedule of a hundred million windows, built to check it."""
    assert isinstance(error_of("avatars-smoke", overrides), ConfigError)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["1e-4", "no", "~", "null", "0x1f", "1:30", "", " ", "a: b", "# c", "true", "2024-01-01", "010"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
trees = st.dictionaries(
    texts, st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
)


@settings(deadline=None)
@given(trees)
def test_what_is_dumped_is_read_back_as_it_was(tree):
    assert parse_yaml(dump_yaml(tree), origin="test") == tree


@st.composite
def configs(draw) -> Config:
    """Valid configurations that leave the defaults in every section."""
    roots, branches = draw(st.integers(1, 9)), draw(st.integers(2, 9))
    steps = draw(st.integers(4, 60))
    start = draw(st.integers(0, steps - 2))
    positive = st.floats(1e-12, 1e3)
    held_out = draw(st.none() | st.just({"name": "classifier", "label": draw(texts.filter(bool))}))
    return Config.from_mapping(
        {
            "description": draw(texts),
            "sampler": {"steps": steps, "spacing": draw(st.sampled_from(["leading", "trailing"]))},
            "policy": {"split": draw(st.sampled_from([0.0, start / steps]))},
            "starts": {"schedule": "fixed", "windows": [{"steps": [start, draw(st.integers(start + 1, steps - 1))]}]},
            "rollout": {"roots": roots, "branches": branches},
            "update": {"learning_rate": draw(positive), "minibatch": draw(st.integers(1, roots * branches))},
            "shaping": draw(st.none() | st.builds(dict, weight=positive, reward=st.just({"quality": 80}))),
            "evaluation": {"held_out_reward": held_out},
            "gate": {"monitors": {"edge_density": draw(st.none() | positive)}},
            "run": {"seed": draw(st.integers(0, 2**63 - 1))},
        }
    )


@settings(deadline=None)
@given(configs())
def test_a_configuration_survives_its_text_form(config):
    again = Config.from_yaml(config.to_yaml())
    assert again == config
    assert again.digest() == config.digest()


def test_the_digest_sees_every_value_and_no_order():
    config = resolve(SPLIT)
    assert resolve(SPLIT, "run: {seed: 4, epochs: 5}").digest() == resolve(SPLIT, "run: {epochs: 5, seed: 4}").digest()
    assert resolve(SPLIT, "run: {seed: 1}").digest() != config.digest()
    assert resolve(SPLIT, f"run: {{seed: {config.run.seed}}}").digest() == config.digest()
    assert re.fullmatch(r"[0-9a-f]{64}", config.digest())


def test_the_digest_knows_no_fields_that_came_later_at_their_default():
    """So that runs and tables of before still find their configuration. The digest is of before the first of them."""
    before = "HRF with a split policy on the shipped model, towards images that compress well as JPEG (the default)"
    assert (
        resolve(SPLIT, f"description: {before}").digest()
        == "eebfeda3c57e032f58a6e7572d8af75af556c46f7a1488dcb904a053172ae87f"
    )
    objectives = [resolve(SPLIT, f"update: {{objective: {name}}}") for name in ("surrogate", "difference")]
    changed = objectives[1].with_changes({"update": {"levels_per_branch": 3, "proximal_weight": 1.0}})
    assert objectives[0].digest() == resolve(SPLIT).digest()
    replicas = resolve(SPLIT, "run: {replicas: 2}")
    shaped = resolve(SPLIT, "shaping: {reward: {quality: 80}}")
    more_steps = resolve(SPLIT, "evaluation: {steps: 40}")
    by_sigma = resolve(SPLIT, "starts: {windows: [{sigmas: [0.5, 0.0]}]}")
    split = resolve(SPLIT, "policy: {split: 0.0, split_sigma: 0.5}")
    others = (changed, replicas, shaped, more_steps, by_sigma, split)
    assert len({config.digest() for config in (*objectives, *others)}) == 2 + len(others)


def test_the_digest_is_the_same_in_another_process():
    code = f"from hrf.config import resolve; import sys; sys.stdout.write(resolve({SPLIT!r}).digest())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == resolve(SPLIT).digest()


def leaves(tree: dict, path: tuple = ()) -> dict:
    """Path -> value of everything that is no mapping, and of empty mappings."""
    found = {}
    for key, value in tree.items():
        found |= leaves(value, (*path, key)) if isinstance(value, dict) and value else {(*path, key): value}
    return found


names = st.sampled_from("abc")
nested = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2), lambda inner: st.dictionaries(names, inner, max_size=3)
)
mappings = st.dictionaries(names, nested, max_size=3)


@settings(deadline=None)
@given(mappings, mappings)
def test_merged_changes_win_and_the_rest_is_kept(base, changes):
    before = copy.deepcopy((base, changes))
    merged = leaves(deep_merge(base, changes))
    assert (base, changes) == before
    wanted = leaves(changes)
    for path, value in wanted.items():
        if value != {}:
            assert merged[path] == value
    for path, value in leaves(base).items():
        untouched = not any(path[: len(other)] == other or other[: len(path)] == path for other in wanted)
        if untouched:
            assert merged[path] == value


@settings(deadline=None)
@given(mappings)
def test_merging_nothing_or_oneself_changes_nothing(tree):
    assert deep_merge(tree, {}) == tree
    assert deep_merge({}, tree) == tree
    assert deep_merge(tree, tree) == tree


def test_what_has_no_model_does_not_wait_for_torch():
    """The import linter takes an import within a function for one of the module, and leaves those of rewards out."""
    settings = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["tool"]["importlinter"]
    (rooms,) = [entry["source_modules"] for entry in settings["contracts"] if "start without torch" in entry["name"]]
    code = f"""
import importlib, pkgutil, sys
for room in {["hrf.rewards", *rooms]}:
    module = importlib.import_module(room)
    for inner in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{{room}}."):
        importlib.import_module(inner.name)
    assert "torch" not in sys.modules, room
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_defaults_are_a_configuration():
    assert Config().reward == JpegReward()
    assert Config().run == Run()
