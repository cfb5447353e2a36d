"""A dataset in the browser: a local server over a dataset directory, and the pages it serves."""
