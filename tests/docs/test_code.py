"""Python blocks of the pages do what the text around them says."""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import diffusers
import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler
from numpy.typing import NDArray

from hrf.config import Config, resolve
from hrf.images import to_images
from hrf.policies.architecture import Architecture
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import evaluated_from, load_policy, save_fresh_policy, save_policy, weights_of
from hrf.policies.kinds import kind_of, load_denoiser, normalise_base
from hrf.rewards import build_reward
from hrf.rewards.client import RemoteScorer
from hrf.rewards.remote import RemoteReward
from hrf.steps.prepare import policy_identity
from hrf.storage.objects import Storage
from hrf.storage.shipped import shipped_folder
from tests.docs.pages import PAGES, fenced
from tests.hrf import tiny_flux, tiny_stable_diffusion, tiny_stable_diffusion_3, tiny_stable_diffusion_xl
from tests.hrf.candidates import EXPERIMENT, candidate_of, put_forward


def with_values(code: str, **values: object) -> str:
    """The code with other values for variables that it sets at the beginning of a line."""
    for name, value in values.items():
        code, count = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", code, flags=re.MULTILINE)
        assert count == 1, f"the page's code sets {name} {count} times"
    return code


class TestOwnReward:
    def test_the_function_is_a_reward(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "my_rewards.py").write_text(fenced("python", PAGES["README.md"])[0])
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
        config = resolve("avatars-smoke", "reward: {name: python, function: 'my_rewards:warmth'}")
        images = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)
        expected = [image[0].mean() - image[2].mean() for image in images]
        np.testing.assert_allclose(build_reward(config.reward, None)(images), expected, rtol=1e-5, atol=1e-6)


class TestOwnRewardServer:
    @pytest.fixture
    def url(self) -> Iterator[str]:
        """Of the server that docs/remote-reward.md shows: thirty lines that know nothing of this library."""
        shown: dict[str, Any] = {"__name__": "scorer"}
        exec(fenced("python", PAGES["docs/remote-reward.md"])[0], shown)
        with shown["HTTPServer"](("127.0.0.1", 0), shown["Scorer"]) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()

    @pytest.mark.parametrize("prompts", [None, ["a cat"] * 7])
    def test_it_is_one_that_a_run_can_ask(self, url: str, prompts: list[str] | None) -> None:
        config = resolve("avatars-smoke", f"reward: {{name: remote, url: '{url}', scorer: warmth, batch_size: 3}}")
        images = np.random.default_rng(0).random((7, 3, 8, 8), dtype=np.float32)
        warmth = images[:, 0].mean(axis=(1, 2)) - images[:, 2].mean(axis=(1, 2))
        assert build_reward(config.reward, None)(images, prompts).tolist() == [float(number) for number in warmth]

    def test_it_says_what_it_is(self, url: str) -> None:
        assert RemoteScorer(settings=RemoteReward(url=url, scorer="warmth")).health().range == (-1, 1)


