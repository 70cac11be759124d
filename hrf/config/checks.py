"""Rules between fields: options that contradict each other, and options that could not take effect."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from hrf.config.tree import Tree
from hrf.core.window import Window, WindowError, WindowSchedule, build_schedule, first_step_within
from hrf.errors import ConfigError
from hrf.storage.schema import inert

_SHIPPED = "shipped:avatars-32"
DIFFERENCE_ONLY = ("levels_per_branch", "proximal_weight", "reference_weight")
"""Fields of `update` that the difference objective alone reads."""


def problems(config: Tree) -> Iterator[ConfigError]:
    """Everything that is wrong with a configuration whose single values are all right."""
    yield from _model(config)
    yield from _policy(config)
    yield from _prompts(config)
    yield from _starts(config)
    yield from _shared_start(config)
    yield from _episodes(config)
    yield from _rewards(config)
    yield from _update(config)
    yield from _evaluation(config)
    yield from _gate(config)
    yield from _run(config)


def window_schedule(config: Tree, num_trained_steps: int, switch_step: int) -> WindowSchedule:
    """Build the schedule of `config.starts` for a policy that switches at a step, reporting problems by their field.

    Raises:
        ConfigError: If a window is not within the trained steps, leaves no choice where steps are selected, or
            durations do not add up.
    """
    starts, fewest = config.starts, config.narrowest_window
    try:
        schedule = build_schedule(
            starts,
            num_epochs=config.run.epochs,
            num_steps=config.sampler.steps,
            num_trained_steps=num_trained_steps,
            switch_step=config.switch_step,
        )
    except WindowError as error:
        if starts.schedule in {"fixed", "custom"}:
            field = "starts.windows" if error.entry is None else f"starts.windows[{error.entry}]"
            fix = "change the windows, run.epochs, or policy.split"
        elif starts.schedule == "sliding":
            field, fix = "starts.width", "change the width, run.epochs, or policy.split"
        else:
            field, fix = "starts.schedule", "choose another schedule, or change run.epochs or policy.split"
        raise ConfigError(field, expected=error.expected, got=error.got, fix=fix) from error
    narrowest = min(len(window) for window, _ in schedule.stages)
    if narrowest < fewest:
        raise config.wrong(
            "starts.selection.stride",
            expected=f"less than the {narrowest} steps of the narrowest window: a choice needs two candidates",
            fix="lower it, or widen the windows",
        )
    if switch_step > num_trained_steps - fewest:
        raise ConfigError(
            "run.start_from",
            expected=f"a policy whose switch step leaves {fewest} of the {num_trained_steps} trained steps to start at",
            got=f"one that switches at step {switch_step}",
            fix="start from the base: run.start_from: base" + (", or lower starts.selection.stride" * (fewest > 1)),
        )
    return schedule.from_step(switch_step, end=num_trained_steps, at_least=fewest)


def in_steps(config: Tree, sigmas: Sequence[float], num_trained_steps: int) -> dict[str, Any]:
    """Changes that say a configuration's windows and split in steps where it gives them by sigma.

    Args:
        config: The configuration.
        sigmas: [K] noise levels of its steps, falling.
        num_trained_steps: Only the first so many are trained, and in windows.

    Raises:
        ConfigError: If no step is where one is asked for.
    """
    fix, steps_are = "change it, or sampler.steps", ", ".join(f"{sigma:.3g}" for sigma in sigmas)
    windows, policy, changes = [], config.policy, dict[str, Any]()
    for entry, window in enumerate(config.starts.windows):
        said = window.model_dump(mode="json")
        if window.sigmas is not None:
            start, stop = (first_step_within(sigma, sigmas) for sigma in window.sigmas)
            stop = min(stop, num_trained_steps)
            if not start < stop:
                expected = f"[a, b] with a trained step at a >= sigma > b; its steps are at {steps_are}"
                raise ConfigError(f"starts.windows[{entry}].sigmas", expected=expected, got=window.sigmas, fix=fix)
            said |= {"sigmas": None, "steps": [start, stop]}
        windows.append(said)
    changes["starts"] = {"windows": windows}
    if policy.split_sigma is not None:
        step = first_step_within(policy.split_sigma, sigmas)
        if not 0 < step < num_trained_steps:
            expected = (
                f"a sigma below the first step's and not below the last trained one's; its steps are at {steps_are}"
            )
            raise config.wrong("policy.split_sigma", expected=expected, fix=fix)
        changes["policy"] = {"split_sigma": None, "split": step / len(sigmas)}
    return changes


def _model(config: Tree) -> Iterator[ConfigError]:
    source, revision = config.model.source, config.model.revision
    if source.startswith("hf:"):
        if not re.fullmatch(r"hf:[\w.-]+/[\w.-]+", source):
            yield config.wrong("model.source", expected="hf:owner/name", fix="write owner and name")
        if not re.fullmatch(r"[0-9a-f]{40}", revision):
            yield config.wrong(
                "model.revision",
                expected="the commit hash of the model, 40 hex digits, for an hf: model",
                fix="copy it from the model's page, Files and versions, History: a branch could change between steps",
            )
        return
    yield from inert(config.model, "model", ("revision",), "except on hf: models")
    scheme = re.match(r"[a-z0-9+]{2,}:", source)
    if source.startswith("s3://"):
        known = re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+/.+", source) is not None
    else:
        known = source == _SHIPPED or (scheme is None and bool(source.strip()))
    if not known:
        yield config.wrong(
            "model.source",
            expected=f"{_SHIPPED}, hf:owner/name, s3://bucket/prefix or a local folder",
            fix="write one of these",
        )


def _policy(config: Tree) -> Iterator[ConfigError]:
    policy, steps = config.policy, config.sampler.steps
    if policy.split_sigma is not None:
        yield from inert(policy, "policy", ("split",), "beside policy.split_sigma")
    elif not policy.split:
        yield from inert(config.policy, "policy", ("prefix_pool",), "without a split (policy.split)")
    elif config.switch_step > steps - 2:
        yield config.wrong(
            "policy.split",
            expected=f"at most {(steps - 2) / steps:.3g}, as the last of the {steps} steps is not trained",
            fix="lower it, or raise sampler.steps",
        )
    rollout = config.rollout
    drawn = rollout.roots * rollout.branches if config.starts.kind == "noise" else rollout.roots
    if config.has_split and 0 < policy.prefix_pool < drawn:
        yield config.wrong(
            "policy.prefix_pool",
            expected=f"at least the {drawn} samples that an epoch draws from it, or 0 for no pool",
            fix="raise it, or lower rollout.roots",
        )
    if not config.sampler.eta:
        yield config.wrong(
            "sampler.eta",
            expected="more than 0: without noise there is no log-probability to train",
            fix="set it to 1.0; for measuring without noise set evaluation.eta",
        )


def _prompts(config: Tree) -> Iterator[ConfigError]:
    """What only text-to-image models have; that the model is one, `prepare` checks."""
    prompts = config.prompts
    if config.model.guidance_scale == 1:
        yield from inert(config.update, "update", ("guidance",), "without guidance (model.guidance_scale)")
    if prompts is None:
        guided = ("guidance_scale", "embedded_guidance")
        yield from inert(config.model, "model", guided, "without prompts: there is nothing to guide by")
        yield from inert(config.policy, "policy", ("lora",), "without prompts: adapters are for text-to-image models")
        return
    if config.model.source == _SHIPPED:
        yield ConfigError(
            "prompts",
            expected=f"null, as {_SHIPPED} is an unconditional model",
            got=prompts.model_dump(exclude_defaults=True),
            fix="remove the prompts, or set model.source to a Stable Diffusion model",
        )
    if config.model.guidance_scale == 1:
        yield from inert(prompts, "prompts", ("negative",), "without guidance (model.guidance_scale)")
    if prompts.texts:
        yield from inert(prompts, "prompts", ("source",), "beside prompts.texts")
    if prompts.evaluation_source:
        yield from inert(prompts, "prompts", ("held_out_fraction",), "beside prompts.evaluation_source")
    if "{prompt}" not in prompts.template and "{a_prompt}" not in prompts.template:
        yield config.wrong(
            "prompts.template",
            expected="a text with {prompt} or {a_prompt} in it",
            fix="write for instance 'a photo of {a_prompt}'",
        )
    statistics = ("statistics_buffer", "statistics_min_count")
    if config.starts.kind != "noise":
        yield from inert(prompts, "prompts", statistics, "where a root's branches are compared (starts.kind)")
    elif prompts.statistics_min_count > prompts.statistics_buffer:
        yield config.wrong(
            "prompts.statistics_min_count",
            expected=f"at most prompts.statistics_buffer = {prompts.statistics_buffer}: no prompt would ever reach it",
            fix="lower it, or raise the buffer",
        )


def _starts(config: Tree) -> Iterator[ConfigError]:
    starts = config.starts
    if starts.kind == "noise":
        yield from inert(
            starts, "starts", ("schedule", "windows", "width", "selection"), "on noise starts (starts.kind)"
        )
        if config.is_in_steps:
            yield from _loss_from(config)
        return
    yield from inert(starts, "starts", ("loss_from",), f"on {starts.kind!r} starts (starts.kind)")
    if starts.schedule not in {"fixed", "custom"}:
        yield from inert(starts, "starts", ("windows",), f"in the schedule {starts.schedule!r} (starts.schedule)")
    if starts.schedule != "sliding":
        yield from inert(starts, "starts", ("width",), f"in the schedule {starts.schedule!r} (starts.schedule)")
    if starts.kind != "selected":
        yield from inert(starts, "starts", ("selection",), f"on {starts.kind!r} starts (starts.kind)")
    yield from _sigmas(config)
    if config.is_in_steps and config.switch_step <= config.sampler.steps - 2:
        try:
            # The last step is never trained; which others are not depends on the model, and `prepare` checks it.
            window_schedule(config, config.sampler.steps - 1, config.switch_step)
        except ConfigError as error:
            yield error
    if starts.kind == "selected":
        yield from _selection(config)


def _sigmas(config: Tree) -> Iterator[ConfigError]:
    """What can be said of windows by noise level before the model's levels are known."""
    for entry, window in enumerate(config.starts.windows):
        if window.sigmas is None:
            continue
        field = f"starts.windows[{entry}]"
        if window.fractions is not None or window.steps is not None:
            got = {"fractions": window.fractions, "steps": window.steps, "sigmas": window.sigmas}
            yield ConfigError(field, expected="one of fractions, steps and sigmas", got=got, fix="remove the others")
        elif not window.sigmas[0] > window.sigmas[1]:
            yield ConfigError(
                f"{field}.sigmas",
                expected="[a, b] with a > b, from the noisier side on",
                got=list(window.sigmas),
                fix="turn them around" if window.sigmas[0] < window.sigmas[1] else "set two that differ",
            )


