"""Correct networks by four frameworks, judged: what is refused is a false alarm: ``python bench/fuzz --help``."""
