"""`warpcortex serve`: an OpenAI-compatible server. Every client is a conversation on one Stepper."""
