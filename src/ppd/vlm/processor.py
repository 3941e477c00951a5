"""Text and images to tensors, for LLaVA-OneVision checkpoints of any size, without torchvision."""

from typing import Any

from transformers import LlavaOnevisionProcessor


class ImageTextProcessor(LlavaOnevisionProcessor):
    """LLaVA-OneVision's processor for still images only.

    The library's own class insists on a video processor, which needs torchvision; a processor whose constructor has no
    such argument saves to and loads from the same files. Call it with `images=[[...], ...]`, one list a conversation: a
    flat list would be taken for single-image conversations and cut into high-resolution patches.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_image_tokens: int | None = None,
        vision_feature_select_strategy: str | None = None,
        chat_template: str | None = None,
        image_token: str = "<image>",
        video_token: str = "<video>",
        vision_aspect_ratio: str = "anyres_max_9",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            image_processor,
            tokenizer,
            None,
            num_image_tokens,
            vision_feature_select_strategy,
            chat_template,
            image_token,
            video_token,
            vision_aspect_ratio,
            **kwargs,
        )
