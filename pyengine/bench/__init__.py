"""The peers' benchmark: per-loss and summed gradients by every framework that is installed, beside the engine's.

A contestant is timed only after its answer agreed with the float64 reference. Each lives in a process of its own; they
are asked in turn, so that what happens on the machine happens to all.
"""
