"""A run's id in object storage."""

import pytest

from hrf.promotion.pointer import check_name
from hrf.promotion.run_ids import fill_macros, settle_run_id


@pytest.mark.parametrize(
    ("run_tag", "run_id"),
    [
        ("", "job-1"),
        ("mine", "mine"),
        ("nightly-20261125030000", "nightly-20261125030000"),
        # Kubeflow left it as it was: all runs of the schedule would be one.
        ("nightly-[[ScheduledTime]]", "nightly-job-1"),
        ("[[ScheduledTime.2006-01-02]]", "job-1"),
        ("[[ScheduledTime]]-[[Index]]", "job-1-job-1"),
    ],
)
def test_a_run_is_called_by_its_tag_or_by_what_kubeflow_calls_it(run_tag, run_id):
    assert settle_run_id(run_tag, "job-1") == run_id
    check_name(run_id, "run_tag")


def test_a_parameter_that_is_empty_stays_so():
    assert fill_macros("", "job-1") == ""
    assert fill_macros("[[ScheduledTime]]", "job-1") == "job-1"
    assert fill_macros("20261125030000", "job-1") == "20261125030000"
