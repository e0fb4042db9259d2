"""Integer networks for the Xylo chip."""
