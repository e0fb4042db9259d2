"""Helpers for all rooms: checks, seeds, files, registries, options. None knows of models."""
