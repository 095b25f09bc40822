"""Random dense models of every framework through ``pe.verify``: ``python bench/models --help``."""
