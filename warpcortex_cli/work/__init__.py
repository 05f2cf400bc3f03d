"""Exact tools that Streams use instead of the model. Nothing here imports the engine."""
