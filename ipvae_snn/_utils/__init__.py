"""What every room may use: checks, seeds, files. Nothing here knows of neurons or models."""
