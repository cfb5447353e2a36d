"""Sections of settings, one file each, and what checks them. `sam_engine.config` puts them together."""
