"""The torture chamber: break a run in every way we know, and hold what is left against what was promised.

``python -m tests.faults CAMPAIGN...`` from the root of a checkout; ``--help`` lists the campaigns.
"""
