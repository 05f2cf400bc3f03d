"""GGUF files, llama.cpp's format of models: their header, weights, configuration and tokenizer."""
