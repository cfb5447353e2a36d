"""The networks of Segment Anything, in torch. State dict keys are those of the released checkpoints.

Dimension letters in this package: B images or prompts, P prompts, N tokens, C channels, M masks per prompt,
(H, W) pixels of an image, (S, S) the model's square input, (h, w) the image embedding.
"""
