"""What all three packages stand on."""
