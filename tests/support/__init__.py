"""What the tests share: sources, ways to start and stop processes, judges of files, and programs that run for hours."""
