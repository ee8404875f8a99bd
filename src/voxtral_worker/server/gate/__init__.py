"""The gate: who may come in, from where, and how much each caller and session may ask for."""
