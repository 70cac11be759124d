"""Weights are a network's, name by name, whoever loads them; and they may lie in shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from hrf.config import Config, Lora
from hrf.errors import ArtifactError
from hrf.networks.aesthetic_head import load_head
from hrf.networks.classifier import ImageClassifier
from hrf.networks.clip import load_open_clip
from hrf.networks.pretrained import load_model
from hrf.networks.tensor_files import read_tensors, weight_files
from hrf.policies.components import load_component
from hrf.policies.folders import load_policy, save_fresh_policy, save_policy
from hrf.policies.kinds import load_denoiser, normalise_base
from hrf.policies.text import load_text_encoder
from hrf.policies.weights import FullWeights, LoraWeights
from tests.hrf import small_networks
from tests.hrf import tiny_stable_diffusion as tiny
from tests.hrf.toys import small_unet

CPU = torch.device("cpu")
UNET = "diffusion_pytorch_model.safetensors"
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Loader:
    """One of the places where weights are read."""

    file: str
    """Below the folder of all networks."""
    load: Callable[[Path], object]
    """Given that folder."""


LORA = Lora(rank=2, alpha=4)
PIXELS = Config.from_mapping({"model": {"source": "x"}, "sampler": {"steps": 6}})
LOADERS = {
    "unet": Loader(f"sd/unet/{UNET}", lambda root: load_denoiser(root / "sd" / "unet")),
    "vae": Loader(f"sd/vae/{UNET}", lambda root: load_component(root / "sd" / "vae", "AutoencoderKL")),
    "text encoder": Loader(
        "sd/text_encoder/model.safetensors", lambda root: load_text_encoder(root / "sd/text_encoder", "CLIPTextModel")
    ),
    "reference": Loader(
        f"base/unet/{UNET}", lambda root: FullWeights().load(root / "base", root / "policy", reference=True)
    ),
    "policy": Loader(f"policy/unet/{UNET}", lambda root: load_policy(PIXELS, root / "base", root / "policy")),
    "average": Loader(
        f"policy/average/{UNET}", lambda root: load_policy(PIXELS, root / "base", root / "policy", average=True)
    ),
    "average of a policy in training": Loader(
        f"policy/average/{UNET}",
        lambda root: FullWeights().load_average(load_denoiser(root / "base" / "unet"), root / "policy"),
    ),
    "lora": Loader(
        "adapter/pytorch_lora_weights.safetensors",
        lambda root: LoraWeights(LORA).load(root / "sd", root / "adapter", reference=True),
    ),
    "open_clip": Loader(
        "clip/open_clip_model.safetensors",
        lambda root: load_open_clip(root / "clip", device=CPU, call_size=1, field="reward"),
    ),
    "clip of transformers": Loader("pair/model.safetensors", lambda root: load_model("CLIPModel", root / "pair")),
    "dinov2": Loader("dinov2/model.safetensors", lambda root: load_model("Dinov2Model", root / "dinov2")),
    "image classifier": Loader(
        "vit/model.safetensors", lambda root: load_model("AutoModelForImageClassification", root / "vit")
    ),
    "classifier": Loader(
        "classifier/model.safetensors", lambda root: ImageClassifier.from_pretrained(root / "classifier")
    ),
    "aesthetic head": Loader("head.safetensors", lambda root: load_head(root / "head.safetensors")),
}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("networks")
    tiny.save(root / "sd")
    DDPMPipeline(small_unet(kind=UNet2DModel), DDPMScheduler()).save_pretrained(root / "base")
    (root / "policy").mkdir()
    unet = load_denoiser(root / "base" / "unet")
    average = {name: value.detach() + 1 for name, value in unet.named_parameters()}
    save_policy(root / "policy", unet, root / "base", {}, average)
    (root / "adapter").mkdir()
    lora = {"model": {"source": "x"}, "prompts": {}, "policy": {"lora": LORA.model_dump()}}
    save_fresh_policy(root / "adapter", Config.from_mapping(lora), root / "sd", {}, run_seed=0)
    small_networks.save_open_clip(root / "clip")
    small_networks.save_clip_pair(root / "pair")
    small_networks.save_dinov2(root / "dinov2")
    small_networks.save_image_classifier(root / "vit", ("a", "b"))
    ImageClassifier(("a", "unrecognised"), image_size=8, channels=(4, 4, 4, 6)).save_pretrained(root / "classifier")
    small_networks.save_head(root / "head.safetensors")
    return root


def some_weight(tensors: Tensors) -> str:
    return min(name for name, tensor in tensors.items() if tensor.ndim == 2 and name.endswith(".weight"))


def wrapped_by_peft(tensors: Tensors) -> Tensors:
    name = some_weight(tensors)
    stem = name.removesuffix(".weight")
    rest = {key: value for key, value in tensors.items() if key != name}
    adapter = {f"{stem}.lora_{side}.default.weight": torch.ones(2, 2) for side in "AB"}
    return {**rest, f"{stem}.base_layer.weight": tensors[name], **adapter}


DAMAGES: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "torch.compile": (lambda t: {f"_orig_mod.{k}": v for k, v in t.items()}, r"missing .*_orig_mod\..*torch\.compile"),
    "DataParallel": (lambda t: {f"module.{k}": v for k, v in t.items()}, r"missing .*`module\.` \(DataParallel"),
    "peft": (wrapped_by_peft, r"1 missing \(.*`base_layer\.` \(peft\).*merge_and_unload"),
    "missing": (lambda t: {k: v for k, v in t.items() if k != some_weight(t)}, r"1 missing \("),
    "surplus": (lambda t: {**t, "surplus.weight": torch.ones(2)}, r"1 unexpected \(surplus\.weight\)"),
    "another shape": (
        lambda t: {**t, some_weight(t): torch.ones(3, 5)},
        r"1 of another shape \(.* is \[3, 5\], not \[",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("loader", LOADERS)
def test_tensors_that_are_not_the_networks_own_are_refused_by_name(
    networks: Path, tmp_path: Path, loader: str, damage: str
) -> None:
    """Kills: a library that warns and goes on with uninitialised memory."""
    change, message = DAMAGES[damage]
    where = LOADERS[loader]
    root = tmp_path / "networks"
    shutil.copytree(networks, root, copy_function=lambda source, target: Path(target).symlink_to(source))
    tensors = load_file(networks / where.file)
    (root / where.file).unlink()
    save_file({k: v.contiguous() for k, v in change(tensors).items()}, root / where.file, metadata={"format": "pt"})

    with pytest.raises(ArtifactError, match=message) as caught:
        where.load(root)

    assert str(root / where.file) in str(caught.value)


@pytest.mark.parametrize("loader", LOADERS)
def test_the_right_tensors_load(networks: Path, loader: str) -> None:
    assert LOADERS[loader].load(networks)


def test_integers_are_no_weights(networks: Path, tmp_path: Path) -> None:
    """Quantised weights without their scales, which a network would take for numbers."""
    shutil.copytree(networks / "base" / "unet", tmp_path / "unet")
    tensors = load_file(tmp_path / "unet" / UNET)
    tensors["conv_in.weight"] = tensors["conv_in.weight"].to(torch.int8)
    save_file(tensors, tmp_path / "unet" / UNET)
    with pytest.raises(ArtifactError, match=r"conv_in\.weight is \[8, 3, 3, 3\] int8, not"):
        load_denoiser(tmp_path / "unet")


@pytest.mark.parametrize("setting", [{"norm_num_groups": 2}, {"act_fn": "relu"}, {"freq_shift": 1}])
@pytest.mark.parametrize("folder", ["unet", "average"])
def test_a_policy_of_another_network_than_the_bases_is_refused_though_its_tensors_fit(
    networks: Path, tmp_path: Path, folder: str, setting: dict[str, object]
) -> None:
    shutil.copytree(networks / "policy", tmp_path / "policy")
    tiny.edit_json(tmp_path / "policy" / folder / "config.json", **setting)
    with pytest.raises(ArtifactError, match=rf"another network than the base's: {next(iter(setting))}"):
        load_policy(PIXELS, networks / "base", tmp_path / "policy", average=folder == "average")


def in_shards(folder: Path, stem: str, network: torch.nn.Module) -> Path:
    """Save a network in many files and an index."""
    shutil.rmtree(folder)
    network.save_pretrained(folder, max_shard_size="4KB")
    assert len(list(folder.glob(f"{stem}-*-of-*.safetensors"))) > 3
    return folder / f"{stem}.safetensors.index.json"


@pytest.fixture
def sharded(networks: Path, tmp_path: Path) -> Path:
    """A Stable Diffusion whose networks all lie in shards."""
    folder = tmp_path / "sharded"
    shutil.copytree(networks / "sd", folder)
    for part in ("unet", "vae"):
        network = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part].from_pretrained(networks / "sd" / part)
        in_shards(folder / part, "diffusion_pytorch_model", network)
    in_shards(folder / "text_encoder", "model", load_text_encoder(networks / "sd" / "text_encoder", "CLIPTextModel"))
    return folder


def test_a_model_in_shards_is_the_same_model(networks: Path, sharded: Path, tmp_path: Path) -> None:
    for name, source in (("from one", networks / "sd"), ("from shards", sharded)):
        (tmp_path / name).mkdir()
        normalise_base(source, tmp_path / name)
    for part in (f"unet/{UNET}", f"vae/{UNET}", "text_encoder/model.safetensors"):
        assert (tmp_path / "from one" / part).read_bytes() == (tmp_path / "from shards" / part).read_bytes()


def test_shards_are_all_there_and_hold_what_their_index_says(sharded: Path) -> None:
    folder = sharded / "unet"
    index = folder / f"{UNET}.index.json"
    content = json.loads(index.read_text())
    shard_of = content["weight_map"]
    first = min(shard_of.values())

    def with_map(**changes: str) -> None:
        index.write_text(json.dumps({**content, "weight_map": {**shard_of, **changes}}))

    with_map(**{"conv_in.weight": "../../elsewhere.safetensors"})
    with pytest.raises(ArtifactError, match=r"no index of shards beside it: \.\./\.\./elsewhere"):
        load_denoiser(folder)
    with_map(**{"another.weight": first})
    with pytest.raises(ArtifactError, match=r"this shard as .*index\.json has it: 1 missing \(another\.weight\)"):
        load_denoiser(folder)
    for text in ("", "[]", '{"weight_map": {}}', '{"weight_map": 3}'):
        index.write_text(text)
        with pytest.raises(ArtifactError, match="no index of shards"):
            load_denoiser(folder)
    with_map()
    (folder / first).unlink()
    with pytest.raises(ArtifactError, match=f"{first}: .*names it, but it is not there"):
        load_denoiser(folder)


def test_weights_that_lie_there_twice_are_refused(sharded: Path, networks: Path) -> None:
    shutil.copy(networks / "sd" / "unet" / UNET, sharded / "unet" / UNET)
    with pytest.raises(ArtifactError, match="weights in shards beside all of them"):
        weight_files(sharded / "unet", "diffusion_pytorch_model")


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ("model.fp16.safetensors", r"only a variant of it.*model\.fp16\.safetensors.*without one"),
        ("model.safetensors.index.fp16.json", r"only a variant of it"),
        ("model-00001-of-00002.safetensors", r"shards without an index"),
        ("pytorch_model.bin", r"no model\.safetensors here.*they can run code"),
    ],
)
def test_what_lies_there_in_the_place_of_weights_is_named(tmp_path: Path, present: str, message: str) -> None:
    (tmp_path / present).touch()
    with pytest.raises(ArtifactError, match=message):
        read_tensors(tmp_path, "model", "CLIPTextModel")


def test_names_of_diffusers_first_versions_are_known(networks: Path, tmp_path: Path) -> None:
    """The attention layers of google/ddpm-celebahq-256 and of Stable Diffusion's usual VAE."""
    shutil.copytree(networks / "sd" / "vae", tmp_path / "vae")
    file, old = tmp_path / "vae" / UNET, {}
    for name, tensor in load_file(file).items():
        for now, then in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            name = name.replace(f".{now}.", f".{then}.")
        old[name] = tensor
    assert sum("proj_attn" in name for name in old) == 4
    save_file(old, file)
    expected = load_file(networks / "sd" / "vae" / UNET)

    loaded = load_component(tmp_path / "vae", "AutoencoderKL").state_dict()

    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_weights_in_half_precision_are_their_own_values_in_float32(networks: Path, tmp_path: Path) -> None:
    shutil.copytree(networks / "base" / "unet", tmp_path / "unet")
    half = {name: tensor.half() for name, tensor in load_file(tmp_path / "unet" / UNET).items()}
    save_file(half, tmp_path / "unet" / UNET)
    for name, value in load_denoiser(tmp_path / "unet").state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, half[name].float())
