"""The networks of Segment Anything, in torch. State dict keys are those of the released checkpoints.

Dimension letters in this package: B images or prompts, P prompts, N tokens, C channels, M masks per prompt,
(H, W) pixels of an image, (S, S) the model's square input, (h, w) the image embedding.
"""

from sam_engine.modeling.image_encoder import ImageEncoderViT
from sam_engine.modeling.mask_decoder import MaskDecoder
from sam_engine.modeling.prompt_encoder import PromptEncoder
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.transformer import TwoWayTransformer

__all__ = ["ImageEncoderViT", "MaskDecoder", "PromptEncoder", "Sam", "TwoWayTransformer"]
