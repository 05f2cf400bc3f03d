"""`pocket`, the small language model that ships inside the package, and how it was made."""
