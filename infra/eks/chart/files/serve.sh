#!/usr/bin/env bash
# Runs in a worker pod: an ssh server, by which the launcher's mpirun starts the ranks. Needs no root.
#
# Environment: SSH_PORT; HOME/.ssh holds the key that the MPI operator made for this job.
set -euo pipefail
keys=$(mktemp -d)
ssh-keygen -q -t ed25519 -N "" -f "$keys/host_key"
# Files from a Secret belong to root and are readable for all, which StrictModes would refuse.
exec /usr/sbin/sshd -D -e -f /dev/null -p "$SSH_PORT" -h "$keys/host_key" \
  -o PidFile=none -o UsePAM=no -o StrictModes=no -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no \
  -o AuthorizedKeysFile="$HOME/.ssh/authorized_keys"
