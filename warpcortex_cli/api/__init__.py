"""For other programs in Python: `Cortex`, and the plugin of `llm`."""
