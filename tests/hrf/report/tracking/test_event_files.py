"""Event files, as TensorBoard reads them."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hrf.report.tracking import Point
from hrf.report.tracking.event_files import has_writer, write_event_file

POINTS = [
    Point(group="evaluation", epoch=-1, numbers={"reward": 1.0}),
    Point(group="train", epoch=0, numbers={"reward_mean": 0.5, "loss": -0.25}),
    Point(group="train", epoch=1, numbers={"reward_mean": 0.75, "loss": -0.125}),
    Point(group="evaluation", epoch=1, numbers={"reward": 2.0}),
]


def grid(folder: Path, colour: str) -> Path:
    path = folder / f"{colour}.png"
    Image.new("RGB", (32, 16), colour).save(path)
    return path


def written(folder: Path) -> EventAccumulator:
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return reader


def test_tensorboard_finds_curves_grids_and_hours(tmp_path: Path) -> None:
    """In whatever order the points come."""
    pictures = {1: grid(tmp_path, "red"), -1: grid(tmp_path, "blue")}
    assert has_writer()
    write_event_file(tmp_path / "tensorboard", POINTS[::-1], pictures, {0: 60.0, 1: 150.5})
    read = written(tmp_path / "tensorboard")
    curves = {name: [(event.step, event.value) for event in read.Scalars(name)] for name in read.Tags()["scalars"]}
    assert curves == {
        "evaluation/reward": [(-1, 1.0), (1, 2.0)],
        "train/reward_mean": [(0, 0.5), (1, 0.75)],
        "train/loss": [(0, -0.25), (1, -0.125)],
    }
    assert [event.wall_time for event in read.Scalars("train/loss")] == [60.0, 150.5]
    drawn = [(event.step, event.width, event.height, event.encoded_image_string) for event in read.Images("samples")]
    assert [(step, width, height) for step, width, height, _ in drawn] == [(-1, 32, 16), (1, 32, 16)]
    colours = [Image.open(io.BytesIO(png)).convert("RGB").getpixel((0, 0)) for *_, png in drawn]
    assert colours == [(0, 0, 255), (255, 0, 0)]


def test_the_same_records_make_the_same_bytes_over_what_is_there(tmp_path: Path) -> None:
    pictures = {-1: grid(tmp_path, "blue")}
    first = write_event_file(tmp_path / "a", POINTS, pictures, {}).read_bytes()
    again = write_event_file(tmp_path / "a", POINTS, pictures, {}).read_bytes()
    assert first == again
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["events.out.tfevents.hrf"]
