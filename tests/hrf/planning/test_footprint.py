"""What a denoiser takes, against a count of its layers by hand, published counts, and torch's own books."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hrf.config import Lora
from hrf.errors import ConfigError
from hrf.planning import footprint as footprint_module
from hrf.planning.footprint import Footprint, decoder_footprint, denoiser_footprint
from hrf.policies.kinds import kind_of_denoiser
from hrf.policies.weights import add_adapter, round_frozen_layers
from tests.hrf import tiny_flux
from tests.hrf.tiny_stable_diffusion_3 import TRANSFORMER
from tests.hrf.tiny_stable_diffusion_xl import UNET

PIXELS = {
    "_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 3, "out_channels": 3, "layers_per_block": 1,
    "block_out_channels": [8, 16], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 4, "attention_head_dim": 8,
}  # fmt: skip
TEXT = {
    "_class_name": "UNet2DConditionModel", "sample_size": 16, "layers_per_block": 1, "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "attention_head_dim": 4, "cross_attention_dim": 24,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "norm_num_groups": 8,
}  # fmt: skip
XL = {"_class_name": "UNet2DConditionModel", **UNET}
FLOW = {"_class_name": "SD3Transformer2DModel", **TRANSFORMER}
FLUX = {"_class_name": "FluxTransformer2DModel", **tiny_flux.TRANSFORMER}
STABLE_DIFFUSION = {
    "_class_name": "UNet2DConditionModel", "sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": 768,
}  # fmt: skip
STABLE_DIFFUSION_VAE = {
    "_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "sample_size": 512,
}  # fmt: skip
CELEBAHQ = {
    "_class_name": "UNet2DModel", "sample_size": 256, "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"], "attention_head_dim": None,
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4], "downsample_padding": 0,
}  # fmt: skip


@contextmanager
def counted_by_hand(model: nn.Module) -> Iterator[dict[str, int]]:
    """Multiply-adds of convolutions, linear layers and attention, from the shapes that pass through a real model."""
    found = {"convolution": 0, "linear": 0, "attention": 0}

    def convolution(layer: nn.Conv2d, inputs, output):
        per_output = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        found["convolution"] += output.numel() * per_output

    def linear(layer: nn.Linear, inputs, output):
        found["linear"] += output.numel() * layer.in_features

    def attention(layer, args, kwargs, output):
        hidden = args[0] if args else kwargs["hidden_states"]
        # Pictures, or one row per token.
        tokens = hidden[0, 0].numel() if hidden.ndim == 4 else hidden.shape[1]
        context = kwargs.get("encoder_hidden_states")
        keys = tokens if context is None else context.shape[1]
        if context is not None and layer.add_q_proj is not None:
            # Joint attention: picture and text ask, and are asked, together.
            tokens = keys = tokens + keys
        # Queries by keys, and weights by values; every head has its share of the channels.
        found["attention"] += 2 * len(hidden) * tokens * keys * layer.to_q.out_features

    hooks = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            hooks.append(layer.register_forward_hook(convolution))
        elif isinstance(layer, nn.Linear):
            hooks.append(layer.register_forward_hook(linear))
        elif type(layer).__name__ in {"Attention", "FluxAttention"}:
            hooks.append(layer.register_forward_hook(attention, with_kwargs=True))
    yield found
    for hook in hooks:
        hook.remove()


def inputs(config) -> tuple[torch.Tensor, ...]:
    if config["_class_name"] == "FluxTransformer2DModel":
        # 512 tokens of T5 and 16 patches, as its pipeline has them; positions and guidance come last.
        text, pooled = torch.zeros(1, 512, config["joint_attention_dim"]), config["pooled_projection_dim"]
        positions = torch.zeros(16, 3), torch.zeros(512, 3)
        latents = torch.zeros(1, 16, config["in_channels"])
        return latents, text, torch.zeros(1, pooled), torch.zeros(1), *positions, torch.zeros(1)
    size = config["sample_size"]
    if "addition_embed_type" in config:
        added = {"text_embeds": torch.zeros(1, 12), "time_ids": torch.zeros(1, 6)}
        text = torch.zeros(1, 77, config["cross_attention_dim"])
        return torch.zeros(1, 4, size, size), torch.zeros(1), text, None, None, None, None, added
    if config["_class_name"] == "SD3Transformer2DModel":
        # 77 tokens of CLIP and 256 of T5, as the pipeline of diffusers has them; the timestep comes last.
        text, pooled = torch.zeros(1, 77 + 256, config["joint_attention_dim"]), config["pooled_projection_dim"]
        return torch.zeros(1, config["in_channels"], size, size), text, torch.zeros(1, pooled), torch.zeros(1)
    timestep = torch.zeros(1, dtype=torch.int64)
    if config["_class_name"] == "UNet2DModel":
        return torch.zeros(1, 3, size, size), timestep
    return torch.zeros(1, 4, size, size), timestep, torch.zeros(1, 77, config["cross_attention_dim"])


@pytest.mark.parametrize(
    ("kind", "config", "shape"),
    [
        (UNet2DModel, PIXELS, None),
        (UNet2DConditionModel, TEXT, None),
        (UNet2DConditionModel, XL, None),
        (SD3Transformer2DModel, FLOW, None),
        (FluxTransformer2DModel, FLUX, (4, 8, 8)),
    ],
)
def test_flops_are_those_of_the_layers_counted_by_hand_and_those_that_torch_counts(kind, config, shape):
    model = kind.from_config(config).eval()
    # torch's counter knows attention that is written out, and not the CPU's fused kernel.
    written_out = sdpa_kernel(SDPBackend.MATH)
    with counted_by_hand(model) as found, torch.no_grad(), written_out, FlopCounterMode(display=False) as flops:
        model(*inputs(config))
    counted = denoiser_footprint(config, shape=shape)
    assert counted.forward_flops == flops.get_total_flops()
    assert found["attention"] > 0
    assert counted.convolution_flops == 2 * found["convolution"]
    assert counted.other_flops == 2 * (found["linear"] + found["attention"])
    assert counted.num_parameters == counted.num_tuned == model.num_parameters()
    assert counted.num_tuned_tensors == len(list(model.parameters()))
    assert math.prod(counted.output_shape) == math.prod(counted.sample_shape)
    assert shape is not None or counted.output_shape == counted.sample_shape


@pytest.mark.parametrize(
    ("kind", "config", "lists"),
    [
        (SD3Transformer2DModel, FLOW, ["transformer_blocks"]),
        (FluxTransformer2DModel, FLUX, ["transformer_blocks", "single_transformer_blocks"]),
    ],
)
def test_sharded_weights_are_gathered_in_the_blocks_that_the_model_is_made_of(kind, config, lists):
    model = kind.from_config(config)
    blocks = [sum(weight.numel() for weight in block.parameters()) for name in lists for block in getattr(model, name)]
    counted = denoiser_footprint(config, shape=(4, 8, 8))
    assert counted.largest_block == max(blocks)
    assert counted.outside_blocks == counted.num_parameters - sum(blocks)


@pytest.fixture(scope="module")
def stable_diffusion() -> Footprint:
    """With its usual adapter."""
    return denoiser_footprint(STABLE_DIFFUSION, Lora())


@pytest.mark.slow
class TestPublishedCounts:
    def test_stable_diffusion(self, stable_diffusion):
        """860 M parameters (its paper, arXiv 2112.10752, and everyone since). NVIDIA's slides on accelerating it with
        TensorRT give 1.67952e12 operations for a guided call, two samples; elementwise ones are among them."""
        counted = stable_diffusion
        assert counted.num_parameters == 859_520_964
        assert counted.forward_flops == pytest.approx(1.67952e12 / 2, rel=0.05)
        assert counted.forward_flops < 1.67952e12 / 2

    def test_its_decoder(self):
        """The same slides: 2.53933e12 for the decoder."""
        counted = decoder_footprint(STABLE_DIFFUSION_VAE, (4, 64, 64))
        assert counted.forward_flops == pytest.approx(2.53933e12, rel=0.02)
        assert counted.output_shape == (3, 512, 512)
        assert counted.num_parameters == 83_653_863

    def test_ddpm_at_256_pixels(self):
        """113.7 M parameters and 248.7 G multiply-adds: Diff-Pruning, arXiv 2305.10924, its table of LSUN models."""
        counted = denoiser_footprint(CELEBAHQ)
        assert counted.num_parameters / 1e6 == pytest.approx(113.7, abs=0.05)
        assert counted.forward_flops / 2e9 == pytest.approx(248.7, rel=0.002)


def test_stable_diffusion_xl_has_the_parameters_of_its_paper():
    """2.6 B in its table 1 (arXiv 2307.01952); 2,567,463,684 in the published weights."""
    config = {
        "_class_name": "UNet2DConditionModel", "sample_size": 128, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280],
        "cross_attention_dim": 2048, "projection_class_embeddings_input_dim": 2816, "use_linear_projection": True,
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2], "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
    }  # fmt: skip
    assert footprint_module._build(config, "UNet2DConditionModel").num_parameters() == 2_567_463_684


class TestMemory:
    DEPTH, WIDTH = 6, 64

    def chain(self) -> Footprint:
        """Linear layers and SiLUs by turns, each as wide as the sample."""

        class Chain(nn.Module):
            def __init__(self, depth: int, width: int) -> None:
                super().__init__()
                layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width, bias=False), nn.SiLU())]
                self.layers = nn.Sequential(*layers)

            def forward(self, sample):
                return type("Output", (), {"sample": self.layers(sample)})

        with torch.device("meta"):
            model = Chain(self.DEPTH, self.WIDTH)
            return footprint_module._count(model, (self.WIDTH,), {"sample": torch.empty(1, self.WIDTH)})

    def test_a_forward_pass_holds_what_goes_into_a_layer_and_what_comes_out(self):
        assert self.chain().forward_bytes == 2 * 4 * self.WIDTH

    def test_a_backward_pass_holds_what_every_layer_remembers(self):
        # Both kinds of layer remember what went in: the first one's is the sample, the last one's output is held, too.
        remembered = 2 * self.DEPTH * 4 * self.WIDTH
        # On top, for a moment: the gradient of a weight, and of what goes in and comes out.
        for_a_moment = 4 * self.WIDTH * self.WIDTH + 3 * 4 * self.WIDTH
        assert remembered < self.chain().backward_bytes <= remembered + for_a_moment

    def test_nothing_but_weights_and_gradients_is_left(self):
        """Else the peak would grow from pass to pass: the same model counted twice."""
        first = denoiser_footprint(PIXELS)
        footprint_module._count_denoiser.cache_clear()
        assert denoiser_footprint(PIXELS) == first

    def test_it_does_not_depend_on_when_python_collects_garbage(self):
        """Kills: a counter whose hooks tie the graph into reference cycles, as no training does."""
        at_its_whim = denoiser_footprint(TEXT)
        footprint_module._count_denoiser.cache_clear()
        gc.collect()
        gc.disable()
        try:
            never = denoiser_footprint(TEXT)
        finally:
            gc.enable()
        assert never == at_its_whim

    @pytest.mark.parametrize("config", [PIXELS, TEXT])
    def test_what_a_real_pass_remembers_is_most_of_a_backward_pass(self, config):
        kind = UNet2DModel if config is PIXELS else UNet2DConditionModel
        model = kind.from_config(config).eval()
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        saved: dict[int, int] = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model(*inputs(config)).sample
        output.sum().backward()
        assert sum(saved.values()) == pytest.approx(denoiser_footprint(config).backward_bytes, rel=0.25)

    @pytest.mark.slow
    def test_checkpointing_takes_less(self, stable_diffusion):
        counted = stable_diffusion
        assert counted.forward_bytes < counted.checkpointed_bytes < 0.6 * counted.backward_bytes

    def test_in_bfloat16_activations_take_half(self):
        """The rule of `hrf.planning.forecast`, on tensors without contents as if on a CPU: there autocast exists."""

        def peak(batch: int, enabled: bool) -> int:
            with FakeTensorMode():
                model = UNet2DModel.from_config(PIXELS).eval()
                for parameter in model.parameters():
                    parameter.grad = torch.zeros_like(parameter)
                sample, timestep = torch.zeros(batch, 3, 16, 16), torch.zeros(batch, dtype=torch.int64)
                gradients = [parameter.grad for parameter in model.parameters()]
                memory = footprint_module._Memory(model.parameters(), [*gradients, sample, timestep])
                with memory:
                    with footprint_module._AsOnGpu(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                        output = model(sample, timestep).sample
                    output.backward(torch.ones_like(output))
                return memory.peak_bytes

        # The bfloat16 copies of the weights are there once, whatever the batch.
        low, high = (peak(3, enabled) - peak(1, enabled) for enabled in (True, False))
        assert low / high == pytest.approx(0.5, abs=0.1)


class _Copies(TorchDispatchMode):
    """How many of a real pass's weights have a copy in bfloat16 at a time."""

    def __init__(self, weights) -> None:
        super().__init__()
        self.most = self._now = 0
        self._weights = {weight.data_ptr() for weight in weights}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self._weights:
            self._now += output.numel()
            self.most = max(self.most, self._now)
            weakref.finalize(output.untyped_storage(), self._gone, output.numel())
        return output

    def _gone(self, count: int) -> None:
        self._now -= count


