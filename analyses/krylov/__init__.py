"""Eigenvalues of symmetric matrices that only multiply: no model, no loss."""
