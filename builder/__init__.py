"""What is made before the worker runs: its image's dependencies and its embedded model."""
