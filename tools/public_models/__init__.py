"""Public architectures, and the toolchain run on each by the zoo."""
