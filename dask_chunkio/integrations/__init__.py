"""Integrations of other packages, one module for each package; only that module imports the package."""