def _shared_start(config: Tree) -> Iterator[ConfigError]:
    starts = config.starts
    if not config.rollout.share_start:
        return
    if not config.has_split:
        yield ConfigError(
            "rollout.share_start",
            expected="false without a split (policy.split): the state that branches share is the one where it switches",
            got=True,
            fix="set it to false, or policy.split to where they are to part",
        )
        return
    if not config.is_in_steps:
        return
    windows, switch = set[Window](), config.switch_step
    if starts.kind == "window":
        # A schedule that cannot be built has been told.
        with suppress(ConfigError):
            windows = {window for window, _ in window_schedule(config, config.sampler.steps - 1, switch).stages}
    if windows != {Window(switch, switch + 1)}:
        yield ConfigError(
            "rollout.share_start",
            expected=f"false unless starts.kind is 'window' and every window [{switch}, {switch + 1}), the switch step",
            got=True,
            fix=f"set starts to {{kind: window, schedule: fixed, windows: [{{steps: [{switch}, {switch + 1}]}}]}}, "
            "or share_start to false",
        )


def _loss_from(config: Tree) -> Iterator[ConfigError]:
    fraction, steps = config.starts.loss_from, config.sampler.steps
    if fraction and config.first_loss_step == config.switch_step:
        rule = "a step after the first one that is trained anyway"
    elif fraction and config.first_loss_step > steps - 2:
        rule = f"at most {(steps - 2) / steps:.3g}, as the last of the {steps} steps is not trained"
    else:
        return
    yield config.wrong("starts.loss_from", expected=rule, fix="change it, or set it to 0")


