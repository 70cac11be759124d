"""LAION's aesthetic predictor against its published architecture, and what is refused in its place."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from hrf.errors import ArtifactError, ConfigError
from hrf.rewards import build_reward
from hrf.rewards.aesthetic import AestheticReward
from hrf.storage.weights import PinnedWeights, digest_of
from tests.hrf.small_networks import images


def settings(networks, **changes) -> AestheticReward:
    clip = PinnedWeights(source=str(networks["clip_768"]), sha256=digest_of(networks["clip_768"]))
    head = PinnedWeights(source=str(networks["head"]), sha256=digest_of(networks["head"]))
    return AestheticReward(**{"clip": clip, "head": head, "batch_size": 4, **changes})


def head_of(file) -> AestheticReward:
    return PinnedWeights(source=str(file), sha256=digest_of(file))


def published_head() -> nn.Module:
    """As in improved-aesthetic-predictor's simple_inference.py: `self.layers`, dropout in between."""
    return nn.Sequential(
        nn.Linear(768, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )


def pixels(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.floor(image.astype(np.float64) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))


def published_scores(networks, shown: np.ndarray) -> np.ndarray:
    """The published inference: open_clip's own transform of the picture, unit embedding, the head in double."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{networks['clip_768']}")
    head = published_head()
    tensors = load_file(networks["head"])
    head.load_state_dict({name.removeprefix("layers."): tensor for name, tensor in tensors.items()})
    with torch.no_grad():
        embedded = model.eval().encode_image(torch.stack([preprocess(pixels(image)) for image in shown]))
        embedded = embedded / embedded.norm(dim=-1, keepdim=True)
        return head.double().eval()(embedded.double())[:, 0].numpy()


def test_the_score_is_the_published_heads_on_the_unit_clip_embedding(networks):
    """Kills: an activation or dropout in the head; an embedding that is not of length 1; CLIP's own mean and std."""
    shown = images(6)
    scores = build_reward(settings(networks))(shown)
    # Another number of images in a call rounds differently: float32 embeddings, eps 6e-8, through two layers.
    np.testing.assert_allclose(scores, published_scores(networks, shown), rtol=1e-4, atol=1e-6)
    assert scores.std() > 1e-4


def test_the_head_alone_is_the_published_one_in_double_precision(networks):
    from hrf.networks.aesthetic_head import load_head

    head = published_head()
    head.load_state_dict({name.removeprefix("layers."): t for name, t in load_file(networks["head"]).items()})
    embedded = nn.functional.normalize(torch.randn(9, 768, generator=torch.Generator().manual_seed(2)).double())
    torch.testing.assert_close(load_head(networks["head"])(embedded), head.double().eval()(embedded)[:, 0])


def test_a_score_is_the_same_bits_in_any_company(networks):
    """Kills calls that are not filled up (6 images are calls of 4 and 2), and a head on all rows at once."""
    reward, shown = build_reward(settings(networks)), images(6)
    whole = reward(shown)
    assert (reward(shown[::-1].copy())[::-1] == whole).all()
    assert np.concatenate([reward(shown[:1]), reward(shown[1:3]), reward(shown[3:])]).tolist() == whole.tolist()


def test_prompts_are_taken_and_change_nothing(networks):
    reward = build_reward(settings(networks))
    assert not reward.needs_prompts
    assert (reward(images(2), ["a", "b"]) == reward(images(2))).all()


def test_another_file_than_the_pinned_one_is_refused_and_its_sha256_told(networks, tmp_path):
    other = tmp_path / "head.safetensors"
    tensors = load_file(networks["head"])
    tensors["layers.7.bias"] += 1
    save_file(tensors, other)
    pinned = PinnedWeights(source=str(other), sha256=digest_of(networks["head"]))
    with pytest.raises(ArtifactError, match=rf"its sha256 is {digest_of(other)}.*reward.head.sha256") as caught:
        build_reward(settings(networks, head=pinned))
    assert digest_of(networks["head"]) in str(caught.value)


def changed(tensors: dict, case: str) -> dict:
    match case:
        case "another width":
            tensors["layers.0.weight"] = torch.zeros(1024, 512)
        case "a layer missing":
            del tensors["layers.4.bias"]
        case "a layer more":
            tensors["layers.8.weight"] = torch.zeros(1, 1)
        case "other names":
            return {f"model.{name}": tensor for name, tensor in tensors.items()}
        case "the first version's linear head":
            return {"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}
    return tensors


@pytest.mark.parametrize(
    "case",
    ["another width", "a layer missing", "a layer more", "other names", "the first version's linear head"],
)
def test_a_file_of_another_layout_is_refused_though_its_sha256_was_pinned(networks, tmp_path, case):
    file = tmp_path / "head.safetensors"
    save_file(changed(load_file(networks["head"]), case), file)
    with pytest.raises(ArtifactError, match="not the layout of the published head"):
        build_reward(settings(networks, head=head_of(file)))


def test_a_pickle_is_not_even_opened(networks, tmp_path):
    pickled = tmp_path / "sac+logos+ava1-l14-linearMSE.pth"
    pickled.write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match="can run code") as caught:
        build_reward(settings(networks, head=head_of(pickled)))
    assert caught.value.field == "reward.head.source"
    disguised = tmp_path / "head.safetensors"
    disguised.write_bytes(b"PK\x03\x04 no tensors")
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        build_reward(settings(networks, head=head_of(disguised)))


def test_a_clip_model_with_other_embeddings_is_refused(networks):
    small = PinnedWeights(source=str(networks["clip"]), sha256=digest_of(networks["clip"]))
    with pytest.raises(ConfigError, match=r"768 numbers.*got 'one of 24'") as caught:
        build_reward(settings(networks, clip=small))
    assert caught.value.field == "reward.clip.source"


def test_clip_weights_that_do_not_fit_their_configuration_are_refused(networks, tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (folder / name).write_bytes((networks["clip_768" if name.endswith("json") else "clip"] / name).read_bytes())
    wrong = PinnedWeights(source=str(folder), sha256=digest_of(folder))
    with pytest.raises(ArtifactError, match=r"not the layout of a CLIP: .* of another shape"):
        build_reward(settings(networks, clip=wrong))
    (folder / "open_clip_model.safetensors").unlink()
    wrong = PinnedWeights(source=str(folder), sha256=digest_of(folder))
    with pytest.raises(ArtifactError, match=r"open_clip_model.safetensors: there is no such file"):
        build_reward(settings(networks, clip=wrong))


def test_a_gpu_that_is_not_there_is_no_cpu(networks):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="a device that this machine has") as caught:
        build_reward(settings(networks, device="cuda"))
    assert caught.value.field == "reward.device"
    assert build_reward(settings(networks, device="cuda"), device="cpu")(images(1)).shape == (1,)
