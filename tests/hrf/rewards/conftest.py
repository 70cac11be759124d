"""Small networks, saved once for all tests of this folder."""

import pytest

from tests.hrf import small_networks


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Name -> path of a saved network."""
    root = tmp_path_factory.mktemp("networks")
    return {
        "clip": small_networks.save_open_clip(root / "clip"),
        "clip_768": small_networks.save_open_clip(root / "clip_768", embed_dim=768),
        "head": small_networks.save_head(root / "head.safetensors"),
        "pair": small_networks.save_clip_pair(root / "pair"),
        "vit": small_networks.save_image_classifier(root / "vit", ("cat", "50-59", "60-69")),
        "onnx": small_networks.save_onnx(root / "linear.onnx"),
    }
