"""One run of a study in this process, on a model of a few thousand parameters."""

from dataclasses import replace

import pytest
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from hrf.config import Config
from hrf.distributed.progress import PROGRESS_FILE
from hrf.errors import NumericalError
from hrf.storage.objects import Storage
from hrf.study.execute import execute, work_folder
from hrf.study.folder import StudyFolder
from hrf.study.plan import Control, StudyRun
from tests.hrf.steps.conftest import TINY
from tests.hrf.toys import small_unet

HOPELESS, EDITED = 1e30, 1e-3


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRESS_FILE, "")
    model = tmp_path / "model"
    DDPMPipeline(small_unet(kind=UNet2DModel), DDPMScheduler(beta_schedule="linear")).save_pretrained(model)
    config = Config.from_mapping({**TINY, "model": {"source": str(model)}})
    config = config.with_changes({"update": {"learning_rate": HOPELESS}, "run": {"epochs": 2, "start_from": "base"}})
    return StudyRun(arm="hrf", reward="small", seed=0, config=config, measured_after=(1, 2))


def edited(run: StudyRun) -> StudyRun:
    config = run.config.with_changes({"update": {"learning_rate": EDITED}})
    return StudyRun(arm=run.arm, reward=run.reward, seed=run.seed, config=config, measured_after=run.measured_after)


def numbers(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "wall_seconds"} for row in rows]


def test_a_run_that_failed_and_was_edited_trains_what_it_is_labelled_with(run, tmp_path, storage_uri):
    """Kills: going on in the folders of the configuration before the edit, whose rate is infinite for these weights."""
    here = StudyFolder(tmp_path / "resumed")
    with pytest.raises(NumericalError):
        execute(run, here, storage_uri)
    left = work_folder(run, here)
    assert left.is_dir()

    rows = execute(edited(run), here, storage_uri)

    assert [row["learning_rate"] for row in rows] == [0.0, EDITED, EDITED]
    assert numbers(rows) == numbers(execute(edited(run), StudyFolder(tmp_path / "fresh"), f"{storage_uri}/fresh"))
    # Finished, it leaves nothing of itself, nor of the attempt before.
    assert [path.name for path in here.scratch.iterdir()] == ["shared"]
    assert not list(Storage.open(storage_uri).list("hrf--"))


def test_a_front_is_the_end_of_its_run_at_each_strength(run, tmp_path, storage_uri):
    """Kills: the first point's weights for the last's; strengths from strong to weak, or applied to each other; a front
    that costs less than its run."""
    front = Control(arm="hrf-front", config=edited(run).config, strengths=(0.5, 1.0))
    rows = execute(replace(edited(run), controls=(front,)), StudyFolder(tmp_path), storage_uri)

    ours = {(row["arm"], row["point"]): row for row in rows}
    assert [ours["hrf-front", point]["strength"] for point in (0, 1, 2)] == [1.0, 0.5, 1.0]
    end = {**ours["hrf", 2], "arm": "hrf-front", "promoted": 0}
    assert numbers([ours["hrf-front", 2]]) == numbers([end])
    gains = [ours["hrf-front", point]["reward_vs_base"] for point in (0, 1, 2)]
    assert gains[0] == 0 != gains[1] != gains[2]
    assert abs(gains[1]) < abs(gains[2])
    assert ours["hrf-front", 1]["evaluations"] == ours["hrf", 2]["evaluations"] > ours["hrf", 1]["evaluations"]


def test_what_a_run_goes_on_with_depends_on_all_that_it_is_asked_for(run, tmp_path):
    """Kills: a key of the arm's name; one that forgets lengths, or the contents of what a configuration names."""
    described = replace(run, config=run.config.with_changes({"gate": {"diversity_margin": 0.2}}))
    digests = {each.digest for each in (run, edited(run), replace(run, measured_after=(2,)), described)}
    assert len(digests) == 4
    assert replace(run).digest == run.digest

    weights = next((tmp_path / "model" / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert replace(run).digest not in digests
