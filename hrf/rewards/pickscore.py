"""PickScore (Kirstain et al. 2023): a CLIP trained on what people chose of two pictures for a prompt."""

from __future__ import annotations

from typing import Literal

from hrf.rewards.family import REWARD_EXTRA, RewardRecord
from hrf.rewards.text_image import VIT_H, CosineReward, TextImageCosine
from hrf.storage.weights import PinnedWeights, weights_folder


class PickScoreReward(CosineReward):
    """PickScore, and any other preference model that is a CLIPModel of transformers."""

    name: Literal["pickscore"] = "pickscore"
    model: PinnedWeights = PinnedWeights()
    """The CLIPModel, in transformers' layout."""
    processor: PinnedWeights | None = None
    """Where its tokenizer and image processor are; null: with the model."""

    catalogue = (
        RewardRecord(
            name="pickscore",
            measures="exp(logit_scale) x cosine of image and prompt under a CLIP trained on people's choices",
            range="[-100, 100]; 18 to 24 on ordinary pairs",
            direction="more often preferred",
            needs_prompts=True,
            weights="PickScore v1, or any CLIPModel of transformers",
            licence="MIT (PickScore)",
            cost=VIT_H,
            extra=REWARD_EXTRA,
        ),
    )

    def cosine(self, field: str, *, device: str | None) -> TextImageCosine:
        """See `CosineReward.cosine`."""
        from hrf.networks import pretrained
        from hrf.networks.calls import usable_device

        model = processor = weights_folder(self.model, f"{field}.model", pretrained.HUB_FILES)
        if self.processor:
            processor = weights_folder(self.processor, f"{field}.processor", pretrained.PROCESSOR_FILES)
        usable = usable_device(device or self.device, field)
        encoder = pretrained.load_clip_pair(model, processor, device=usable, call_size=self.batch_size, field=field)
        return TextImageCosine(encoder=encoder, scale=encoder.logit_scale)
