"""A run's curves and sample grids as a file that TensorBoard reads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from hrf.report.tracking import Point

EVENT_FILE = "events.out.tfevents.hrf"


def has_writer() -> bool:
    """Whether the extra `tensorboard` is installed."""
    return find_spec("tensorboardX") is not None


def write_event_file(
    folder: Path, points: Sequence[Point], pictures: Mapping[int, Path], seconds: Mapping[int, float]
) -> Path:
    """Write a run's event file, over one that is there. The same records make the same bytes.

    Args:
        folder: Where to; made if absent.
        points: The run's numbers.
        pictures: Epoch -> its sample grid, a PNG.
        seconds: Epoch -> work until its end, which TensorBoard's `relative` axis shows; those that are absent count 0.
    """
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter

    numbers = [
        (point.epoch, Summary.Value(tag=f"{point.group}/{name}", simple_value=value))
        for point in points
        for name, value in point.numbers.items()
    ]
    images = []
    for epoch, path in pictures.items():
        with Image.open(path) as picture:
            width, height = picture.size
        drawn = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=path.read_bytes())
        images.append((epoch, Summary.Value(tag="samples", image=drawn)))
    folder.mkdir(parents=True, exist_ok=True)
    in_order = sorted([*numbers, *images], key=lambda entry: entry[0])
    writer = RecordWriter(str(folder / EVENT_FILE))
    writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString(deterministic=True))
    for epoch, values in itertools.groupby(in_order, key=lambda entry: entry[0]):
        summary = Summary(value=[value for _, value in values])
        event = Event(wall_time=seconds.get(epoch, 0.0), step=epoch, summary=summary)
        writer.write(event.SerializeToString(deterministic=True))
    writer.close()
    return folder / EVENT_FILE
