"""Which finished steps an attempt may rely on, from notes as Kubeflow's own local runner writes and reads them."""

import json
import shutil

import pytest
from kfp import dsl
from kfp.local.cache import LocalCache

from hrf.storage.folders import writing_folder
from hrf_components.outputs import record
from hrf_pipelines.local.finished_steps import forget_damaged


class Finished:
    """A step that has finished, with a folder, its numbers and a page; and one that has no output."""

    def __init__(self, root) -> None:
        self.folder, self.output = root / "cache", root / "artifacts" / "made"
        self.write("of this step")
        made, metrics = dsl.Artifact(uri=str(self.output)), dsl.Metrics(uri=str(root / "metrics"))
        (root / "page").write_text("<p>")
        record({"loss": 0.5}, metrics=metrics, outputs=[made])
        outputs = {"shards": [made], "metrics": metrics, "page": dsl.HTML(uri=str(root / "page")), "source": "base"}
        LocalCache(str(self.folder)).put("step", outputs)
        LocalCache(str(self.folder)).put("other", {"source": "base"})

    def write(self, content):
        with writing_folder(self.output, producer={"step": "first"}) as folder:
            (folder / "value").write_text(content)

    def forget(self):
        """What was wrong, and which steps are still finished."""
        wrong = list(forget_damaged(self.folder))
        return wrong, [name for name in ("other", "step") if LocalCache(str(self.folder)).get(name) is not None]


@pytest.fixture
def finished(tmp_path):
    return Finished(tmp_path)


def test_what_is_as_it_was_written_stays_finished(finished):
    assert finished.forget() == ([], ["other", "step"])


def test_without_notes_there_is_nothing_to_forget(tmp_path):
    assert list(forget_damaged(tmp_path / "cache")) == []


def flip_a_bit(file):
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)


DAMAGE = {
    "a flipped bit": lambda made: flip_a_bit(made.output / "value"),
    "a file cut short": lambda made: (made.output / "value").write_bytes(b""),
    "a file gone": lambda made: (made.output / "value").unlink(),
    "a file too many": lambda made: (made.output / "other").write_text("?"),
    "a manifest flipped": lambda made: flip_a_bit(made.output / "manifest.json"),
    "no manifest": lambda made: (made.output / "manifest.json").unlink(),
    "another whole folder": lambda made: made.write("of somebody else"),
    "the folder gone": lambda made: shutil.rmtree(made.output),
    "the page gone": lambda made: (made.output.parents[1] / "page").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_step_whose_output_was_damaged_is_no_longer_finished(finished, damage):
    DAMAGE[damage](finished)
    (wrong,), still_finished = finished.forget()
    assert ("page" if damage == "the page gone" else "artifacts/made") in str(wrong)
    assert still_finished == ["other"]
    assert finished.forget() == ([], ["other"])


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b'{"made": {"uri": 3, "metadata": {}}}', b'{"made": {"uri": "x"}}']
)
def test_an_unreadable_note_is_taken_away(finished, content):
    """Kills: a note in no known encoding, which Kubeflow's runner does not get past."""
    note = finished.folder / "step.json"
    assert json.loads(note.read_bytes())["source"] == "base"
    note.write_bytes(content)
    (wrong,), still_finished = finished.forget()
    assert wrong == note
    assert still_finished == ["other"]
