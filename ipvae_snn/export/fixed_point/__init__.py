"""Fixed-point inference, for chips with graded spikes."""
