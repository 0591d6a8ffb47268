"""Phones over adb: common parts of `litert-android` and `ort-android`. Start reading at `target.py`."""
