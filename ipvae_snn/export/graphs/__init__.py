"""NIR graphs: written from models and networks, run, calibrated, and read back."""
