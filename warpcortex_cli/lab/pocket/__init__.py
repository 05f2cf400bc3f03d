"""The making of the embedded model: its conversations, tokenizer and training."""
