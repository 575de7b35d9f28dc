"""The masks of stores and delta files by name, in files and on the command line. No torch."""

RANDOM, MAGNITUDE, BREADCRUMBS = MASKS = ("random", "magnitude", "breadcrumbs")
DROP_LARGE = 0.01
"""What breadcrumbs drop of the largest unless something else is asked for."""
