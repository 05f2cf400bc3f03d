"""`pocket`, the small language model that ships inside the package, and the world that it knows."""
