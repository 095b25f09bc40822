"""Renderings of a report. None of them judges: they print what the report holds."""
