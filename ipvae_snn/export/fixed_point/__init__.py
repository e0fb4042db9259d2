"""Inference in integers only, for chips with graded spikes."""
