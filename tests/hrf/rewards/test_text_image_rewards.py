"""CLIP score and PickScore against their libraries called by hand."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
import transformers
from PIL import Image

from hrf.errors import ArtifactError, ConfigError, NumericalError
from hrf.rewards import build_reward
from hrf.rewards.clip_score import ClipScoreReward
from hrf.rewards.pickscore import PickScoreReward
from hrf.storage.weights import PinnedWeights, digest_of
from tests.hrf import small_networks
from tests.hrf.small_networks import images

PROMPTS = ["a red cat", "two dogs in the rain", "a red cat", "", "one long prompt " * 20]


def weights(folder) -> PinnedWeights:
    return PinnedWeights(source=str(folder), sha256=digest_of(folder))


def clip_score(networks):
    return build_reward(ClipScoreReward(clip=weights(networks["clip"]), batch_size=4))


def pickscore(networks, **changes):
    return build_reward(PickScoreReward(**{"model": weights(networks["pair"]), "batch_size": 4, **changes}))


BOTH = pytest.mark.parametrize("build", [clip_score, pickscore])


def picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.floor(image.astype(np.float64) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))


def test_the_clip_score_is_the_plain_cosine_that_open_clip_gives(networks):
    """Kills: a scale or a clip at 0; another tokenizer; texts in the wrong order."""
    name = f"local-dir:{networks['clip']}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer, shown = open_clip.get_tokenizer(name), images(5)
    with torch.no_grad():
        of_images = model.eval().encode_image(torch.stack([preprocess(picture(image)) for image in shown]))
        of_texts = model.encode_text(tokenizer(PROMPTS))
        expected = torch.cosine_similarity(of_images, of_texts).numpy()
    # Calls of another size round differently, in float32.
    np.testing.assert_allclose(clip_score(networks)(shown, PROMPTS), expected, atol=2e-6)
    assert np.abs(expected).max() < 1
    assert expected.std() > 0.01


def test_pickscore_is_the_published_score(networks):
    """score = exp(logit_scale) (text @ image), as PickScore's model card has it, with transformers' own processor."""
    folder, shown = networks["pair"], images(5)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        prepared = processor(images=[picture(image) for image in shown], return_tensors="pt")
        tokens = tokenizer(PROMPTS, padding=True, truncation=True, max_length=16, return_tensors="pt")
        output = model(**prepared, **tokens)
        expected = output.logits_per_image.diagonal().numpy()
    # 80 times a cosine in float32.
    np.testing.assert_allclose(pickscore(networks)(shown, PROMPTS), expected, atol=2e-4)
    assert expected.std() > 0.5


@BOTH
def test_a_score_is_the_same_bits_in_any_company(networks, build):
    """Kills calls that are not filled up, and texts embedded in calls as large as they come."""
    reward, shown = build(networks), images(5)
    whole = reward(shown, PROMPTS)
    single = [reward(image[None], [prompt])[0] for image, prompt in zip(shown, PROMPTS, strict=True)]
    assert whole.tolist() == single
    assert (reward(shown[::-1].copy(), PROMPTS[::-1])[::-1] == whole).all()


@BOTH
def test_a_score_belongs_to_its_own_prompt(networks, build):
    """Kills prompts that are left out, or paired with other images."""
    reward, shown = build(networks), images(3)
    one, other = reward(shown, PROMPTS[:3]), reward(shown, [PROMPTS[0], PROMPTS[0], PROMPTS[0]])
    assert (one == other).tolist() == [True, False, True]


@BOTH
def test_without_prompts_there_is_no_score(networks, build):
    reward = build(networks)
    assert reward.needs_prompts
    with pytest.raises(ConfigError, match="unconditional"):
        reward(images(2))
    with pytest.raises(NumericalError, match="a prompt per image"):
        reward(images(2), ["a"])


@BOTH
def test_no_images_have_no_scores(networks, build):
    assert build(networks)(images(0), []).shape == (0,)


def test_the_processor_may_lie_elsewhere(networks, tmp_path):
    model, processor = tmp_path / "model", tmp_path / "processor"
    for folder in (model, processor):
        folder.mkdir()
    for file in networks["pair"].iterdir():
        is_model = file.name in {"config.json", "model.safetensors"}
        (model if is_model else processor).joinpath(file.name).write_bytes(file.read_bytes())
    apart = pickscore(networks, model=weights(model), processor=weights(processor))
    assert (apart(images(3), PROMPTS[:3]) == pickscore(networks)(images(3), PROMPTS[:3])).all()
    with pytest.raises(ArtifactError, match=r"no (tokenizer|image processor) here"):
        pickscore(networks, model=weights(model))


def test_weights_of_another_model_are_refused_and_not_drawn_at_random(networks, tmp_path):
    """transformers itself only warns of weights that are missing."""
    folder = tmp_path / "pair"
    folder.mkdir()
    for file in networks["pair"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    other = small_networks.save_image_classifier(tmp_path / "vit", ("a", "b"))
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ArtifactError, match=r"not the layout of a CLIPModel: \d+ missing"):
        pickscore(networks, model=weights(folder))


def test_pickled_weights_are_not_looked_at(networks, tmp_path):
    folder = tmp_path / "pair"
    folder.mkdir()
    for file in networks["pair"].iterdir():
        name = "pytorch_model.bin" if file.name == "model.safetensors" else file.name
        (folder / name).write_bytes(file.read_bytes())
    with pytest.raises(ArtifactError, match=r"no model.safetensors here"):
        pickscore(networks, model=weights(folder))
