"""The Prism: the one loaded model that every agent runs on."""
