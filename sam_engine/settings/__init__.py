"""What all settings share. The settings themselves are in `sam_engine.config` and beside their consumers."""
