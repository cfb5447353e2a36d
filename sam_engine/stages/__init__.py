"""The data engine in the stages of the paper: rounds, and a simulated annotator."""
