"""Read-only examination of targets: status, verification, and a probe of a file system."""
