"""The whole pipeline on a Stable Diffusion of four million parameters, and its result in plain diffusers."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

from hrf.images import grid
from hrf.promotion.protocol import fetch_incumbent, read_pointer
from hrf.seeds import Purpose, stream
from hrf.steps.context import RunContext
from tests.e2e.commands import hrf, only_run
from tests.e2e.objects import storage_of
from tests.hrf import tiny_stable_diffusion as tiny

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STEPS, GUIDANCE = 6, 2.0
CONFIGURATION = """
description: A small Stable Diffusion towards warm colours.
model: {{source: {model}, guidance_scale: {guidance}}}
prompts: {{template: "{{a_prompt}}", held_out_fraction: 0.1}}
policy: {{lora: {{rank: 4, alpha: 8}}}}
sampler: {{steps: {steps}}}
rollout: {{roots: 3, branches: 6}}
reward: {{name: python, function: "tests.hrf.colours:warmth"}}
update: {{minibatch: 9, learning_rate: 1.0e-2, clip_range: 1.0e-2}}
evaluation: {{num_samples: 16, every: 2, features: pixels, classifier: ""}}
gate: {{diversity_margin: 0.5, monitors: {{unrecognised_fraction: null}}}}
run: {{epochs: 2, epochs_per_step: 2}}
"""


def test_a_run_with_lora_guidance_and_prompts_raises_the_reward_and_plain_diffusers_draws_its_pictures(tmp_path):
    """Reward on prompts that were never trained on; the promoted file is the adapter that `load_lora_weights` takes.

    Pictures agree to one in 255: both round to bytes what differs by float32 rounding.
    """
    model = tiny.save(tmp_path / "model", widths=(64, 128), width=64)
    settings = tmp_path / "run.yaml"
    settings.write_text(CONFIGURATION.format(model=model, guidance=GUIDANCE, steps=STEPS))
    work_dir = ("--work-dir", str(tmp_path / "work"))
    said = hrf("run", str(settings), *work_dir, variables={"PYTHONPATH": str(Path.cwd())})
    assert said.exit_code == 0, said.output

    run = only_run(tmp_path / "work")
    (summary,) = run.glob("artifacts/*/summarize*/summary/summary.json")
    record = json.loads(summary.read_text())
    last = record["epochs"][-1]
    assert last["evaluation"]["reward_vs_base"]["low"] > 0, last["evaluation"]
    assert last["decision"]["outcome"] == "promoted", last["decision"]
    (folder,) = run.glob("artifacts/*/prepare/run")
    table = RunContext.read(str(folder)).prompts
    assert table is not None
    assert (len(table.training), len(table.evaluation)) == (41, 4)

    with storage_of(tmp_path / "work") as storage:
        promoted = fetch_incumbent(storage, read_pointer(storage, "default"), tmp_path / "promoted")
    weights = promoted / "pytorch_lora_weights.safetensors"
    assert weights.stat().st_size < 0.05 * (model / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert not (promoted / "unet").exists()
    said = hrf("sample", "--num", "4", "-o", str(tmp_path / "ours.png"), "--prompt", "a cat", *work_dir)
    assert said.exit_code == 0, said.output

    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_lora_weights(promoted)
    theirs = pipeline(
        ["a cat"] * 4,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        eta=1.0,
        generator=[stream(0, Purpose.EVALUATION, index) for index in range(4)],
        output_type="np",
    ).images
    expected = np.asarray(grid(theirs.transpose(0, 3, 1, 2).astype(np.float32), columns=2), dtype=int)
    ours = np.asarray(Image.open(io.BytesIO((tmp_path / "ours.png").read_bytes())), dtype=int)
    assert np.abs(ours - expected).max() <= 1
    pipeline.unload_lora_weights()
    assert ours.std() > 1
