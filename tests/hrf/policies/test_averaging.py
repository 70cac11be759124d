"""The mean of policies: of adapters, the nearest to the mean of products."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hrf.errors import ArtifactError
from hrf.policies.averaging import average_policies, nearest_up
from hrf.policies.policy_folder import ADAPTER_NAMES
from hrf.storage.names import LORA_FILE


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adapters(spread: float, *, convolution: bool = False) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Three adapters of rank 2 whose A differ by so much."""
    ups, downs = ((7, 2, 1, 1), (2, 5, 3, 3)) if convolution else ((7, 2), (2, 5))
    shared = draw(*downs)
    return (
        [draw(*ups, seed=10 + replica) for replica in range(3)],
        [shared + spread * draw(*downs, seed=20 + replica) for replica in range(3)],
    )


@pytest.mark.parametrize("convolution", [False, True], ids=["linear", "convolution"])
def test_it_is_the_least_squares_fit_to_the_mean_of_products(convolution):
    """numpy's lstsq as oracle. Kills: the product of means, a transposed pseudoinverse."""
    ups, downs = adapters(0.5, convolution=convolution)
    down = sum(downs) / 3
    found, lost = nearest_up(ups, downs, down)

    flat = down.flatten(1).numpy()
    exact = sum(up.flatten(1).numpy() @ each.flatten(1).numpy() for up, each in zip(ups, downs, strict=True)) / 3
    expected = np.linalg.lstsq(flat.T, exact.T, rcond=None)[0].T
    np.testing.assert_allclose(found.flatten(1), expected, rtol=1e-10, atol=1e-12)
    assert found.shape == ups[0].shape
    assert lost == pytest.approx(((exact - expected @ flat) ** 2).sum() / (exact**2).sum())
    of_means = (sum(ups) / 3).flatten(1).numpy()
    assert ((exact - of_means @ flat) ** 2).sum() > ((exact - expected @ flat) ** 2).sum()


def test_it_is_exact_where_the_downs_agree():
    """Then the mean of products is the product of the mean. Kills: a factor of n, or of its root."""
    ups, downs = adapters(0.0)
    found, lost = nearest_up(ups, downs, downs[0])
    torch.testing.assert_close(found, sum(ups) / 3)
    assert lost < 1e-20


def test_adapters_that_are_still_nothing_stay_nothing():
    found, lost = nearest_up([torch.zeros(7, 2, dtype=torch.float64)] * 3, adapters(0.5)[1], adapters(0.5)[1][0])
    assert not found.any()
    assert lost == 0.0


def test_a_rank_beyond_the_layers_inputs_is_exact():
    """A' has no inverse then, but its rows span all inputs. Kills: normal equations in place of a pseudoinverse."""
    ups, downs = [draw(4, 6, seed=seed) for seed in (1, 2)], [draw(6, 3, seed=seed) for seed in (3, 4)]
    found, lost = nearest_up(ups, downs, (downs[0] + downs[1]) / 2)
    torch.testing.assert_close(found @ (downs[0] + downs[1]) / 2, (ups[0] @ downs[0] + ups[1] @ downs[1]) / 2)
    assert lost < 1e-20


@pytest.mark.parametrize(("down", "up"), ADAPTER_NAMES.values(), ids=ADAPTER_NAMES)
def test_the_matrices_of_an_adapters_file_are_known_by_their_names(tmp_path, down, up):
    """Of UNets and of transformers. Kills: all tensors averaged number by number."""
    ups, downs = adapters(0.5)
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        tensors = {f"layer{down}weight": downs[number], f"layer{up}weight": ups[number]}
        save_file(tensors, tmp_path / str(number) / LORA_FILE)
    (mean := tmp_path / "mean").mkdir()
    lost = average_policies([tmp_path / str(number) for number in range(3)], [LORA_FILE], mean)
    expected, expected_lost = nearest_up(ups, downs, sum(downs) / 3)
    torch.testing.assert_close(load_file(mean / LORA_FILE)[f"layer{up}weight"], expected)
    assert lost == pytest.approx(expected_lost)


def test_tensors_of_other_shapes_are_refused(tmp_path):
    for number, shape in enumerate((3, 4)):
        (tmp_path / str(number)).mkdir()
        save_file({"weight": torch.zeros(shape)}, tmp_path / str(number) / "w.safetensors")
    with pytest.raises(ArtifactError, match="weight"):
        average_policies([tmp_path / "0", tmp_path / "1"], ["w.safetensors"], tmp_path)
