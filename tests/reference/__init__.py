"""Slow twins: loops written from the papers, one number at a time."""
