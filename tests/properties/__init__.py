"""Properties that hold for whatever comes: a right answer, or a refusal in one sentence."""
