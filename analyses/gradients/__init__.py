"""Questions about gradients and their perturbations."""
