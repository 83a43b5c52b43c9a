"""Files, locks and the side folder; everything that calls the operating system."""
