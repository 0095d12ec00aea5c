"""Evolve model-merge recipes: Japanese math LLMs and Japanese VLMs from published models."""

__version__ = "0.1.0"
