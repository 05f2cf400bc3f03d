"""What the terminal shows and reads: a subscriber of the engine's events."""
