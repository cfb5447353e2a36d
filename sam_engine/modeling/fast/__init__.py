"""The decoder's fast twins: what prompts share once, the rest in large products and compiled loops."""
