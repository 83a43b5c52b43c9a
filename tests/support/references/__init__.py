"""Readers of references."""
