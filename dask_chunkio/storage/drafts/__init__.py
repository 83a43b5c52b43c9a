"""Drafts: files that are made by any library, filled in parallel, and get their name when they are complete."""
