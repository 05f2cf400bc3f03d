"""How the embedded model is made: its conversations, its tokenizer, its training."""
