"""The loss as one function of one vector: values, gradients, curvature."""
