"""Other packages, one module each; a module here imports its package, and nothing else here does."""
