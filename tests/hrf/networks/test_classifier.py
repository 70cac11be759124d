from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import hrf
from hrf.errors import ArtifactError
from hrf.networks.classifier import UNRECOGNISED, ImageClassifier, classifier_folder
from hrf.storage.shipped import SHIPPED_CLASSIFIERS
from tools.base_model.initial_weights import reinitialise

LABELS = ("cats", "dogs", UNRECOGNISED)
SHIPPED = Path(hrf.__file__).parent / "assets" / "avatars-32" / "classifier"


def make_classifier(seed: int = 0) -> ImageClassifier:
    model = ImageClassifier(LABELS, image_size=16, channels=(4, 6, 8, 10))
    reinitialise(model, torch.Generator().manual_seed(seed))
    return model.eval()


def make_images(count: int = 5, size: int = 16) -> torch.Tensor:
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(1))


def test_logits_are_the_head_applied_to_the_features():
    model, images = make_classifier(), make_images()
    features = model.features(images)
    assert features.shape == (5, 10)
    assert features.min() >= 0
    assert model(images).shape == (5, len(model.labels)) == (5, 3)
    torch.testing.assert_close(model(images), model.head(features))


def test_a_picture_is_judged_alone_whatever_its_batch():
    model, images = make_classifier(), make_images()
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]))


def test_the_score_is_differentiable_in_the_pictures():
    images = make_images().requires_grad_()
    make_classifier()(images)[:, 0].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_an_empty_batch_has_no_logits():
    assert make_classifier()(torch.empty(0, 3, 16, 16)).shape == (0, 3)


def test_round_trip_is_exact(tmp_path: Path):
    model, images = make_classifier(), make_images()
    # Running statistics travel too: give them values of their own.
    model.train()(images)
    model.eval().save_pretrained(tmp_path / "deep" / "folder")
    again = ImageClassifier.from_pretrained(tmp_path / "deep" / "folder")
    assert not again.training
    assert (again.labels, again.image_size, again.channels) == (LABELS, 16, (4, 6, 8, 10))
    assert torch.equal(again(images), model(images))
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_reinitialise_depends_on_its_generator_only():
    first, same, other = make_classifier(3), make_classifier(3), make_classifier(4)
    assert torch.equal(first.head.weight, same.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(3, 16, 16), r"\[B, 3, 16, 16\]"),
        (torch.zeros(2, 16, 16, 3), r"\[B, 3, 16, 16\]"),
        (torch.zeros(2, 1, 16, 16), r"\[B, 3, 16, 16\]"),
        (torch.zeros(2, 3, 32, 32), r"\[B, 3, 16, 16\]"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "divide bytes by 255"),
        (torch.full((2, 3, 16, 16), -1.0), r"\(x \+ 1\) / 2"),
        (torch.full((2, 3, 16, 16), 255.0), r"\[0, 1\]"),
        (torch.full((2, 3, 16, 16), torch.nan), "nan"),
    ],
    ids=["no batch", "channels last", "grey", "other size", "bytes", "minus one to one", "0 to 255", "nan"],
)
def test_wrong_pictures_are_refused_in_words(images: torch.Tensor, words: str):
    with pytest.raises(ValueError, match=words):
        make_classifier()(images)


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (("cats", "dogs"), {}),
        ((UNRECOGNISED,), {}),
        (("cats", "cats", UNRECOGNISED), {}),
        (LABELS, {"image_size": 12}),
        (LABELS, {"image_size": 0}),
        (LABELS, {"channels": (4, 6, 8)}),
    ],
)
def test_wrong_architectures_are_refused(labels: tuple[str, ...], options: dict[str, object]):
    with pytest.raises(ValueError, match="must be"):
        ImageClassifier(labels, **options)  # type: ignore[arg-type]


class TestBrokenFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        make_classifier().save_pretrained(tmp_path)
        return tmp_path

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_missing_file(self, folder: Path, name: str):
        (folder / name).unlink()
        with pytest.raises(ArtifactError, match=f"{name}: there is no such file"):
            ImageClassifier.from_pretrained(folder)

    def test_weights_cut_short(self, folder: Path):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ArtifactError, match="do not fit"):
            ImageClassifier.from_pretrained(folder)

    def test_weights_of_another_architecture(self, folder: Path):
        tensors = load_file(folder / "model.safetensors")
        del tensors["head.bias"]
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(ArtifactError, match=r"head\.bias"):
            ImageClassifier.from_pretrained(folder)

    @pytest.mark.parametrize(
        "change",
        [{"format": "another"}, {"labels": ["cats"]}, {"channels": None}, {"image_size": "large"}],
    )
    def test_configuration_with_a_wrong_value(self, folder: Path, change: dict[str, object]):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ArtifactError, match="not the configuration"):
            ImageClassifier.from_pretrained(folder)

    @pytest.mark.parametrize("text", ["", "{}", "[]", "not json"])
    def test_configuration_that_is_none(self, folder: Path, text: str):
        (folder / "config.json").write_text(text)
        with pytest.raises(ArtifactError, match="not the configuration"):
            ImageClassifier.from_pretrained(folder)


@pytest.fixture(scope="module")
def classifier() -> ImageClassifier:
    """The one that ships."""
    return ImageClassifier.from_pretrained(SHIPPED)


class TestShipped:
    def test_knows_the_six_styles(self, classifier: ImageClassifier):
        styles = ("pixel-art", "planets", "landscape", "sprouts", "critters", "marbles")
        assert classifier.labels == (*styles, UNRECOGNISED)
        assert 60_000 < sum(parameter.numel() for parameter in classifier.parameters()) < 120_000

    def test_featureless_pictures_are_unrecognised(self, classifier: ImageClassifier):
        rng = np.random.default_rng(5)
        colours = torch.from_numpy(rng.uniform(0, 1, (2, 200, 3, 1, 1))).float()
        ramp = torch.linspace(0, 1, 32)[:, None].expand(32, 32)
        pictures = {
            "flat": colours[0].expand(200, 3, 32, 32),
            "gradient": torch.lerp(colours[0], colours[1], ramp),
            "sideways gradient": torch.lerp(colours[0], colours[1], ramp.T),
            "noise": torch.from_numpy(rng.uniform(0, 1, (200, 3, 32, 32))).float(),
            "black": torch.zeros(1, 3, 32, 32),
            "white": torch.ones(1, 3, 32, 32),
            "grey": torch.full((1, 3, 32, 32), 0.5),
        }
        with torch.no_grad():
            shares = {
                name: (classifier(images).argmax(-1) == len(classifier.labels) - 1).float().mean().item()
                for name, images in pictures.items()
            }
        assert min(shares.values()) >= 0.99, shares


def test_the_shipped_classifiers_are_two():
    """Kills: what training is on and what measures it are one network under two names."""
    first, second = (load_file(classifier_folder(name, "f") / "model.safetensors") for name in SHIPPED_CLASSIFIERS)
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[name], second[name]) for name in first if name.endswith("weight"))
