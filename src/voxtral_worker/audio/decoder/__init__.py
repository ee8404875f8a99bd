"""Decodes untrusted audio files, in processes that can do nothing else."""
