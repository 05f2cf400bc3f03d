"""Work that needs no model: exact tools which Streams use in its place. Nothing here knows the engine."""
