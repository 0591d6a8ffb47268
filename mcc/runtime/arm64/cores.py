"""Cores that can be emulated: their identification, and the models of their cycles.

XNNPACK (through the library cpuinfo) chooses kernels by the part number in /proc/cpuinfo and by the features
that the processor reports. qemu 7.2 supports the Cortex-A53 and A76; other cores are emulated by one with the
same instruction set under their own part number.
"""

from __future__ import annotations

from dataclasses import dataclass

ARMV8_0 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
ARMV8_2 = ARMV8_0 + " atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
ARMV9_0 = ARMV8_2 + " sha3 asimdfhm uscat ilrcpc flagm sb ssbs dcpodp flagm2 frint i8mm bf16"


@dataclass(frozen=True)
class Core:
    """A processor core of a phone.

    Attributes:
        name: Name in a target's option.
        title: Name in words.
        part: Arm's part number in /proc/cpuinfo (MIDR_EL1, bits 15 to 4).
        features: Features in Linux's names.
        qemu_cpu: Value of qemu's `-cpu`.
        llvm_cpu: Value of llvm-mca's `-mcpu`: LLVM's scheduling model of this core, or of the server core
            derived from it, which Arm documents alike.
    """

    name: str
    title: str
    part: int
    features: str
    qemu_cpu: str
    llvm_cpu: str

    def cpuinfo(self) -> str:
        """/proc/cpuinfo of a phone with one such core."""
        return (
            f"processor\t: 0\nBogoMIPS\t: 48.00\nFeatures\t: {self.features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: 0x{self.part:03x}\nCPU revision\t: 0\n\n"
        )


CORES = {
    core.name: core
    for core in (
        Core("a53", "Cortex-A53 (2014, small, no dot product)", 0xD03, ARMV8_0, "cortex-a53", "cortex-a53"),
        Core("a55", "Cortex-A55 (2017, small)", 0xD05, ARMV8_2, "cortex-a76", "cortex-a55"),
        Core("a76", "Cortex-A76 (2018, big)", 0xD0B, ARMV8_2, "cortex-a76", "neoverse-n1"),
        Core("x1", "Cortex-X1 (2020, largest)", 0xD44, ARMV8_2, "cortex-a76", "neoverse-v1"),
        Core("a715", "Cortex-A715 (2022, big)", 0xD4D, ARMV9_0, "max,sve=off,sme=off", "neoverse-n2"),
    )
}
