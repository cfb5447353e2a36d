"""From sources to batches: select, pack or stream, mix, cut, paste, prompt."""
