"""A phone over adb: what `litert-android` and `ort-android` share. Start reading at `target.py`."""