CAST = {
    "UNet": (TEXT, (4, 16, 16), Lora(rank=2)),
    "Stable Diffusion 3": ({**FLOW, "num_layers": 5}, (4, 8, 8), Lora(rank=2, targets=("attn.to_q", "attn.to_k"))),
    "FLUX": (
        {**FLUX, "num_layers": 2, "num_single_layers": 5},
        (4, 8, 8),
        Lora(rank=2, targets=("attn.to_q", "attn.to_out.0", "ff.net.2")),
    ),
}


class TestCasts:
    @pytest.mark.parametrize("adapted", [True, False])
    @pytest.mark.parametrize("name", CAST)
    def test_copies_of_weights_in_bfloat16_are_those_of_a_real_pass(self, name, adapted):
        """Of autocast on the CPU, without its cache and with frozen layers in bfloat16, as policies ask.

        Biases are copied for a moment. Kills: copies of all weights at a time, kept from layer to layer; none for the
        backward pass; a copy of what nobody wants a gradient through.
        """
        config, shape, lora = CAST[name]
        counted = denoiser_footprint(config, lora if adapted else None, shape)
        kind = kind_of_denoiser(config)
        for expected, backward, checkpointing in (
            (counted.forward_casts, False, False),
            (counted.backward_casts, True, False),
            (counted.checkpointed_casts, True, True),
        ):
            model = getattr(diffusers, kind.denoiser).from_config(config).eval()
            if adapted:
                add_adapter(model, lora)
                round_frozen_layers(model, torch.bfloat16)
            if checkpointing:
                model.enable_gradient_checkpointing()
            copies = _Copies(model.parameters())
            with copies, torch.set_grad_enabled(backward):
                with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                    output = model(**kind.question(model.config, shape)).sample
                if backward:
                    output.float().sum().backward()
            assert copies.most == pytest.approx(expected, abs=0.02 * counted.num_tuned)
        assert counted.forward_casts < counted.checkpointed_casts < 0.45 * counted.backward_casts
        assert counted.backward_casts <= counted.num_tuned

    def test_what_goes_into_a_frozen_layer_is_not_remembered(self):
        """Kills: an adapter's activations counted as those of all weights."""
        whole = denoiser_footprint(FLUX, shape=(4, 8, 8))
        adapted = denoiser_footprint(FLUX, CAST["FLUX"][2], (4, 8, 8))
        assert adapted.backward_bytes < 0.75 * whole.backward_bytes
        assert adapted.forward_flops == whole.forward_flops


