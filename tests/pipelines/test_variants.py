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
    assert set(variants()) == {"sd35-medium-compressibility", "sd35-medium-pickscore", "sdxl-aesthetic"}


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


def test_configuration_files_give_models_as_large_as_the_published_ones():
    """SDXL's UNet has 2,567,463,684 parameters; SD3.5 medium's transformer, with its 384 x 384 positions, 4.94 GB."""
    xl, medium = (
        compute(resolve(name), "a100", 0.3).memory_bytes for name in ("sdxl-aesthetic", "sd35-medium-pickscore")
    )
    assert xl["weights"] == 4 * 2_567_463_684
    assert (medium["weights"] + medium["buffers"]) / 2 == pytest.approx(4.94e9, abs=0.005e9)


def test_flux_fits_eighty_gibibytes_with_room_and_is_as_large_as_published():
    """11,901,408,320 parameters: the published weights are 23,802,816,640 bytes in bfloat16, by their index."""
    config = resolve("flux-dev-pickscore")
    found = compute(config, "a100", 0.3)
    assert found.num_parameters == 11_901_408_320
    assert found.memory_bytes["weights"] > 24 * 2**30
    assert peak_gigabytes(config, found) * 1e9 < ROOM * 80 * 2**30
    assert config.switch_step == 2
