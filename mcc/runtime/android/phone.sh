#!/system/bin/sh
# Commands of mcc on a phone, in Android's own shell: constant facts, the present state, cooling down, running a
# program on given cores, and readings of the battery's power meanwhile.
#
#   sh phone.sh facts                            key=value lines
#   sh phone.sh state                            key=value lines
#   sh phone.sh cool SECONDS MILLIDEGREES        wait that long at most; prints the seconds waited
#   sh phone.sh on CORES SECONDS PROGRAM...      CORES: a mask in hex as for taskset, 0 for any; status 124 when
#                                                it took longer than that
#   sh phone.sh turn SECONDS MILLIDEGREES CORES SECONDS PROGRAM...     cool, then on
#   sh phone.sh drain REST CORES SECONDS PROGRAM...   the battery's readings for REST seconds and while PROGRAM runs,
#                                                as lines that begin with rest or busy, besides those of PROGRAM

cpus=/sys/devices/system/cpu
battery=/sys/class/power_supply/battery

# value FILE: its first line; nothing if this user may not read it.
value() { [ -r "$1" ] && read -r line < "$1" 2> /dev/null && echo "$line"; }

facts() {
    for name in ro.product.manufacturer ro.product.model ro.soc.manufacturer ro.soc.model ro.board.platform \
        ro.build.version.release ro.build.version.sdk ro.product.cpu.abi ro.product.cpu.abilist \
        ro.boot.qemu ro.kernel.qemu; do
        echo "$name=$(getprop $name)"
    done
    for core in $cpus/cpu[0-9]*; do
        echo "khz.${core##*cpu}=$(value $core/cpufreq/cpuinfo_max_freq)"
    done
    echo "features=$(grep -m 1 -i '^features' /proc/cpuinfo | cut -d : -f 2)"
}

# Android's thermal status: 0 none, 1 light, 2 moderate, 3 severe, 4 critical, 5 emergency, 6 shutdown.
thermal() { dumpsys thermalservice 2> /dev/null | sed -n 's/^ *Thermal Status: *//p' | head -n 1; }

# The hottest of the processors' thermal zones, in millidegrees; of all zones if none is a processor's.
hottest() {
    found=$(zones | grep -i -e '^cpu' -e '^cluster' -e '^soc' -e '^mtktscpu')
    [ -n "$found" ] || found=$(zones)
    echo "$found" | cut -d ' ' -f 2 | sort -n | tail -n 1
}

zones() {
    for zone in /sys/class/thermal/thermal_zone*; do
        degrees=$(value $zone/temp)
        [ -n "$degrees" ] && echo "$(value $zone/type) $degrees"
    done
}

state() {
    echo "thermal=$(thermal)"
    echo "hottest=$(hottest)"
    for core in $cpus/cpu[0-9]*; do
        echo "governor.${core##*cpu}=$(value $core/cpufreq/scaling_governor)"
        echo "current_khz.${core##*cpu}=$(value $core/cpufreq/scaling_cur_freq)"
    done
    echo "load=$(value /proc/loadavg | cut -d ' ' -f 1)"
    echo "battery_microamperes=$(value $battery/current_now)"
    echo "battery_microvolts=$(value $battery/voltage_now)"
    echo "battery_percent=$(value $battery/capacity)"
}

# Ready when Android reports no thermal limit and the processors are no hotter than allowed.
ready() {
    status=$(thermal)
    [ "${status:-0}" = 0 ] || return 1
    degrees=$(hottest)
    [ -z "$degrees" ] || [ "$2" = 0 ] || [ "$degrees" -le "$2" ]
}

cool() {
    waited=0
    until ready "$@" || [ $waited -ge "$1" ]; do
        sleep 1
        waited=$((waited + 1))
    done
    echo $waited
}

on() {
    cores=$1; limit=$2; shift 2
    if command -v timeout > /dev/null; then set -- timeout "$limit" "$@"; fi
    if [ "$cores" = 0 ]; then "$@"; else taskset "$cores" "$@"; fi
}

# In one call, because each costs some ten milliseconds; the seconds waited are a line of JSON like the runner's.
turn() {
    echo "{\"cooled_s\": $(cool "$1" "$2")}"
    shift 2
    on "$@"
}

# Microamperes and microvolts, ten times a second.
power() {
    for _ in $(seq $(($1 * 10))); do
        echo "$(value $battery/current_now) $(value $battery/voltage_now)"
        sleep 0.1
    done
}

# The readings go through a file: two writers of one pipe would interleave parts of long lines.
drain() {
    rest=$1; shift
    power $rest | sed 's/^/rest /'
    power 600 > power.txt &
    sampler=$!
    on "$@"
    status=$?
    kill $sampler
    wait $sampler 2> /dev/null
    sed 's/^/busy /' power.txt
    rm power.txt
    return $status
}

# The cores of the highest clock as a mask in hex; 0 if that may not be read.
fastest() {
    most=0 mask=0
    for core in $cpus/cpu[0-9]*; do
        khz=$(value $core/cpufreq/cpuinfo_max_freq)
        [ "${khz:-0}" -ge $most ] || continue
        [ "${khz:-0}" = $most ] || { most=$khz mask=0; }
        [ $most = 0 ] || mask=$((mask | 1 << ${core##*cpu}))
    done
    printf '%x\n' $mask
}

# This file is also sourced for its functions only: by the kit's script, and by a shell that is given the text.
case ${0##*/} in
    phone.sh)
        case ${1:-} in
            facts | state | cool | on | turn | drain) "$@" ;;
            *) echo "phone.sh: unknown command ${1:-}" >&2; exit 2 ;;
        esac ;;
esac
