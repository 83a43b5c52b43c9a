"""Benchmarks of single steps, which asv compares from commit to commit; see docs/benchmarks.md.

asv runs the files of the working tree against the package of each commit.  A benchmark therefore
uses public names; one that needs internal names imports them in `setup`, and asv skips it for
commits that have other names.
"""
