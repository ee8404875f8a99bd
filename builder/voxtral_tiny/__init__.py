"""The recipe of the embedded model: `python -m builder.voxtral_tiny`."""
