"""A finished run's front over strength: its candidate measured at several strengths, without training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrf.config import Config
from hrf.errors import ArtifactError, ConfigError
from hrf.evaluation.bench import Bench
from hrf.evaluation.record import FrontPoint
from hrf.evaluation.samples import evaluation_starts, measure_policy
from hrf.policies.folders import load_policy
from hrf.policies.sources import fetch_base
from hrf.policies.strength import strength_of
from hrf.promotion.chain import read_chain
from hrf.promotion.pointer import check_name, fetch_candidate
from hrf.steps.context import RunContext
from hrf.steps.prepare import pack_inputs, run_prompts
from hrf.storage.names import CONFIG_FILE
from hrf.storage.objects import Storage
from hrf_pipelines.local.drawing import check_base


@dataclass(frozen=True, kw_only=True)
class Front:
    """What a candidate is worth at several strengths."""

    candidate_id: str
    strength: float
    """That is folded into the candidate already: the points' strengths are shares of it."""
    reward: str
    """The reward's name."""
    floor: float
    """What the gate of its run asks of the lower end of the diversity ratio."""
    points: tuple[FrontPoint, ...]
    """From weak to strong."""

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**self.__dict__, "points": [point.as_json() for point in self.points]}


def measure_front(
    *,
    storage: str,
    experiment: str,
    run: str,
    epoch: int | None,
    strengths: Sequence[float],
    num_samples: int,
    tell: Callable[[str], None],
) -> Front:
    """Measure a candidate of a run at several strengths, on the seeds of the run's own evaluations.

    The arguments are the options of `hrf front` ("", None and 0 where they are left out), and the storage.

    Raises:
        ArtifactError: There is no such run or candidate, or the base is not the one that it was tuned from.
        ConfigError: If an experiment can't have the name, or the number of samples doesn't fit.
    """
    check_name(experiment, "experiment")
    store = Storage.open(storage)
    candidate_id = _find_candidate(store, experiment, run, epoch)
    with tempfile.TemporaryDirectory() as scratch:
        candidate = fetch_candidate(store, experiment, candidate_id, Path(scratch) / "candidate")
        config = Config.from_yaml((candidate / CONFIG_FILE).read_text(encoding="utf-8"))
        if num_samples:
            config = config.with_changes({"evaluation": {"num_samples": num_samples}})
        base = Path(scratch) / "base"
        check_base(candidate, fetch_base(config.model, base, {"step": "front", "source": config.model.source}))
        (folder := Path(scratch) / "run").mkdir()
        pack_inputs(config, base, run_prompts(config), folder)
        tell(f"{candidate_id}: {config.evaluation.num_samples} samples of the base, and of {len(strengths)} strengths")
        bench = _bench(RunContext(folder=folder, config=config, about={}), base)
        points = []
        for strength in sorted(strengths):
            tell(f"strength {strength:g}")
            record, _ = bench.measure(candidate, strength=strength, epoch=-1, num_evaluations=0, on_advance=None)
            points.append(record.at_strength)
        return Front(
            candidate_id=candidate_id,
            strength=strength_of(candidate),
            reward=record.reward.name,
            floor=config.gate_floor,
            points=tuple(points),
        )


def _bench(context: RunContext, base: Path) -> Bench:
    """Where the candidate is measured; the base's own measurement is made here, once."""
    config = context.config
    untrained = load_policy(config, base, base, prompts=context.prompts_folder)
    starts = evaluation_starts(untrained, config, None, context.prompts)
    measured, _ = measure_policy(
        untrained,
        starts,
        config,
        classifier_folder=context.classifier,
        prompts=context.prompts,
        on_advance=None,
    )
    return Bench(
        config=config,
        base=base,
        measured_base=measured,
        starts=starts,
        classifier_folder=context.classifier,
        prompts_folder=context.prompts_folder,
    )


def _find_candidate(storage: Storage, experiment: str, name: str, epoch: int | None) -> str:
    """The id of a run's candidate of some epoch, or of its last."""
    runs = [run for run in read_chain(storage, experiment)["runs"] if run["candidates"]]
    found = [run for run in runs if run["run_id"].startswith(name)]
    chosen = [run for run in found if run["run_id"] == name] or (found if name else found[-1:])
    if len(chosen) != 1:
        raise ArtifactError(
            storage.url(f"{experiment}/candidates"),
            problem=f"{len(found)} runs with candidates begin with {name!r}"
            if found
            else f"no run {name!r} with a candidate is here"
            if name
            else "no run with a candidate is here",
            fix="see `hrf runs chain`; give --experiment if it is another's, and --work-dir or --bucket if it lies "
            "elsewhere",
        )
    candidates = {candidate["epoch"]: candidate["candidate_id"] for candidate in chosen[0]["candidates"]}
    if epoch is not None and epoch not in candidates:
        raise ConfigError(
            "--epoch",
            expected=f"an epoch of {chosen[0]['run_id']} that was evaluated: {', '.join(map(str, candidates))}",
            got=epoch,
            fix="choose one of them, or leave it out for the last",
        )
    return str(candidates[max(candidates) if epoch is None else epoch])