def _selection(config: Tree) -> Iterator[ConfigError]:
    selection = config.starts.selection
    path = "starts.selection"
    if selection.rule == "exhaustive":
        yield from inert(selection, path, ("coarse_stride",), "on the rule 'exhaustive'")
    elif selection.coarse_stride % selection.stride or selection.coarse_stride <= selection.stride:
        yield ConfigError(
            f"{path}.coarse_stride",
            expected=f"a multiple of {path}.stride = {selection.stride}, and larger",
            got=selection.coarse_stride,
            fix=f"set it to {2 * selection.stride}, or use the rule 'exhaustive'",
        )


def _episodes(config: Tree) -> Iterator[ConfigError]:
    rollout, total = config.rollout, config.rollout.roots * config.rollout.branches
    group = total if config.starts.kind == "noise" else rollout.branches
    if group < 2:
        yield config.wrong(
            "rollout.branches",
            expected="at least 2 episodes per group: an advantage compares the members of a group",
            fix="raise it",
        )
    shared = total if config.starts.kind == "noise" else rollout.roots
    if config.model.num_processes > shared:
        yield config.wrong(
            "model.num_processes",
            expected=f"at most the {shared} {'episodes' if config.starts.kind == 'noise' else 'roots'} of an epoch",
            fix="lower it, or raise rollout.roots",
        )
    if config.model.shard_weights:
        yield from _sharding(config)
    if config.update.minibatch > total:
        yield config.wrong(
            "update.minibatch",
            expected=f"at most the {total} branches of an epoch (rollout.roots x rollout.branches)",
            fix="lower it, or raise rollout.roots",
        )


