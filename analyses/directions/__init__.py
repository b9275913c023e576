"""Directions in weight space, by name, and the momentum from whatever the caller has."""
