"""The speaking floor: text becomes speech."""
