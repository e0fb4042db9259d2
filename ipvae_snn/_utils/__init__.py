"""Helpers for all rooms: checks, seeds, files, registries, options. They know no neurons or models."""
