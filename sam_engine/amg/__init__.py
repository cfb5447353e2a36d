"""The mask generator, between a network and records: search a grid of prompts, filter, measure, draw."""
