"""The staged check: every local operation of a gradient computation, judged from the witnesses on both sides of it."""
