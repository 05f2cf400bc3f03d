"""Keys and values: immutable segments that many agents read, and the growing tails that one agent owns."""
