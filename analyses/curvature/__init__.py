"""Questions about the Hessian and its relatives."""
