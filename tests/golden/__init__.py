"""What other tools computed, stored: inputs, settings, what was drawn, outputs. README.md says who made the files."""
