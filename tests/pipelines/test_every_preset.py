"""The package of every preset, as a cluster is given it: what it holds, how the UI draws it, how large its run is."""

import functools
import re
import warnings
from pathlib import Path

import pytest

from hrf.config import resolve
from hrf.config.loading import list_presets
from hrf_pipelines.compiled import compile_finetune
from hrf_pipelines.package import read_package
from hrf_pipelines.placement import load_placement
from hrf_pipelines.workflow import table as workflow_table
from hrf_pipelines.workflow.size import MOST_UNPACKED, estimate
from tests.pipelines.graph import layers

PRESETS = [info.name for info in list_presets()]
ROOT = Path(__file__).parents[2]
EVERY_PRESET = pytest.mark.parametrize("preset", PRESETS)


@functools.cache
def package(preset, overrides=""):
    config = resolve(preset, overrides)
    with warnings.catch_warnings(action="ignore"):
        return compile_finetune(config, load_placement("", config), preset=preset, overrides=overrides)


def largest_layer(text):
    return max(layers(read_package(text)[0]), key=lambda layer: len(layer.nodes))


@EVERY_PRESET
def test_the_form_has_menus_that_offer_the_package_s_own_default(preset):
    parameters = read_package(package(preset))[0]["root"]["inputDefinitions"]["parameters"]
    assert parameters["preset"]["literals"][0] == preset
    assert {"promoted", "base"} < set(parameters["start_from"]["literals"])
    assert all(entry["defaultValue"] in entry["literals"] for entry in parameters.values() if "literals" in entry)


@EVERY_PRESET
def test_no_image_is_the_latest_one_and_no_attempt_ends_after_ten_minutes_from_the_first(preset):
    text = package(preset)
    assert "latest" not in re.findall(r"image: \S+:(\S+)", text)
    assert "latest" not in text
    assert set(re.findall(r"backoffMaxDuration: (\S+)", text)) == {f"{52 * 7 * 24 * 3600}s"}


@EVERY_PRESET
def test_every_pod_is_let_in_where_pod_security_is_restricted(preset):
    spec, platform = read_package(package(preset))
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert settings.keys() == spec["deploymentSpec"]["executors"].keys()
    for executor in settings.values():
        assert executor["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        assert executor["imagePullPolicy"] == "IfNotPresent"


def test_graphs_are_counted_as_the_ui_draws_them():
    """A recorded run's, which is a picture: 27 boxes in the layer of its steps."""
    from tests.pipelines.workflow.test_size import RECORDED_PACKAGE

    counted = {layer.component: (len(layer.nodes), len(layer.edges)) for layer in layers(RECORDED_PACKAGE[0])}
    assert counted["comp-exit-handler-1"] == (27, 55)
    assert counted["root"] == (3, 2)


SIX = pytest.mark.parametrize("preset", [name for name in PRESETS if resolve(name).run.epochs <= 6])


@SIX
def test_the_graph_of_six_epochs_can_be_read(preset):
    layer = largest_layer(package(preset))
    assert len(layer.nodes) <= 40
    assert len(layer.edges) <= 80


def test_the_default_preset_s_run_can_be_watched_and_retried_in_the_ui():
    size = estimate(package("avatars-compressibility"))
    assert size.total_bytes < 1_000_000 < MOST_UNPACKED
    assert size.is_shown
    assert size.can_be_retried


def _rows(text):
    return [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in text.splitlines() if "| `" in line]


def test_the_page_on_sizes_is_that_of_the_code():
    """Sizes within 2 %: a word more in a step's source is no reason to write the page anew."""
    written = (ROOT / "docs" / "workflow-size.md").read_text(encoding="utf-8")
    with warnings.catch_warnings(action="ignore"):
        made = workflow_table.table()
    assert written.partition("| preset")[0] == made.partition("| preset")[0], "run `make manifests`"
    assert [row[0] for row in _rows(written)] == [f"`{preset}`" for preset in PRESETS]
    for old, new in zip(_rows(written), _rows(made), strict=True):
        sizes = [(float(a.split()[0]), float(b.split()[0])) for a, b in zip(old, new, strict=True) if " MB" in a]
        assert len(sizes) == 2
        assert all(now == pytest.approx(then, rel=0.02, abs=0.006) for then, now in sizes), (
            f"{new[0]}: `make manifests`"
        )
        assert [cell for cell in old if " MB" not in cell] == [cell for cell in new if " MB" not in cell]
