"""Debian's adb client and a stand-in phone: what goes wrong is said in one sentence."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mcc.errors import TargetError
from mcc.runtime.android import adb as client
from mcc.runtime.android.phone import Phone as UsedPhone
from tests.runtime.stand_in.fixtures import Plug, Trouble, adb_port, plug

__all__ = ["adb_port", "plug"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(bytes(range(256)) * 2000)
    return path


def test_commands_and_files_go_there_and_back(plug: Plug, file: Path, tmp_path: Path) -> None:
    server = plug()
    phone = client.Adb(client.choose(None))
    assert phone.serial == server.serial
    assert phone.shell("getprop ro.product.model; echo $((6 * 7))") == "Loopback 1\n42\n"
    phone.push([file], "/data/local/tmp")
    assert (server.phone.temporary / file.name).read_bytes() == file.read_bytes()
    phone.pull(f"/data/local/tmp/{file.name}", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


def test_a_failed_command_is_told_with_its_status_and_last_words(plug: Plug) -> None:
    serial = plug().serial
    with pytest.raises(
        TargetError, match=rf"x\.tflite: failed on the Android device {serial} with status 1: .*/none"
    ):
        client.Adb(serial).shell("cat /none", where="x.tflite")


def test_without_adb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(TargetError, match="adb is not installed; Debian and Ubuntu: apt-get install adb"):
        client.choose(None)


def test_without_a_phone(plug: Plug) -> None:
    with pytest.raises(TargetError, match="no Android device is attached; plug a phone in"):
        client.choose(None)
    with pytest.raises(TargetError, match="no Android device ABC is attached; plug a phone in"):
        client.choose("ABC")


def test_several_phones_are_told_apart_by_serial(plug: Plug) -> None:
    first, second = plug().serial, plug().serial
    with pytest.raises(TargetError, match="2 Android devices are attached; name one after a colon") as caught:
        client.choose(None)
    assert first in str(caught.value)
    assert second in str(caught.value)
    assert client.choose(second) == second
    with pytest.raises(TargetError, match="no Android device ABC is attached; there is 127"):
        client.choose("ABC")


@pytest.mark.parametrize(
    ("manners", "state", "sentence"),
    [
        (
            "refuses",
            "unauthorized",
            "has not allowed this computer to use it; unlock the phone and tap Allow",
        ),
        ("silent", "offline", "is offline; plug it in again"),
    ],
)
def test_a_phone_that_cannot_be_used(manners: str, state: str, sentence: str, plug: Plug) -> None:
    serial = plug(manners, state).serial
    for named in (None, serial):
        with pytest.raises(TargetError, match=f"the Android device {serial} {sentence}"):
            client.choose(named)


def test_a_phone_that_asks_for_a_key_gets_one(plug: Plug) -> None:
    assert client.Adb(plug("asks").serial).shell("echo well") == "well\n"


def test_no_space(plug: Plug, file: Path) -> None:
    serial = plug(disk_bytes=100_000).serial
    with pytest.raises(
        TargetError, match=r"copying file\.bin to the .* failed: its storage is full; free some"
    ):
        client.Adb(serial).push([file], "/data/local/tmp")


def test_killed(plug: Plug) -> None:
    serial = plug(trouble=Trouble(kill="sleep 30")).serial
    with pytest.raises(TargetError, match=rf"{serial} was killed by signal 9 \(9: mostly for want of memory"):
        client.Adb(serial).shell("sleep 30")
    with pytest.raises(TargetError, match=rf"{serial} was killed by signal 9"):
        client.Adb(serial).shell("sh -c 'kill -9 $$'")  # the program alone; the shell lives on and reports


def test_unplugged_half_way(plug: Plug, file: Path, tmp_path: Path) -> None:
    serial = plug(trouble=Trouble(unplug="sleep 30")).serial
    with pytest.raises(
        TargetError, match=f"{serial} was unplugged half-way, or its connection broke; plug it in"
    ):
        client.Adb(serial).shell("sleep 30")
    with pytest.raises(TargetError, match=f"{serial} was unplugged half-way"):
        client.Adb(serial).push([file], "/data/local/tmp")
    with pytest.raises(TargetError, match=f"{serial} was unplugged half-way"):
        client.Adb(serial).pull("/data/local/tmp/x", tmp_path / "x")


def test_another_abi(plug: Plug) -> None:
    only32 = {"ro.product.cpu.abi": "armeabi-v7a", "ro.product.cpu.abilist": "armeabi-v7a,armeabi"}
    serial = plug(
        properties=only32 | dict.fromkeys(("ro.product.name", "ro.product.model", "ro.product.device"), "x")
    ).serial
    with pytest.raises(
        TargetError, match=f"{serial} runs armeabi-v7a, armeabi, and the runner is built for arm64"
    ):
        _ = UsedPhone(serial).facts


def test_what_arrives_damaged_is_noticed(plug: Plug, file: Path) -> None:
    serial = plug(trouble=Trouble(corrupt=True)).serial
    phone = UsedPhone(serial)
    with pytest.raises(TargetError, match=rf"file\.bin did not arrive whole on the Android device {serial}"):
        phone.install("test", [file])
    phone.leave()


def test_programs_are_pushed_once_and_removed_with_what_a_killed_process_left(plug: Plug, file: Path) -> None:
    server = plug()
    phone, temporary = UsedPhone(server.serial), server.phone.temporary
    machine = Path(phone.folder).name.split("-")[1]
    ours, others = (
        temporary / f"mcc-{machine}-4194305",
        temporary / "mcc-zzzz-1",
    )  # no process has such a number
    ours.mkdir()
    others.mkdir()
    folders = {phone.install("test", [file]) for _ in range(3)}
    assert len(folders) == 1
    assert sum("sha256sum" in line for line in server.phone.commands) == 1
    assert server.phone.local(f"{folders.pop()}/file.bin").read_bytes() == file.read_bytes()
    assert not ours.exists()
    phone.leave()
    assert list(temporary.iterdir()) == [others]


def test_one_queue_for_each_phone(plug: Plug) -> None:
    """Two users of one phone wait for each other; users of two phones do not."""
    first, second = plug().serial, plug().serial
    order: list[str] = []
    waiting = UsedPhone(first)  # as another process would have it

    def use() -> None:
        with waiting.queue():
            order.append("waited")

    with UsedPhone(first).queue(), UsedPhone(second).queue():
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(timeout=0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "waited"]


@pytest.mark.slow
def test_a_warm_phone_is_left_to_cool(plug: Plug, file: Path) -> None:
    server = plug()
    phone = UsedPhone(server.serial)
    folder = phone.install("test", [file])
    assert phone.call(folder, "cool 60 39000") == "0\n"
    for status, degrees in ((3, 31_000), (0, 52_000), (6, 90_000)):
        server.phone.set_thermal(status, degrees)
        assert phone.call(folder, "cool 1 39000") == "1\n"  # as long as it may, and no longer
    server.phone.set_thermal(0, 38_000)
    assert phone.call(folder, "cool 60 39000") == "0\n"
    phone.leave()
