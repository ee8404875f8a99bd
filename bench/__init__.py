"""The benchmarks behind `make bench`, and the demo."""
