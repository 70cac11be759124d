"""Which object storage a command takes."""

import pytest

from hrf.errors import ConfigError, StorageError
from hrf_pipelines.local.object_storage import CONFIGURED_BY, configured_location, is_configured, object_storage


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch):
    for name in (*CONFIGURED_BY, "HRF_BUCKET"):
        monkeypatch.delenv(name, raising=False)


def test_a_secret_that_could_not_be_blotted_out_is_refused_before_anything_is_made(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hrf")
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY"), object_storage(tmp_path / "work"):
        pass
    assert not (tmp_path / "work").exists()


def test_without_any_configuration_it_is_the_embedded_server():
    assert not is_configured()


@pytest.mark.parametrize("name", [*CONFIGURED_BY, "HRF_BUCKET"])
def test_any_of_the_variables_configures_another_one(name, monkeypatch):
    monkeypatch.setenv(name, "value")
    assert is_configured()


def test_an_empty_variable_configures_nothing(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    assert not is_configured()


def test_the_option_wins_over_the_variable(monkeypatch):
    monkeypatch.setenv("HRF_BUCKET", "theirs")
    assert configured_location("mine/prefix").uri == "s3://mine/prefix"
    assert configured_location("s3://mine").uri == "s3://mine"
    assert configured_location().uri == "s3://theirs"


def test_a_configured_storage_without_a_bucket_names_the_cause_and_the_fix(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match=r"AWS_ENDPOINT_URL_S3 is set.*--bucket"):
        configured_location()


def test_the_embedded_server_is_reached_by_its_own_variables_and_ends(work_dir):
    with object_storage(work_dir) as location:
        assert location.embedded
        location.open().check()
        storage = location.open()
    with pytest.raises(StorageError):
        storage.list()
