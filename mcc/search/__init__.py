"""Search: sensitivities, the space of choices, and the solver that computes a plan from them."""
