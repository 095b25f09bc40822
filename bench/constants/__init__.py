"""The constants of the rounding model that no theorem gives, measured on every float32: ``python bench/constants``."""
