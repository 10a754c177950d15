"""Comparisons: what two backends compute, and how long contestants take.

`diff` finds the layer at which two backends part, `benchmark` times one model in
several hands. Invariant: neither changes the model, its buffers or the generator of
random numbers, except for what a caller's own training step does.
"""
