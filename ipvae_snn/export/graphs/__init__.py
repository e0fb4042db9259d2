"""NIR graphs: exported from models and networks, run, calibrated, and restored."""
