"""How good a model is on ground truth: prompts, the mask generator, and what its scores are worth."""
