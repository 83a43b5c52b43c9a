"""Records of a write kept beside the target: manifest, journal and redo log."""
