"""The one loop of all sharpness-aware optimizers and its parts."""
