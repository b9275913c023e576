"""HDF5 and nothing else: sealed files, codecs, guarded reading, atomic and background writing."""
