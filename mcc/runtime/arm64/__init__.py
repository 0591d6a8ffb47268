"""ARM64 emulation, and the runner for phones: installation, compilation and counting.

`install.py` fetches programs from Debian and the ARM64 build of LiteRT from PyPI into a cache folder;
`build.py` compiles `runner.c` for ARM64; `emulator.py` runs it here as on one of the cores of `cores.py`.
"""
