"""A run's id in object storage."""

import pytest

from hrf.promoted import check_name
from hrf.run_ids import has_macro, settle_run_id


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
    assert has_macro(run_tag) == ("[[" in run_tag)
    check_name(run_id, "run_tag")
