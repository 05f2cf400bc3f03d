"""Training LoRA adapters for the River or a role from conversations, with peft and torch."""
