"""Numbers that the formulas of activations and of their derivatives share."""

SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805
"""Klambauer et al. 2017, Self-Normalizing Neural Networks."""

MISH_LINEAR = 20.0
"""tanh(softplus(x)) rounds to 1 beyond it, also in float64."""
