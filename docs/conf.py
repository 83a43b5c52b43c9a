"""Sphinx's settings: sphinx-build -W -b html docs build/html."""

import dask_chunkio

project = "dask_chunkio"
version = release = dask_chunkio.__version__
extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
myst_heading_anchors = 3
numpydoc_show_class_members = False
autodoc_typehints = "none"
