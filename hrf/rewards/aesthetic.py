"""LAION's aesthetic predictor (v2, "sac+logos+ava1-l14-linearMSE"): a head on CLIP's image embedding.

https://github.com/christophschuhmann/improved-aesthetic-predictor; the reward of DDPO's aesthetic task.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hrf.errors import ConfigError
from hrf.networks.settings import Network
from hrf.rewards.base import CheckedReward, Images, Numbers, Prompts
from hrf.rewards.family import REWARD_EXTRA, RewardFamily, RewardRecord
from hrf.rewards.text_image import VIT_L
from hrf.storage.weights import PinnedWeights, weights_file

if TYPE_CHECKING:
    from hrf.networks.aesthetic_head import AestheticHead
    from hrf.networks.clip import OpenClip


@dataclass(frozen=True, kw_only=True)
class Aesthetic:
    """score = head(e / |e|), with e the image's CLIP embedding. The head, which is small, runs in double precision."""

    clip: OpenClip
    head: AestheticHead

    def __call__(self, images: Images, prompts: Prompts = None) -> Numbers:
        """Score images [B, 3, H, W] in [0, 1]: [B], about 1 to 10."""
        import torch

        del prompts
        # One by one: a product of matrices rounds a row by where it stands.
        rows = self.clip.embed_images(images).double().split(1)
        with torch.inference_mode():
            scores: Numbers = torch.cat([self.head(row) for row in rows]).numpy()
        return scores


class AestheticReward(RewardFamily, Network):
    """LAION's aesthetic predictor: a linear head on CLIP's image embedding."""

    name: Literal["aesthetic"] = "aesthetic"
    clip: PinnedWeights = PinnedWeights()
    """The CLIP model, in open_clip's layout; the published head is for ViT-L/14 with OpenAI's weights."""
    head: PinnedWeights = PinnedWeights()
    """The head, one safetensors file."""

    catalogue = (
        RewardRecord(
            name="aesthetic",
            measures="LAION's aesthetic predictor v2: what people would rate the picture, of 10",
            range="about 1 to 10; 5 to 6 on ordinary pictures",
            direction="more beautiful, as its raters saw it",
            needs_prompts=False,
            weights="CLIP ViT-L/14 by OpenAI in open_clip's layout, and the head as safetensors",
            licence="MIT (CLIP), Apache-2.0 (head)",
            cost=VIT_L,
            extra=REWARD_EXTRA,
        ),
    )

    def build(self, field: str, *, folder: Path | None, device: str | None) -> CheckedReward:
        """See `RewardFamily.build`."""
        from hrf.networks.aesthetic_head import EMBEDDING_SIZE, load_head
        from hrf.networks.clip import fetch_open_clip

        del folder
        # The small file first: a mistake in it need not wait for the large one.
        head = load_head(weights_file(self.head, f"{field}.head"))
        clip = fetch_open_clip(self.clip, self, f"{field}.clip", device=device, field=field)
        if clip.embedding_size != EMBEDDING_SIZE:
            raise ConfigError(
                f"{field}.clip.source",
                expected=f"a CLIP model with embeddings of {EMBEDDING_SIZE} numbers, which the head was trained on",
                got=f"one of {clip.embedding_size}",
                fix="name ViT-L/14 with OpenAI's weights",
            )
        return CheckedReward(name="aesthetic", score=Aesthetic(clip=clip, head=head), field=field)
