"""How the shipped adapters are made: their conversations, and the command that trains them."""
