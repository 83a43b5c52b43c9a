"""Copies of whole files, with other chunks and filters."""
