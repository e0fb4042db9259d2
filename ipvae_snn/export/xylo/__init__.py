"""Networks for the Xylo chip."""
