"""Presets of large models say on which GPUs they fit, and with which settings on larger ones: held by `hrf plan`."""

import json
import re
import shlex
from pathlib import Path

import pytest

import hrf
from hrf.config import Config, list_presets, resolve
from hrf.config.overrides import from_settings
from hrf.planning.forecast import Forecast
from hrf_pipelines.forecasting import compute
from tests.docs.pages import PAGES

pytestmark = pytest.mark.slow
ROOM = 0.9
"""What the allocator keeps in reserve, and kernels work in, is not counted."""
VARIANT = re.compile(r"^# Fits a GPU of (\d+) GB, by `hrf plan`\. On (\d+) GB, .*:\n#   (--set .*)$", re.MULTILINE)


def variants() -> dict[str, tuple[str, str, str]]:
    """Preset -> GB of the smaller GPU and of the larger one, and the settings for that."""
    folder = Path(hrf.__file__).parent / "presets"
    texts = {info.name: (folder / f"{info.name}.yaml").read_text(encoding="utf-8") for info in list_presets()}
    return {name: found.groups() for name, text in texts.items() if (found := VARIANT.search(text))}  # type: ignore[misc]


def peak_gigabytes(config: Config, found: Forecast) -> float:
    update = "update_checkpointed" if config.model.gradient_checkpointing else "update"
    return max(found.memory_bytes["sample"], found.memory_bytes[update]) / 1e9


def test_presets_of_models_beyond_a_billion_parameters_have_variants():
    assert set(variants()) == {
        "flux-dev-pickscore",
        "sd35-medium-compressibility",
        "sd35-medium-pickscore",
        "sdxl-aesthetic",
    }


@pytest.mark.parametrize("preset", variants())
def test_a_variant_fits_its_gpu_gives_the_same_and_is_sooner(preset):
    """Kills: a microbatch too many in either; a variant that changes what is trained."""
    small, large, settings = variants()[preset]
    words = [word for word in shlex.split(settings) if word != "--set"]
    less, more = resolve(preset), resolve(preset, json.dumps(from_settings(words)))
    found = {config: compute(config, "a100", 0.3) for config in (less, more)}
    assert peak_gigabytes(less, found[less]) < ROOM * float(small)
    assert ROOM * float(small) < peak_gigabytes(more, found[more]) < ROOM * float(large)
    assert found[more].total.seconds < found[less].total.seconds
    memory_only = {"model": ("gradient_checkpointing", "batch_size"), "update": ("microbatch",)}
    told = [config.to_mapping() for config in (less, more)]
    for values in told:
        for section, names in memory_only.items():
            for name in names:
                del values[section][name]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("preset", "published", "exactly"),
    [
        ("sdxl-aesthetic", 2 * 2_567_463_684, True),
        # With its 384 x 384 positions.
        ("sd35-medium-pickscore", 4.94e9, False),
        ("flux-dev-pickscore", 23_802_816_640, True),
    ],
)
def test_configuration_files_give_models_as_large_as_the_published_ones(preset, published, exactly):
    """Bytes in 16 bits, by the published indices of weights."""
    found = compute(resolve(preset), "a100", 0.3)
    assert 2 * found.num_parameters + found.memory_bytes["buffers"] / 2 == pytest.approx(
        published, abs=0 if exactly else 0.005e9
    )


def test_flux_is_behind_a_switch_at_two_of_six_steps():
    assert resolve("flux-dev-pickscore").switch_step == 2


def test_the_clusters_page_says_what_sharing_the_weights_leaves_on_a_gpu():
    said = re.search(r"(\d+) GB on one GPU and (\d+) GB on each of four", PAGES["docs/cluster.md"])
    assert said
    whole = {"policy": {"lora": None}, "model": {"gradient_checkpointing": True}}
    shared = {**whole, "model": {**whole["model"], "num_processes": 4, "shard_weights": True}}
    for gigabytes, changes in zip(said.groups(), (whole, shared), strict=True):
        found = compute(resolve("sd35-medium-pickscore", json.dumps(changes)), "a100", 0.3).memory_bytes
        assert round(found["update_checkpointed"] / 1e9) == int(gigabytes)
