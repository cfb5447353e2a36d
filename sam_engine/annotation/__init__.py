"""Job 1: turn images into a dataset, shard by shard, in this process or on Ray."""
