"""Measurements of raycycle against plain tools: one module for each, run with `python -m bench NAME`."""
