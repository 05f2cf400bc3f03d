"""Training LoRA adapters for the River or a role out of conversations, through peft and torch."""
