"""Loss landscapes of PyTorch models: experiments, training into HDF5, and the loss as a function of its parameters."""