def _sharding(config: Tree) -> Iterator[ConfigError]:
    if config.model.num_processes == 1:
        yield config.wrong(
            "model.shard_weights",
            expected="false, as there is one process",
            fix="set model.num_processes to the GPUs that share the weights, or leave it out",
        )
    if config.model.compile:
        yield config.wrong(
            "model.compile",
            expected="false where the weights are sharded",
            fix="leave one of model.compile and model.shard_weights out",
        )


def _rewards(config: Tree) -> Iterator[ConfigError]:
    for path, reward in config.rewards.items():
        yield from reward.problems(path)
    shaping, held_out = config.shaping, config.evaluation.held_out_reward
    if shaping and not shaping.weight:
        yield config.wrong(
            "shaping.weight",
            expected="a weight other than 0: the second reward would have no effect",
            fix="change it, or set shaping to null; evaluation.held_out_reward watches a reward",
        )
    if shaping and shaping.reward == config.reward:
        yield ConfigError(
            "shaping.reward",
            expected="another reward than the run's own: a multiple of it is standardised to the same advantages",
            got=shaping.reward.name,
            fix="choose another one, or set shaping to null",
        )
    if held_out and held_out in config.trained_rewards.values():
        yield ConfigError(
            "evaluation.held_out_reward",
            expected="another reward than what is trained on (reward, shaping.reward)",
            got=held_out.name,
            fix="choose another one, or null for none",
        )


def _update(config: Tree) -> Iterator[ConfigError]:
    update = config.update
    if update.rate_schedule == "constant":
        yield from inert(update, "update", ("warmup_updates", "total_updates"), "on a constant rate")
    elif update.total_updates <= update.warmup_updates:
        yield config.wrong(
            "update.total_updates",
            expected=f"more than the {update.warmup_updates} updates of the warm-up",
            fix="set it to the number of updates at which the rate has come down to 0",
        )
    if update.sibling_distance_weight and config.starts.kind == "noise":
        yield config.wrong(
            "update.sibling_distance_weight",
            expected="0 on noise starts (starts.kind): their episodes have no siblings",
            fix="set it to 0, or starts.kind to window or selected",
        )
    yield from _objective(config)


