"""What the checks and the tolerances of others catch, and what they refuse wrongly, on the same cases."""
