"""Measuring what the process uses."""
