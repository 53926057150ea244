#!/usr/bin/env bash
# Train the recipe of this kit. Nothing is downloaded, and nothing is written outside the work
# folder and $OUT.
set -euo pipefail

began=$(date +%s)
kit=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-$kit/work}
python=${PYTHON:-python3}

usage() {
    cat <<'TEXT'
usage: OUT=FOLDER ./run.sh [--minutes M] [--state]

  OUT          where weights, log.csv, samples.png and speeds.json go, in files of at most 16 MB
  --minutes M  train for this long; without it, as long as set in the recipe
  --state      also deliver the state of the run, to resume it exactly
  PYTHON       the interpreter, if not python3
  WORK         where packages are unpacked and the run is kept, if not in the kit folder
TEXT
}

fail() {
    echo "run.sh: $1" >&2
    exit 2
}

more=()
while [ $# -gt 0 ]; do
    case $1 in
        --minutes)
            [ $# -gt 1 ] || fail "--minutes needs a number"
            more+=(--minutes "$2")
            shift 2
            ;;
        --state) more+=(--state) && shift ;;
        -h | --help) usage && exit 0 ;;
        *) fail "unknown option '$1'; see --help" ;;
    esac
done
[ -n "${OUT:-}" ] || fail "set OUT to a folder for the results, as in: OUT=/some/folder ./run.sh"
command -v "$python" >/dev/null || fail "there is no $python here; give the interpreter: PYTHON=..."
mkdir -p "$work/site" 2>/dev/null || fail "$work cannot be written; choose another folder: WORK=..."

# A wheel is a ZIP that only has to be unpacked to a folder on the Python path; no pip needed.
"$python" - "$kit" "$work/site" <<'CODE' || exit $?
import importlib.util, json, pathlib, sys, zipfile

kit, site = map(pathlib.Path, sys.argv[1:])
wanted = json.loads((kit / "kit.json").read_text())["python"]
here = "%d.%d" % sys.version_info[:2]
if here != wanted:
    print("run.sh: this kit is for Python %s, but %s is %s; choose another: PYTHON=..."
          % (wanted, sys.executable, here), file=sys.stderr)
    sys.exit(2)
for name in ("torch", "numpy", "scipy", "PIL"):
    if importlib.util.find_spec(name) is None:
        print("run.sh: %s has no %s, which kits do not include; choose another: PYTHON=..."
              % (sys.executable, name), file=sys.stderr)
        sys.exit(2)
try:
    for wheel in sorted(kit.glob("wheels/*.whl")):
        zipfile.ZipFile(wheel).extractall(site)
except (OSError, zipfile.BadZipFile) as error:
    print("run.sh: %s could not be unpacked to %s (%s)" % (wheel.name, site, error),
          file=sys.stderr)
    sys.exit(2)
CODE

export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m denovox.kit.train "$kit" "$work" "$OUT" --began "$began" ${more[@]+"${more[@]}"}
