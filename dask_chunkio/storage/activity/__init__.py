"""Signs that a write is running: an activity lock on one host, leases across hosts."""
