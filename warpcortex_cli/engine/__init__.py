"""The engine: one step loop that owns the model, and the agents whose rows it packs."""
