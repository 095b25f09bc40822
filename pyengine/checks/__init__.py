"""One check a file: each takes a recorded step and the per-loss evidence, and returns a finding; none prints."""
