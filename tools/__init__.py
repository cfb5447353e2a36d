"""Programs for datasets and models: ``python -m tools.VERB``."""
