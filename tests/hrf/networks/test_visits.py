"""Networks that are on a device only while they are asked. The device is torch's meta device: every machine has it."""

import pytest
import torch
from torch import nn

from hrf.networks.calls import Caller
from hrf.networks.clip import load_open_clip
from hrf.networks.pretrained import load_clip_pair, load_pretrained
from hrf.networks.visits import staying, visiting
from hrf.policies.decoding import LatentDecoder
from tests.hrf import small_networks, tiny_stable_diffusion_3

CPU, DEVICE = torch.device("cpu"), torch.device("meta")


def small_network() -> nn.Module:
    """With a buffer, and a tensor that two layers share."""
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).eval().requires_grad_(False)
    network[2].weight = network[0].weight
    return network


def where(network: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*network.parameters(), *network.buffers())}


def identities(network: nn.Module) -> list[int]:
    return [id(tensor) for tensor in (*network.parameters(), *network.buffers())]


@pytest.mark.parametrize("fails", [False, True])
def test_a_visit_moves_all_of_a_network_and_ends_with_the_tensors_that_were_there(fails):
    """Kills: buffers left behind, shared tensors copied twice, weights that are lost or stay after an error."""
    network = small_network()
    before = identities(network)
    try:
        with visiting(network, DEVICE):
            assert where(network) == {"meta"}
            assert network[2].weight is network[0].weight
            assert network(torch.empty(2, 3, device=DEVICE)).device == DEVICE
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert identities(network) == before
    assert where(network) == {"cpu"}


def test_on_the_cpu_nothing_moves():
    network = small_network()
    before = identities(network)
    with visiting(network, CPU), staying(), visiting(network, CPU):
        assert identities(network) == before


def test_within_a_block_that_says_so_visitors_stay_and_are_copied_once():
    network, other = small_network(), small_network()
    before = identities(network)
    with staying():
        with staying(), visiting(network, DEVICE):
            there = identities(network)
        with visiting(other, DEVICE), visiting(network, DEVICE):
            assert identities(network) == there != before
        assert where(network) == where(other) == {"meta"}
    assert identities(network) == before
    assert where(other) == {"cpu"}
    with visiting(network, DEVICE):
        pass
    assert identities(network) == before


def test_a_caller_asks_its_network_on_the_device_about_what_is_there():
    seen = []

    def network(batch: torch.Tensor) -> torch.Tensor:
        seen.append((batch.device.type, *where(caller.model)))
        return torch.zeros(len(batch))

    caller = Caller(model=small_network(), device=DEVICE, call_size=2)
    assert caller.in_calls(range(3), lambda item: torch.full((3,), float(item)), network).shape == (3,)
    assert seen == [("meta", "meta")] * 2
    assert where(caller.model) == {"cpu"}


SCORERS = {
    "open_clip, pictures": (small_networks.save_open_clip, load_open_clip, "embed_images"),
    "open_clip, texts": (small_networks.save_open_clip, load_open_clip, "embed_texts"),
    "pair, pictures": (small_networks.save_clip_pair, load_clip_pair, "embed_images"),
    "pair, texts": (small_networks.save_clip_pair, load_clip_pair, "embed_texts"),
    "dinov2": (small_networks.save_dinov2, load_pretrained, "on_images"),
}


@pytest.mark.parametrize("name", SCORERS)
def test_scorers_are_in_memory_between_two_questions(name, tmp_path):
    """An answer of the meta device can't be read, which shows that it came from there."""
    save, load, question = SCORERS[name]
    folder = save(tmp_path / "network")
    more = {"open_clip": (), "pair": (folder,), "dinov2": ("Dinov2Model",)}[name.split(",")[0]]
    scorer = load(folder, *more, device=DEVICE, call_size=2, field="reward")
    assert where(scorer.model) == {"cpu"}
    arguments = {
        "embed_images": (small_networks.images(3),),
        "embed_texts": (["a cat", "a dog"],),
        "on_images": (small_networks.images(3), lambda prepared: scorer.model(prepared).last_hidden_state[:, 0]),
    }[question]
    with pytest.raises(RuntimeError, match="meta"):
        getattr(scorer, question)(*arguments)
    assert where(scorer.model) == {"cpu"}


def test_an_autoencoder_is_on_the_device_while_it_decodes_and_no_longer(tmp_path):
    tiny_stable_diffusion_3.pipeline().vae.save_pretrained(tmp_path)
    samples = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = LatentDecoder(folder=tmp_path, device=CPU)(samples)
    decoder, seen = LatentDecoder(folder=tmp_path, device=DEVICE), []
    autoencoder = decoder._autoencoder
    autoencoder.decoder.register_forward_hook(lambda *_: seen.append(where(autoencoder)))

    pictures = decoder(samples)

    assert (pictures.device, pictures.shape) == (DEVICE, expected.shape)
    assert seen == [{"meta"}] * 2
    assert where(autoencoder) == {"cpu"}
    assert torch.equal(autoencoder.decode(samples[:1] / 1.5 + 0.06).sample.clamp(-1, 1), expected[:1])
