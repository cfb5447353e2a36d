"""The letters of `tools.bench.gpu_proof`, and what stands in for what a bare machine lacks."""
