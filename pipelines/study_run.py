"""One run of a study as a pipeline: an ordinary one, but for being measured where the study says, and its controls."""

import inspect
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from hrf.config.overrides import lay_over
from hrf.errors import ConfigError
from hrf.steps.check import PRESETS_SEED
from hrf.study.plan import StudyRun
from hrf_pipelines.finetune import GROUP, Control, add_run, add_status
from hrf_pipelines.placement import Placement, Site
from hrf_pipelines.plan import check_task_budget, count_tasks, plan_points

PARAMETERS = {
    "overrides": "The run's whole configuration.",
    "experiment": "Whose promoted model it is judged against: its own, as each run of a study has.",
    "storage": "Where candidates and records are kept, as s3://bucket/prefix.",
    "run_tag": "The run's own id.",
    "noise_tag": "Draws other training noise than runs with the same seed.",
}
#: Tasks of a control beside its evaluations: check, prepare, baseline and summarize.
_TASKS_OF_CONTROL = 4


def build(run: StudyRun, *, placement: Placement | None = None) -> BaseComponent:
    """Make the pipeline of a study's run.

    Its points and controls are fixed here. Seeds, rewards and all else stand in the parameter `overrides`, so that runs
    of one shape are runs of one package.

    Raises:
        ConfigError: More tasks than a cluster can hold, or an arm over strengths.
    """
    for front in run.fronts:
        raise ConfigError(
            f"arms.{front.arm}.strengths",
            expected="none in a study on a cluster, whose runs are measured by their own steps",
            got=list(front.strengths),
            fix="leave the arm out and measure its run with `hrf front`, or run the study on a machine",
        )
    steps = plan_points(run.config, run.measured_after)
    check_task_budget(count_tasks(steps) + len(run.controls) * (_TASKS_OF_CONTROL + len(steps)))
    site = Site.of(run.config, placement)
    told = {_parameter(run, control.arm): f"That of its control {control.arm}." for control in run.controls}
    explained = {**PARAMETERS, **told}

    def study_run(*given: Any) -> None:
        values = dict(zip(explained, given, strict=True))
        identity = {"run_tag": values["run_tag"], "noise_tag": values["noise_tag"], "start_from": "base"}
        experiments = [experiment_of(run, arm, values["experiment"]) for arm in run.configs]
        parameters = [
            _configured(values[name], experiment, values["storage"])
            for name, experiment in zip(("overrides", *told), experiments, strict=True)
        ]
        controls = [
            Control(name=each.arm, config=each.config, parameters=own, site=Site.of(each.config, placement))
            for each, own in zip(run.controls, parameters[1:], strict=True)
        ]
        status = add_status(
            site, experiments=",".join(map(str, experiments)), storage=values["storage"], run_tag=values["run_tag"]
        )
        with dsl.ExitHandler(status, name=GROUP):
            add_run(
                parameters[0],
                identity,
                config=run.config,
                steps=steps,
                epoch=None,
                site=site,
                controls=controls,
                fresh_seeds=False,
            )

    # Kubeflow reads a pipeline's parameters off its function, and how many there are depends on the controls.
    study_run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str) for name in explained]
    )
    lines = "\n".join(f"    {name}: {text}" for name, text in explained.items())
    study_run.__doc__ = f"One run of a study: train, and measure where the study says.\n\nArgs:\n{lines}\n"
    pipeline: BaseComponent = dsl.pipeline(study_run, name="hrf-study-run")
    return pipeline


def arguments_of(run: StudyRun, *, storage: str) -> dict[str, str]:
    """The parameters of a run."""
    overrides = {_parameter(run, arm): lay_over("", config.to_mapping()) for arm, config in run.configs.items()}
    tag = tag_of(run)
    return {**overrides, "experiment": tag, "storage": storage, "run_tag": tag, "noise_tag": ""}


def tag_of(run: StudyRun) -> str:
    """What a run is called on a cluster and in the bucket; another name if anything of what it does is edited."""
    return f"{run.name}--{run.digest}"


def experiment_of(run: StudyRun, arm: str, experiment: Any) -> Any:
    """Whose promoted model an arm that a run measures is judged against: each has its own.

    While a pipeline is built, something stands for the run's own.
    """
    return experiment if arm == run.arm else f"{experiment}--{arm}"


def _parameter(run: StudyRun, arm: str) -> str:
    """Which parameter holds the configuration of an arm that a run measures."""
    return "overrides" if arm == run.arm else f"overrides_{arm.replace('-', '_')}"


def _configured(overrides: Any, experiment: Any, storage: Any) -> dict[str, Any]:
    return {
        "preset": "",
        "overrides": overrides,
        "learning_rate": 0.0,
        "seed": PRESETS_SEED,
        "experiment": experiment,
        "storage": storage,
    }
