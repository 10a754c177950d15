"""Ops made of functions that users write: source → term → op and derivatives."""
