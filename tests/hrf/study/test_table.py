"""The tidy table: written and read back without loss, whole at any time."""

import pandas as pd
import pytest

from benchmarks.made_up import evaluation_of
from hrf.errors import ArtifactError
from hrf.evaluation.record import Estimate, EvaluationRecord, MonitorReading, NamedEstimate
from hrf.study.table import COLUMNS, TABLE_CSV, TABLE_PARQUET, frame_of, read_table, row, short_digest, write_table
from hrf.trainer.record import EpochRecord
from tests.hrf.study.studies import study
from tests.hrf.summary_folders import update

CONFIG = study().config("ddpo", "small", 7)
INTERVAL = Estimate(value=0.1 + 0.2, low=1 / 3, high=2 / 3, standard_error=0.1)


def evaluation(**changes) -> EvaluationRecord:
    """An evaluation with numbers that decimal digits do not hold exactly."""
    monitor = MonitorReading(value=1 / 7, base=0.0, change=1 / 7, limit=0.1, tripped=False)
    tripped = monitor.model_copy(update={"tripped": True})
    made_up = evaluation_of([0.0] * 4)
    numbers = {"vendi_order2": INTERVAL, "vendi_order2_ratio": INTERVAL, "vendi_order1": 2 / 7}
    return made_up.model_copy(
        update={
            "epoch": 4,
            "num_evaluations": 1234,
            "reward": NamedEstimate(name="small", **dict(INTERVAL)),
            "reward_vs_base": INTERVAL,
            "diversity": made_up.diversity.model_copy(update={**numbers, "mean_pairwise_distance": 3 / 7}),
            "fidelity": made_up.fidelity.model_copy(update={"coverage": 4 / 7, "density": 5 / 7}),
            "mode_entropy": 6 / 7,
            "modes": {"pixel-art": 3, "unrecognised": 1},
            "monitors": {
                "dark_pixel_fraction": monitor,
                "edge_density": tripped,
                "colour_entropy": tripped,
                "unrecognised_fraction": monitor,
            },
            **changes,
        }
    )


UPDATE = EpochRecord.parse(update(4, spent=1234, window=(5, 8)), "here")
RATE = UPDATE.updates[-1].learning_rate


def rows(*points: int) -> list[dict]:
    about = {"arm": "ddpo", "reward": "small", "config": CONFIG, "switch_step": 5}
    return [
        row(evaluation(), **about, point=point, promoted=True, wall_seconds=1 / 3, update=UPDATE) for point in points
    ]


def test_a_table_from_before_strengths_is_read_as_one_of_strength_1(tmp_path):
    write_table(frame_of(rows(1, 2)), tmp_path)
    old = pd.read_csv(tmp_path / TABLE_CSV).drop(columns="strength")
    old.to_csv(tmp_path / TABLE_CSV, index=False, na_rep="nan")

    pd.testing.assert_frame_equal(read_table(tmp_path), frame_of(rows(1, 2)))


def test_a_row_says_what_was_measured_and_under_which_configuration():
    made = rows(2)[0]

    assert (made["arm"], made["reward_name"], made["seed"], made["point"]) == ("ddpo", "small", 7, 2)
    assert (made["window_start"], made["window_stop"], made["learning_rate"]) == (5, 8, RATE)
    assert made["monitors_tripped"] == "colour_entropy+edge_density"
    assert made["promoted"] == 1
    assert made["mode_pixel-art"] == 3
    assert made["config_digest"] == short_digest(CONFIG)


def test_a_changed_default_is_another_configuration():
    """Kills: a digest of what differs from the defaults, which are other ones in the next version."""
    whole = CONFIG.with_changes({"description": ""})
    assert short_digest(CONFIG) == whole.digest()[:12]


def test_the_digest_tells_configurations_apart_but_not_what_is_written_out_from_what_is_left_at_its_default():
    other = CONFIG.with_changes({"update": {"learning_rate": 2e-4}})
    told = CONFIG.with_changes({"description": "another", "gate": {"diversity_margin": CONFIG.gate.diversity_margin}})

    assert short_digest(other) != short_digest(CONFIG) == short_digest(told)


def test_the_bases_row_has_no_window_no_rate_and_no_decision():
    made = row(evaluation(epoch=-1), arm="ddpo", reward="small", config=CONFIG, point=0, switch_step=0)

    assert (made["window_start"], made["window_stop"], made["learning_rate"]) == (-1, -1, 0.0)
    assert made["promoted"] == 0


def test_csv_and_parquet_hold_the_same_to_the_last_bit(tmp_path):
    written = frame_of(rows(0, 1, 2))

    write_table(written, tmp_path)

    pd.testing.assert_frame_equal(read_table(tmp_path), written, check_exact=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / TABLE_PARQUET), written, check_exact=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [TABLE_CSV, TABLE_PARQUET]


def test_what_was_not_measured_is_nan_and_comes_back_so(tmp_path):
    about = {"arm": "ddpo", "reward": "small", "config": CONFIG, "switch_step": 0, "point": 1}
    write_table(frame_of([row(evaluation(mode_entropy=None, modes=None), **about)]), tmp_path)

    assert read_table(tmp_path)["mode_entropy"].isna().all()
    assert list(read_table(tmp_path).columns) == list(COLUMNS)


def test_an_absent_table_is_empty_and_a_broken_one_is_named(tmp_path):
    assert len(read_table(tmp_path)) == 0

    (tmp_path / TABLE_CSV).write_text("arm,seed\nddpo,1\n")
    with pytest.raises(ArtifactError, match="column reward_name is missing"):
        read_table(tmp_path)
