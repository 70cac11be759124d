"""Small pretrained networks in their libraries' own folder layouts, drawn from seeds: the real classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import open_clip
import torch
import transformers
from onnx import TensorProto, helper
from open_clip.push_to_hf_hub import save_config_for_hf
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file

from hrf.networks.aesthetic_head import AestheticHead
from tools.base_model.initial_weights import reinitialise

CONTEXT = 16
"""Tokens of a text."""
SIZE = 32
"""Pixels of what the networks are shown."""
# Not OpenAI's, so that a test sees whether a model's own are used.
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic", "resize_mode": "shortest"}


def images(count: int = 5, height: int = 48, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, height, width), dtype=np.float32)


def draw(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights of a seed: large enough that images and texts differ in their embeddings."""
    generator = torch.Generator().manual_seed(seed)
    reinitialise(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 1 and parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def save_open_clip(folder: Path, *, embed_dim: int = 24, quick_gelu: bool = True) -> Path:
    """A CLIP model in open_clip's layout."""
    tower = {"width": 32, "layers": 2}
    model_cfg = {
        "embed_dim": embed_dim,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"image_size": SIZE, "patch_size": 8, "head_width": 16, **tower},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "heads": 2, **tower},
    }
    folder.mkdir(parents=True)
    config = {"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    draw(model)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    # Over the one above: what open_clip writes of it.
    save_config_for_hf(model, folder / "open_clip_config.json", model_config=model_cfg)
    return folder


def save_head(file: Path, seed: int = 1) -> Path:
    """An aesthetic head in the published layout."""
    head = AestheticHead()
    draw(head, seed)
    save_file(head.state_dict(), file)
    return file


def save_processor(folder: Path, kind: str = "CLIPImageProcessor") -> None:
    size = {"shortest_edge": SIZE} if kind != "ViTImageProcessor" else {"height": SIZE, "width": SIZE}
    crop = {} if kind == "ViTImageProcessor" else {"crop_size": {"height": SIZE, "width": SIZE}}
    own = {"image_mean": PREPROCESS["mean"], "image_std": PREPROCESS["std"]}
    getattr(transformers, kind)(size=size, **crop, **own).save_pretrained(folder)


def save_clip_pair(folder: Path) -> Path:
    """A CLIPModel of transformers with image processor and tokenizer, whose vocabulary is CLIP's."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": 49408, "max_position_embeddings": CONTEXT, "bos_token_id": 49406, "eos_token_id": 49407}
    vision = {"image_size": SIZE, "patch_size": 8}
    config = transformers.CLIPConfig(
        text_config={**tower, **text, "pad_token_id": 49407}, vision_config={**tower, **vision}, projection_dim=24
    )
    model = transformers.CLIPModel(config)
    draw(model)
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(80.0)))
    model.save_pretrained(folder)
    save_processor(folder)
    bytes_of = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    (folder / "vocab.json").write_text(json.dumps({names.get(k, k): v for k, v in bytes_of.encoder.items()}))
    merges = "\n".join(" ".join(pair) for pair in bytes_of.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    tokenizer = transformers.CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    return folder


def save_image_classifier(folder: Path, labels: tuple[str, ...], **settings: object) -> Path:
    config = transformers.ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=8,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        **settings,
    )
    model = transformers.ViTForImageClassification(config)
    draw(model)
    model.save_pretrained(folder)
    save_processor(folder, "ViTImageProcessor")
    return folder


def save_dinov2(folder: Path) -> Path:
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE, patch_size=8
    )
    model = transformers.Dinov2Model(config)
    draw(model)
    model.save_pretrained(folder)
    save_processor(folder, "BitImageProcessor")
    return folder


def save_onnx(file: Path, *, batch: int | str = "n", side: int | str = 4, classes: int = 6, inputs: int = 1) -> Path:
    """Logits = flattened pixels times a matrix: [batch, 3, side, side] -> [batch, classes]."""
    pixels = 3 * (side if isinstance(side, int) else 4) ** 2
    matrix = np.random.default_rng(3).normal(size=(pixels, classes)).astype(np.float32)
    taken = [helper.make_tensor_value_info(f"in{i}", TensorProto.FLOAT, [batch, 3, side, side]) for i in range(inputs)]
    nodes = [
        helper.make_node("Flatten", ["in0"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    constant = helper.make_tensor("matrix", TensorProto.FLOAT, matrix.shape, matrix.tobytes(), raw=True)
    returned = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])]
    graph = helper.make_graph(nodes, "linear", taken, returned, [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())
    return file
