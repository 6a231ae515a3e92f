#!/usr/bin/env bash
# Runs in the launcher pod: checks folders and hosts, starts the ranks by mpirun, and passes SIGTERM to them.
#
# Arguments: the options of mrcnn_train. Environment: PROCESSES (all ranks), RUN_DIR, SSH_PORT and PREFLIGHT from the
# chart, OMPI_MCA_orte_default_hostfile (lines "HOST slots=N") from the MPI operator.
# Exit code: 2 if something is wrong before the start, 143 after SIGTERM, else that of mpirun.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
fail() { printf 'launch.sh: %s\n' "$*" >&2; exit 2; }

hostfile=${OMPI_MCA_orte_default_hostfile:?is set by the MPI operator}

stopping=
trap 'stopping=yes; "$here/stop.sh"' TERM

# A checkpoint is written under another name and renamed. On a file system that cannot rename (Mountpoint for S3), the
# run would fail at its first checkpoint.
mkdir -p "$RUN_DIR" || fail "run.dir=$RUN_DIR cannot be made: let user $(id -u) write there, or choose another folder"
probe=$(mktemp "$RUN_DIR/.rename.XXXXXX") || fail "run.dir=$RUN_DIR cannot be written to by user $(id -u)"
mv "$probe" "$probe.moved" || fail "run.dir=$RUN_DIR lies on a file system that cannot rename: choose another volume"
rm "$probe.moved"

# The names of new pods take a moment to reach the cluster's DNS.
wait_for_name() {
  local tries
  for ((tries = 0; tries < ${NAME_TRIES:-60}; tries++)); do
    getent hosts "$1" >/dev/null && return
    sleep 2
  done
  fail "host $1 of $hostfile has no address after $((tries * 2)) s: is its pod running?"
}
while read -r host _; do wait_for_name "$host"; done <"$hostfile"

# By full path: on the other hosts ssh sets a short PATH, and mpirun finds its daemon beside itself.
mpirun=$(command -v mpirun) || fail "no mpirun in the image"
python=$(command -v python) || fail "no python in the image"
# The host keys of the pods are made when they start, so checking them is useless. The key of the job decides who may
# log in.
start=("$mpirun" -np "$PROCESSES" --map-by slot --bind-to none
  --mca plm_rsh_args "-p $SSH_PORT -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectionAttempts=10"
  --mca pml ob1 --mca btl "^openib" --mca btl_tcp_if_exclude "lo,docker0")
# The only variables that ranks get; no tokens or keys.
for name in PATH LD_LIBRARY_PATH PYTHONPATH ${RANK_ENVIRONMENT:-}; do
  if [ -v "$name" ]; then start+=(-x "$name"); fi
done

if [ "$PREFLIGHT" = true ]; then
  "${start[@]}" "$python" -m mrcnn_train.preflight "$@" || fail "preflight failed, see above"
fi
[ -z "$stopping" ] || exit 143

"${start[@]}" "$python" -m mrcnn_train "$@" &
job=$!
code=0
while kill -0 "$job" 2>/dev/null; do  # a trap ends `wait` before the job has ended
  code=0
  wait "$job" || code=$?
done
if [ "$code" -ne 0 ] && [ -n "$stopping" ]; then exit 143; fi
exit "$code"
