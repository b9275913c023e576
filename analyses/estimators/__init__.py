"""Stochastic estimates of what a matrix that only multiplies sums to."""
