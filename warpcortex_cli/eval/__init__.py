"""Measuring whether the thoughts help, with the product's own engine."""
