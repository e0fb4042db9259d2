"""Helpers for all rooms: checks, seeds, files, registries, options; no neurons, no models."""