class TestGettingAPromotedModel:
    def test_the_lines_download_it(
        self, storage: Storage, storage_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put_forward(storage, candidate_of(tmp_path, "first", 0.1))
        monkeypatch.setenv("HRF_BUCKET", storage_uri)
        monkeypatch.chdir(tmp_path)
        exec(fenced("python", PAGES["docs/storage.md"])[0].replace('"default"', repr(EXPERIMENT)), {})
        assert (tmp_path / "promoted" / "weights.bin").read_text() == "first 0.1"


def drawn(policy: DiffusionPolicy, num_images: int, prompts: torch.Tensor | None = None) -> torch.Tensor:
    """Our own samples, with noise from the generator that the page's lines take."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(num_images, *policy.sample_shape, generator=generator)
    with torch.no_grad():
        for step in range(policy.schedule.num_steps):
            mean, std = policy.transition(states, torch.full((num_images,), step), prompts=prompts)
            states = mean + std * torch.randn(states.shape, generator=generator)
    return states


class TestPlainDiffusers:
    # Few steps, half of them the reference's.
    PRESET = "avatars-smoke"
    NUM_IMAGES = 2

    SAMPLERS = ("", "sampler: {spacing: trailing, steps: 6}\nstarts: {windows: [{fractions: [0.5, 0.9]}]}")
    """As the preset has it; and a number of steps that does not divide the timesteps."""

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        """The shipped one under a scheduler that has no clip_sample, as PNDM's, DPM-Solver's and Euler's have none."""
        model = Path(shutil.copytree(shipped_folder("avatars-32"), tmp_path / "model"))
        PNDMScheduler(set_alpha_to_one=True).save_pretrained(model / "scheduler")
        tiny_stable_diffusion.edit_json(model / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
        return model

    @pytest.fixture
    def folders(self, tmp_path: Path, model: Path, config: Config) -> tuple[Path, Path]:
        """A base, and one whose weights are visibly others, saved as a tuned policy with a switch step."""
        base, tuned = tmp_path / "base", tmp_path / "tuned"
        for folder in (base, tuned):
            folder.mkdir()
        normalise_base(model, base)
        denoiser = load_denoiser(base / "unet")
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in denoiser.parameters():
                weight.mul_(1 + 0.1 * torch.randn(weight.shape, generator=generator))
        about = {"switch_step": config.switch_step, "sampler": config.sampler.model_dump(mode="json")}
        save_policy(tuned, denoiser, base, about, None)
        return base, tuned

    @pytest.fixture(params=SAMPLERS)
    def config(self, request: pytest.FixtureRequest) -> Config:
        return resolve(self.PRESET, request.param)

    def test_the_lines_make_the_pictures_of_our_own_policy(
        self, model: Path, folders: tuple[Path, Path], config: Config
    ) -> None:
        base, tuned = folders
        code = fenced("python", PAGES["docs/diffusers.md"])[0]
        made: dict[str, Any] = {}
        settings = {"reference_folder": str(model), "tuned_folder": str(tuned)}
        exec(with_values(code, **settings, num_images=self.NUM_IMAGES), made)
        images = made["images"]
        assert images.shape == (self.NUM_IMAGES, 3, 32, 32)
        policy = load_policy(config, base, tuned)
        # Where the last step does not lead to a finished sample, there is a rest of noise on it.
        assert images.abs().max() <= (1 if policy.schedule.levels[-1] == 1 else 1.05)
        assert policy.switch_step == policy.schedule.num_steps // 2
        # Float32: the two compute the same in another order.
        torch.testing.assert_close(images, drawn(policy, self.NUM_IMAGES), rtol=0, atol=1e-4)
        # The wrong half of the weights, or none of the tuned ones, would be seen.
        elsewhere = DiffusionPolicy(**{**policy.__dict__, "switch_step": policy.switch_step - 1})
        assert (images - drawn(elsewhere, self.NUM_IMAGES)).abs().max() > 1e-3


class TestPlainDiffusersWithAnAdapter:
    PROMPTS = ("a red cat", "a blue dog", "a wet fox")
    SETTINGS: ClassVar = {
        "model": {"source": "x", "guidance_scale": 3.0},
        "prompts": {"texts": list(PROMPTS)},
        "sampler": {"steps": 6},
    }

    @pytest.mark.parametrize(
        ("kind", "scheduler", "split", "spacing"),
        [
            (tiny_stable_diffusion, "DDIMScheduler", 0.0, "trailing"),
            (tiny_stable_diffusion, "DDIMScheduler", 0.5, "leading"),
            (tiny_stable_diffusion, "PNDMScheduler", 0.5, "leading"),
            (tiny_stable_diffusion, "EulerDiscreteScheduler", 0.5, "leading"),
            (tiny_stable_diffusion, "DPMSolverMultistepScheduler", 0.5, "leading"),
            (tiny_stable_diffusion_xl, "EulerDiscreteScheduler", 0.0, "trailing"),
            (tiny_stable_diffusion_xl, "EulerDiscreteScheduler", 0.5, "leading"),
        ],
    )
    def test_the_lines_make_the_pictures_of_our_own_policy(
        self, kind: ModuleType, scheduler: str, split: float, spacing: str, tmp_path: Path
    ) -> None:
        """Kills: an adapter that is on from the start, or from a step too late on; latents clipped where the base's
        scheduler has no clip_sample; the offset that StableDiffusionPipeline puts into its scheduler."""
        model = kind.save(tmp_path / "model")
        if scheduler != "DDIMScheduler":
            settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
            getattr(diffusers, scheduler)(**settings).save_pretrained(model / "scheduler")
            tiny_stable_diffusion.edit_json(model / "model_index.json", scheduler=["diffusers", scheduler])
            assert "clip_sample" not in (model / "scheduler" / "scheduler_config.json").read_text()
        base, fresh, tuned = (tmp_path / name for name in ("base", "fresh", "tuned"))
        for folder in (base, fresh, tuned):
            folder.mkdir()
        normalise_base(model, base)
        kind_of(base).embed_prompts(base, self.PROMPTS, negative="").save(base)
        config = Config.from_mapping({**self.SETTINGS, "policy": {"lora": {"rank": 2, "alpha": 4}, "split": split}})
        config = config.with_changes({"sampler": {"spacing": spacing}})
        about = {"switch_step": config.switch_step, "sampler": config.sampler.model_dump(mode="json")}
        save_fresh_policy(fresh, config, base, about, run_seed=0)
        policy = load_policy(config, base, fresh, prompts=base)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in policy.denoiser.parameters():
                if weight.requires_grad:
                    weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
        save_policy(tuned, policy.denoiser, base, about, None, weights_of(config))

        code = fenced("python", PAGES["docs/diffusers.md"])[1]
        if kind is tiny_stable_diffusion_xl:
            # As docs/stable-diffusion-xl.md says.
            code = code.replace("StableDiffusionPipeline", "StableDiffusionXLPipeline")
            code = code.replace(", safety_checker=None", "")
        settings = {"base_folder": str(model), "tuned_folder": str(tuned), "prompts": list(self.PROMPTS)}
        made: dict[str, Any] = {}
        exec(with_values(code, **settings, guidance_scale=3.0), made)
        theirs = np.stack([np.asarray(image, dtype=np.float32) / 255 for image in made["images"]]).transpose(0, 3, 1, 2)

        def ours(policy: DiffusionPolicy) -> NDArray[np.float32]:
            samples = drawn(policy, len(self.PROMPTS), torch.arange(len(self.PROMPTS)))
            return to_images(policy.decode(samples).numpy())

        assert policy.switch_step == (3 if split else 0)
        assert np.abs(ours(policy) - theirs).max() < 1 / 255
        elsewhere = DiffusionPolicy(**{**policy.__dict__, "switch_step": policy.switch_step + 1})
        assert np.abs(ours(elsewhere) - theirs).max() > 2 / 255


class TestPlainDiffusersWithOtherSteps:
    LINEAR: ClassVar = {"_class_name": "DDIMScheduler"}
    FLOW: ClassVar = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}

    @pytest.mark.parametrize(
        ("about", "spacing"), [(LINEAR, "leading"), (LINEAR, "trailing"), (FLOW, "leading")], ids=str
    )
    def test_the_lines_find_the_step_at_which_our_own_policy_switches(
        self, about: dict[str, Any], spacing: str
    ) -> None:
        made: dict[str, Any] = {}
        exec(fenced("python", PAGES["docs/diffusers.md"])[2], made)
        options = {} if about is self.FLOW else {"timestep_spacing": spacing}
        scheduler = getattr(diffusers, about["_class_name"]).from_config({**about, **options})
        kind = "SD3Transformer2DModel" if about is self.FLOW else "UNet2DModel"
        model = Architecture(denoiser={"_class_name": kind, "sample_size": 8}, scheduler=about)
        for trained, steps in ((10, 40), (10, 10), (20, 7), (12, 30)):
            sampler = {"steps": trained, "spacing": spacing, "min_std": 0.0}
            for step in (0, 1, 4, 7):
                asked = {"sampler": sampler, "policy": {"split": step / trained}, "evaluation": {"steps": steps}}
                found = made["switch_step_with"](scheduler, {"switch_step": step, "sampler": sampler}, steps)
                assert found == evaluated_from(model, Config.from_mapping(asked))


class TestPlainDiffusersWithAFlow:
    @pytest.mark.parametrize("evaluation", [{}, {"steps": 9}], ids=["as trained", "more steps"])
    @pytest.mark.parametrize(
        ("kind", "page", "settings"),
        [
            (tiny_stable_diffusion_3, "docs/stable-diffusion-3.md", {"guidance_scale": 3.0}),
            (tiny_flux, "docs/flux.md", {"guidance_scale": 2.0, "embedded_guidance": 3.5, "picture_size": 16}),
        ],
        ids=["sd3", "flux"],
    )
    def test_the_lines_make_the_pictures_of_our_own_policy_without_noise(
        self, kind: ModuleType, page: str, settings: dict[str, Any], evaluation: dict[str, Any], tmp_path: Path
    ) -> None:
        """Kills: an adapter that is on from the start, or from a step too late on; a policy that doesn't tell of its
        guidance or size; the trained switch step among more steps."""
        base, fresh, tuned = (tmp_path / name for name in ("base", "fresh", "tuned"))
        for folder in (base, fresh, tuned):
            folder.mkdir()
        normalise_base(kind.save(tmp_path / "model"), base)
        texts = kind.PROMPTS[:2]
        kind_of(base).embed_prompts(base, texts, negative="").save(base)
        config = Config.from_mapping(
            {
                "model": {"source": "x", **settings},
                "prompts": {"texts": [*texts, "a", "b", "c"]},
                "sampler": {"steps": 6, "kind": "cps"},
                "policy": {"lora": {"rank": 2, "alpha": 4}, "split": 0.5},
                "evaluation": {**evaluation, "eta": 0.0},
            }
        )
        first = evaluated_from(Architecture.of(base), config)
        about = policy_identity(config, base_digest="")
        if evaluation:
            about["evaluation"] = {**evaluation, "switch_step": first}
        save_fresh_policy(fresh, config, base, about, run_seed=0)
        policy = load_policy(config, base, fresh, prompts=base)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in policy.denoiser.parameters():
                if weight.requires_grad:
                    weight.add_(0.5 * torch.randn(weight.shape, generator=generator))
        save_policy(tuned, policy.denoiser, base, about, None, weights_of(config))
        code = fenced("python", PAGES[page])[0]
        where = {"base_folder": str(base), "tuned_folder": str(tuned), "prompts": list(texts)}
        made: dict[str, Any] = {}
        exec(with_values(code, **where), made)
        theirs = np.stack([np.asarray(image, dtype=np.float32) / 255 for image in made["images"]]).transpose(0, 3, 1, 2)

        def ours(switch_step: int) -> NDArray[np.float32]:
            other = DiffusionPolicy(**{**policy.as_evaluated().__dict__, "switch_step": switch_step})
            return to_images(policy.decode(drawn(other, 2, torch.arange(2))).numpy())

        assert first == (5 if evaluation else 3)
        assert np.abs(ours(first) - theirs).max() < 1 / 255
        assert np.abs(ours(first + 1) - theirs).max() > 2 / 255
