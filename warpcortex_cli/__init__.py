"""warpcortex: one shared model, a River and its Streams, talking in the terminal.

Importing the package is cheap: torch and transformers are imported where a model is loaded.
"""

__version__ = "0.1.0"
