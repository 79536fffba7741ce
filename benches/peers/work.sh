# Sourced by each run.sh, with its arguments: `root` is the repository, `work` the folder that the
# first argument names, made if need be; the other arguments stay. Without arguments prints how
# run.sh is called.

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../../.." && pwd)
if [ $# -eq 0 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2
fi
mkdir -p "$1"
work=$(CDPATH='' cd -- "$1" && pwd)
shift
