"""A stand-in for an Android phone: adb's own protocol on loopback, and ARM64 programs under qemu-aarch64.

Debian's unmodified adb client talks to it as it would to a phone's adbd. Commands run in Android's shell
(mksh) with Android's tools (toybox) under PRoot, which gives them Android's paths (`/data/local/tmp`, `/sys`,
`/proc/cpuinfo`) and hands ARM64 programs to qemu-aarch64. Start reading at `phone.py`.
"""

from tests.runtime.stand_in.adb_server import AdbServer
from tests.runtime.stand_in.phone import Phone, Trouble

__all__ = ["AdbServer", "Phone", "Trouble"]
