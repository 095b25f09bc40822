"""One file a competitor. ``contestant.py`` says what such a file holds."""
