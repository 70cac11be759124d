"""docs/metrics.md explains everything that is logged."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hrf.config import Evaluation, Monitors
from hrf.evaluation.measure import Measured, evaluation_record
from hrf.evaluation.monitors import MONITORS
from hrf.promotion.gate import decide
from hrf.trainer.record import EpochRecord, MergeRecord, Parent, Sampling, UpdateMetrics
from tests.docs.pages import PAGES, ROOT

EXPLAINED = set(re.findall(r"`(\w+)`", PAGES["docs/metrics.md"]))


def logged_names(path: str, function: str, variables: tuple[str, ...] = ()) -> set[str]:
    """Names in the dicts that a function returns or puts into the given variables, without those of nested dicts."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    (body,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function]
    names: set[str] = set()
    for node in ast.walk(body):
        if isinstance(node, ast.Return) and node.value is not None:
            names |= dict_keys(node.value)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id in variables and node.value is not None:
                names |= dict_keys(node.value)
            if isinstance(target, ast.Subscript) and ast.unparse(target.value) in variables:
                names |= key_name(target.slice)
    return names


def dict_keys(node: ast.expr) -> set[str]:
    if not isinstance(node, ast.Dict):
        return set()
    keys = (
        dict_keys(value) if key is None else key_name(key) for key, value in zip(node.keys, node.values, strict=True)
    )
    return set().union(*keys)


def key_name(key: ast.expr) -> set[str]:
    if isinstance(key, ast.Constant):
        return {str(key.value)}
    return set()


FLAT_OUTPUTS = [
    ("hrf/steps/check.py", "check"),
    ("hrf/steps/fetch.py", "fetch"),
    ("hrf/steps/prepare.py", "prepare"),
    ("hrf/steps/baseline.py", "baseline"),
    ("hrf/steps/sample.py", "sampling_metrics"),
    ("hrf/steps/score.py", "score"),
    ("hrf/steps/numbers.py", "update_metrics"),
    ("hrf/steps/numbers.py", "evaluation_metrics"),
    ("hrf/steps/merge.py", "merge"),
    ("hrf/steps/promote.py", "promote"),
    ("hrf/steps/steer.py", "steer"),
    ("hrf/steps/summarize.py", "closing_metrics"),
    ("hrf/steps/report_status.py", "report_status"),
]
RECORDS = [
    ("hrf/steps/summarize.py", "_totals", ()),
    ("hrf/promotion/protocol.py", "_verdict", ("about", "decision")),
]


def measured(seed: int) -> Measured:
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> NDArray[Any]:
        return generator.random(shape)

    return Measured(
        rewards=draw(24),
        reward_name="brightness",
        held_out_rewards=draw(24),
        held_out_reward_name="redness",
        features=draw(24, 6).astype(np.float32),
        dark_pixel_fraction=draw(24),
        edge_density=draw(24),
        colour_entropy=draw(24),
        hue_vectors=draw(24, 2) / 2,
        exposures=draw(24, 3) / 2,
        probabilities=generator.dirichlet(np.ones(3), 24),
        labels=("cat", "dog", "unrecognised"),
    )


class TestMetrics:
    @pytest.mark.parametrize(("path", "function"), FLAT_OUTPUTS)
    def test_it_has_every_flat_output_of_the_steps(self, path: str, function: str) -> None:
        names = logged_names(path, function, ("metrics",))
        assert names, f"{path}: {function} returns no dict any more"
        assert names - EXPLAINED == set()

    def test_no_step_is_left_out(self) -> None:
        decorated = {
            path.stem
            for path in (ROOT / "hrf" / "steps").glob("*.py")
            if re.search(r"^@step\(", path.read_text(encoding="utf-8"), re.MULTILINE)
        }
        # `train` returns what `update` does, `gather` what `sample` does, and `numbers` holds what two of them return.
        named = {Path(path).stem for path, _ in FLAT_OUTPUTS} - {"numbers"} | {"update", "evaluate"}
        assert decorated - {"train", "gather"} == named

    @pytest.mark.parametrize(("path", "function", "variables"), RECORDS)
    def test_it_has_the_fields_of_the_records(self, path: str, function: str, variables: tuple[str, ...]) -> None:
        names = logged_names(path, function, variables)
        assert names
        assert names - EXPLAINED == set()

    def test_it_has_every_number_of_an_epoch(self) -> None:
        for record in (Sampling, UpdateMetrics, EpochRecord, MergeRecord, Parent):
            assert {*record.model_fields} - EXPLAINED == set()

    def test_it_has_everything_in_an_evaluation_and_in_a_decision(self) -> None:
        settings = Evaluation(num_samples=24)
        record = evaluation_record(
            measured(0), measured(1), settings=settings, limits=Monitors(), epoch=0, num_evaluations=0
        )
        verdict = decide(record, incumbent_rewards=[0.0] * 24, diversity_floor=0.9, confidence=0.95)
        parts = (
            record,
            record.diversity,
            record.fidelity,
            record.fidelity.classifier_inception_score,
            record.reward,
            record.monitors["edge_density"],
            verdict,
            verdict.checks[0],
        )
        assert {name for part in parts for name in part.as_json()} | set(record.monitors) <= EXPLAINED
        assert set(MONITORS) <= set(record.monitors)