def _objective(config: Tree) -> Iterator[ConfigError]:
    update, objective = config.update, f"on the objective {config.update.objective!r} (update.objective)"
    if update.objective == "surrogate":
        yield from inert(update, "update", DIFFERENCE_ONLY, objective)
        other = "divergence_limit" if update.trust_region == "ratio" else "clip_range"
        yield from inert(update, "update", (other,), f"in the region {update.trust_region!r} (update.trust_region)")
        return
    region = ("trust_region", "clip_range", "divergence_limit", "scale_trust_region")
    of_ratios = (*region, "log_prob_reduction", "kl_weight")
    yield from inert(update, "update", of_ratios, objective)
    if config.starts.kind == "noise":
        yield config.wrong(
            "update.objective",
            expected="'surrogate' on noise starts (starts.kind): a difference to samples that share no start says "
            "nothing of what an episode did",
            fix="set starts.kind to window or selected, whose branches are siblings, or the objective to surrogate",
        )
    # By sigma, the model says which step it is; before that, as many as there can be.
    most = config.sampler.steps - 1 - (config.switch_step if config.is_in_steps else 0)
    if update.levels_per_branch > most:
        yield config.wrong(
            "update.levels_per_branch",
            expected=f"at most the {most} steps of the tuned weights, without the last one",
            fix="lower it, or policy.split",
        )
    total = config.rollout.roots * config.rollout.branches
    if update.proximal_weight and update.inner_epochs == 1 and update.minibatch >= total:
        yield config.wrong(
            "update.proximal_weight",
            expected="0 where an epoch has one update: until then the policy is the one that sampled",
            fix="set it to 0, lower update.minibatch or raise update.inner_epochs",
        )


def _evaluation(config: Tree) -> Iterator[ConfigError]:
    evaluation, limit = config.evaluation, config.gate.monitors.unrecognised_fraction
    if not evaluation.classifier and evaluation.features == "classifier":
        yield config.wrong(
            "evaluation.features",
            expected="'pixels', 'clip' or 'dinov2', as there is no classifier (evaluation.classifier)",
            fix="set it to pixels, or name a classifier or an encoder",
        )
    if evaluation.features in {"clip", "dinov2"}:
        yield from evaluation.encoder.model.problems("evaluation.encoder.model")
    else:
        yield from inert(evaluation, "evaluation", ("encoder",), f"on {evaluation.features!r} features")
    if not evaluation.classifier and limit is not None:
        yield config.wrong(
            "gate.monitors.unrecognised_fraction",
            expected="null, as there is no classifier to recognise anything (evaluation.classifier)",
            fix="set it to null, or name a classifier",
        )


def _gate(config: Tree) -> Iterator[ConfigError]:
    if config.diversity_floor is not None:
        yield from inert(config.gate, "gate", ("diversity_margin",), "beside diversity_floor, which the gate takes")


def _run(config: Tree) -> Iterator[ConfigError]:
    run, evaluation = config.run, config.evaluation
    if run.replicas > 1 and config.diversity_floor is not None:
        yield config.wrong(
            "run.replicas",
            expected="1 under a diversity floor: what is measured is the mean of the replicas, and what would be held "
            "above the floor are their own weights, whose diversity nobody knows",
            fix="set it to 1, or diversity_floor to null: the gate keeps gate.diversity_margin all the same",
        )
    if run.epochs_per_step == "auto":
        return
    if run.epochs % run.epochs_per_step:
        yield config.wrong(
            "run.epochs",
            expected=f"a multiple of run.epochs_per_step = {run.epochs_per_step}",
            fix=f"set it to {run.epochs + run.epochs_per_step - run.epochs % run.epochs_per_step}",
        )
    if evaluation.every % run.epochs_per_step:
        yield config.wrong(
            "evaluation.every",
            expected=f"a multiple of run.epochs_per_step = {run.epochs_per_step}: measuring happens between steps",
            fix=f"set it to {evaluation.every + run.epochs_per_step - evaluation.every % run.epochs_per_step}",
        )
