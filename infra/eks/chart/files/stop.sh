#!/usr/bin/env bash
# Sends SIGTERM to the ranks of RUN_DIR on this machine. One rank is enough: all save and end after the same step.
# With --wait it returns when they have ended.
set -euo pipefail

ranks() {
  local file words
  for file in /proc/[0-9]*/cmdline; do
    # The process may have ended.
    mapfile -d '' -t words 2>/dev/null <"$file" || continue
    [[ ${words[0]:-} == *python* && " ${words[*]:1} " == *" -m mrcnn_train "*" run.dir=$RUN_DIR "* ]] || continue
    file=${file#/proc/}
    printf '%s\n' "${file%/cmdline}"
  done
}

mapfile -t found < <(ranks)
[ ${#found[@]} -eq 0 ] || kill -TERM "${found[@]}" 2>/dev/null || true
[ "${1:-}" != --wait ] || while [ -n "$(ranks)" ]; do sleep 1; done
