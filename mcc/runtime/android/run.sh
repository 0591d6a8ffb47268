#!/bin/sh
# Runs this kit on an Android phone over adb, and leaves results.json beside this script: send that file back.
#
#   sh run.sh [SERIAL]        SERIAL: as `adb devices` lists it, where several phones are attached
#
# On Windows, type the four adb commands below by hand, without `$phone`.
set -eu
cd "$(dirname "$0")"
command -v adb > /dev/null || { echo "adb is not installed: get Android's platform tools" >&2; exit 1; }
phone=${1:+-s $1}
adb $phone get-state > /dev/null || { echo "no phone is ready: see what 'adb devices' says" >&2; exit 1; }
trap 'adb $phone shell rm -rf /data/local/tmp/mcc-kit' EXIT
echo "copying the kit to the phone"
adb $phone push phone /data/local/tmp/mcc-kit > /dev/null
adb $phone shell sh /data/local/tmp/mcc-kit/kit.sh
adb $phone pull /data/local/tmp/mcc-kit/results.json results.json > /dev/null
echo "done: send results.json back"
