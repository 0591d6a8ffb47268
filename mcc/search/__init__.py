"""Deciding: sensitivities, the space of choices, the solver, and the plan that comes out."""
