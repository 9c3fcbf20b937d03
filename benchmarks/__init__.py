"""Timings of the fast methods against plain ones, side by side in one run: ``make bench``."""
