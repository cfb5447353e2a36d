"""Other people's datasets, one file for each format, reading and writing."""
