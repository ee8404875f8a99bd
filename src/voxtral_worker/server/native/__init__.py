"""The documented dialect: two channels, numbered messages and their replay."""
