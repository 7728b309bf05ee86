"""Formulas that `lower-math` puts in place of transcendental functions, one module per family."""
