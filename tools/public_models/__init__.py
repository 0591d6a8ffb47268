"""Public architectures, and the chain that the zoo runs on each."""
