"""Generative models whose inference is a spike train."""
