"""The commands of the command line, one a file; each has a `main(arguments)`."""
