"""Candidates for promotion tests. Imports little, so that many processes can start with it."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.made_up import evaluation_of as evaluation_with
from hrf.evaluation.record import EvaluationRecord, MonitorReading
from hrf.promotion.pointer import read_candidate_json
from hrf.promotion.protocol import Candidate, FreshMeasurement, FreshSeeds, promote
from hrf.promotion.records import DecisionRecord, Promotion, VerdictNumber
from hrf.storage.folders import writing_folder
from hrf.storage.objects import Storage

EXPERIMENT = "avatars"
NUM_SEEDS = 32
ERROR = 0.05
NUM_RACERS = 16
TRIPPED_RACERS = (3, 11)
BASE_REWARDS = [random.Random(seed).gauss(-1.3, 0.1) for seed in range(NUM_SEEDS)]


def evaluation_of(gain: float, *, epoch: int = 0, ratio_low: float = 0.95, tripped: bool = False) -> EvaluationRecord:
    """The evaluation of a candidate that is better than the base by exactly `gain` on average."""
    noise = [random.Random(f"{epoch} {seed}").gauss(0.0, 0.01) for seed in range(NUM_SEEDS)]
    offset = gain - sum(noise) / NUM_SEEDS
    return evaluation_with(
        [base + offset + deviation for base, deviation in zip(BASE_REWARDS, noise, strict=True)],
        epoch=epoch,
        ratio_low=ratio_low,
        monitors={"edge_density": _monitor(tripped), "dark_pixel_fraction": _monitor(False)},
    )


def _monitor(tripped: bool) -> MonitorReading:
    return MonitorReading(value=0.0, base=0.0, change=0.0, limit=1.0, tripped=tripped)


def candidate_of(folder: Path, run_id: str, gain: float, *, digest: str = "e1", **evaluation: Any) -> Candidate:
    """A candidate whose policy is a line of text."""
    record = evaluation_of(gain, **evaluation)
    target = folder / run_id / str(record.epoch)
    with writing_folder(target, producer={"step": "promote", "run": run_id}) as partial:
        (partial / "weights.bin").write_text(f"{run_id} {gain}")
        record.write(partial / "evaluation.json")
    return Candidate(run_id=run_id, epoch=record.epoch, folder=target, evaluation=record, evaluation_digest=digest)


def put_forward(
    storage: Storage,
    candidate: Candidate,
    known: Mapping[str, Sequence[float]] | None = None,
    *,
    experiment: str = EXPERIMENT,
    verdict: EvaluationRecord | None = None,
    comparable: bool = True,
    diversity_p_value: float = 0.0,
) -> DecisionRecord:
    """Promote under the default gate.

    Args:
        storage: Where.
        candidate: Whom.
        known: Rewards of incumbents by candidate id, measured anew for the selection.
        experiment: In which experiment.
        verdict: What fresh seeds show of the candidate; by default what the fixed ones do, of its incumbent, too.
        comparable: Whether the incumbent can be measured.
        diversity_p_value: On fresh seeds.
    """

    def rewards_of(incumbent: Promotion | None) -> Sequence[float]:
        if incumbent is None:
            return BASE_REWARDS
        if known and incumbent.candidate_id in known:
            return known[incumbent.candidate_id]
        values = read_candidate_json(storage, incumbent, "evaluation.json")
        return EvaluationRecord.parse(values, incumbent.candidate_id).rewards

    def measure(number: VerdictNumber, incumbent: Promotion | None) -> FreshMeasurement:
        return FreshMeasurement(
            evaluation=verdict or candidate.evaluation,
            incumbent_rewards=rewards_of(incumbent),
            diversity_p_value=diversity_p_value,
        )

    return promote(
        storage,
        experiment,
        candidate,
        base_rewards=BASE_REWARDS,
        known_incumbents=known or {},
        diversity_floor=0.9,
        confidence=0.95,
        fresh_seeds=FreshSeeds(error=ERROR, comparable=lambda _: comparable, measure=measure),
    )


def racing_candidate(folder: Path, number: int) -> Candidate:
    """One of sixteen whose gains come in a mixed order; two of them fail the gate whatever the incumbent is."""
    gain = 0.02 * (1 + 7 * number % NUM_RACERS)
    return candidate_of(folder, f"run-{number}", gain, epoch=number, tripped=number in TRIPPED_RACERS)


def race(uri: str, folder: str, number: str) -> None:
    """Get ready, wait for the starting signal on the standard input, promote, and tell the outcome."""
    storage, candidate = Storage.open(uri), racing_candidate(Path(folder), int(number))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sys.stdout.write(put_forward(storage, candidate).outcome)


if __name__ == "__main__":
    race(*sys.argv[1:])
