"""Makes what exists before the worker runs: the image's dependencies and the embedded model."""