class TestAdapter:
    @pytest.mark.parametrize("rank", [1, 4])
    def test_its_parameters_are_two_thin_matrices_for_each_layer(self, rank):
        model = UNet2DConditionModel.from_config(TEXT)
        layers = [layer for name, layer in model.named_modules() if name.endswith((".to_q", ".proj_in"))]
        assert {type(layer) for layer in layers} == {nn.Linear, nn.Conv2d}
        by_hand = 0
        for layer in layers:
            ins, outs = layer.weight.shape[1], layer.weight.shape[0]
            by_hand += rank * (ins + outs)
        counted = denoiser_footprint(TEXT, Lora(rank=rank, targets=("to_q", "proj_in")))
        assert counted.num_tuned == by_hand
        assert counted.num_tuned_tensors == 2 * len(layers)
        assert counted.num_parameters == model.num_parameters()

    @pytest.mark.slow
    def test_stable_diffusions_usual_one(self, stable_diffusion):
        """diffusers' training script reports 797,184 parameters for rank 4 on the attention projections."""
        assert stable_diffusion.num_tuned == 797_184


class TestRefusals:
    @pytest.mark.parametrize("config", [{}, {"_class_name": "DiTTransformer2DModel"}, {**PIXELS, "_class_name": None}])
    def test_another_kind_of_model_is_refused(self, config):
        with pytest.raises(ConfigError, match="UNet2DModel or a UNet2DConditionModel"):
            denoiser_footprint(config)

    def test_a_configuration_that_makes_no_model_is_refused(self):
        with pytest.raises(ConfigError, match=r"config\.json"):
            denoiser_footprint({**PIXELS, "block_out_channels": [8]})

    def test_another_decoder_is_refused(self):
        with pytest.raises(ConfigError, match="AutoencoderKL"):
            decoder_footprint({"_class_name": "AutoencoderTiny"}, (4, 8, 8))


def test_a_small_decoder_is_counted_as_it_decodes():
    config = {**STABLE_DIFFUSION_VAE, "block_out_channels": [8, 16], "down_block_types": ["DownEncoderBlock2D"] * 2,
              "up_block_types": ["UpDecoderBlock2D"] * 2, "layers_per_block": 1, "norm_num_groups": 4}  # fmt: skip
    model = AutoencoderKL.from_config(config).eval()
    with counted_by_hand(model) as found, torch.no_grad():
        image = model.decode(torch.zeros(1, 4, 8, 8)).sample
    counted = decoder_footprint(config, (4, 8, 8))
    assert counted.forward_flops == 2 * sum(found.values())
    assert counted.output_shape == tuple(image.shape[1:])
