"""Displays: what jitseq knows of a model as HTML with drawings, and as text.

Graphs, reports, profiles, memory plans and histories enter; self-contained markup and
aligned text of at most 100 columns leave. Invariant: markup has no scripts, no ids and
no address of anything outside of itself, and its colours follow the page around it.
Nothing is imported here: objects that show themselves import what they need.
"""
