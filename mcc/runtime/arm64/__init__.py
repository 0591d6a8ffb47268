"""ARM64 without a phone, and the runner that a phone gets: what is fetched, built and counted.

`install.py` fetches programs from Debian and the ARM64 build of LiteRT from PyPI into a cache folder;
`build.py` compiles `runner.c` for ARM64; `emulator.py` runs it here with the looks of one of `cores.py`.
"""
