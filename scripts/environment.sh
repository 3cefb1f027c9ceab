# Sourced by the other scripts, from the project's directory.
# environment [--no-project] DIRECTORY REQUIREMENTS… creates a virtual environment with the pinned packages and the
# project itself (not with --no-project). It does nothing if the environment is up to date with the pins.

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "lakejobs needs Python 3.11 to 3.13, but none was found. Install it, or set PYTHON=/path/to/python" >&2
    return 1
}

environment() {
    local project=setup.cfg
    if [ "$1" = --no-project ]; then
        project=
        shift
    fi
    local directory=$1 python file missing=()
    shift
    for file in "$@"; do
        [ "$(cksum "$file" $project)" = "$(cat "$directory/.pins/$(basename "$file")" 2>/dev/null)" ] || missing+=("$file")
    done
    [ ${#missing[@]} -eq 0 ] && return
    python=$(find_python) || return 1
    echo "Setting up $directory (only once; a minute or two) ..." >&2
    if command -v uv >/dev/null; then
        [ -x "$directory/bin/python" ] || uv venv --quiet --no-python-downloads --python "$python" "$directory"
        uv pip install --quiet --python "$directory/bin/python" "${missing[@]/#/--requirements=}"
        [ -z "$project" ] || uv pip install --quiet --python "$directory/bin/python" --no-deps --editable .
    else
        # An environment created by uv lacks pip.
        "$directory/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$directory"
        local pip=("$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-warn-script-location)
        "${pip[@]}" "${missing[@]/#/--requirement=}"
        [ -z "$project" ] || "${pip[@]}" --no-deps --editable .
    fi
    mkdir -p "$directory/.pins"
    for file in "${missing[@]}"; do cksum "$file" $project >"$directory/.pins/$(basename "$file")"; done
}

# Checks format, lint and types, all three even if one fails. Changes nothing.
look() {
    local status=0
    ruff format --check . || status=1
    ruff check . || status=1
    mypy || status=1
    [ $status = 0 ] || echo "scripts/check --fix fixes the format and some lint errors." >&2
    return $status
}

# Finds a browser for the tests: the system's Chromium, or else Debian's package, or else Playwright's download.
browser() {
    command -v chromium >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing Chromium for the browser tests ..." >&2
        apt-get update -qq >/dev/null || true
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 &&
            command -v chromium >/dev/null && return
    fi
    .venv/bin/playwright install chromium >&2 && return
    echo "The browser tests need Chromium, which could not be installed. Install your system's chromium package," \
        'or skip these tests: .venv/bin/python -m pytest -m "not browser"' >&2
    return 1
}
