"""Speed and memory, measured through the product's own engine."""
