"""The torture chamber: break a run in every way we know, and hold what is left against what was promised.

``python -m tests.faults CAMPAIGN...`` from the root of a checkout; ``--help`` lists them. Every victim is the
real program (`pipelines.auto_annotate.run`) in a process of its own; only the model is a fake.
"""
