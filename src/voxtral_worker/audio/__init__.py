"""Turns bytes of audio into 16 kHz samples and frames. Imports nothing of the floors above."""
