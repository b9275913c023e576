"""Questions about how the loss rises around a point."""
