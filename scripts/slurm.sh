#!/bin/sh
# Slurm on one machine, to try jobs before a cluster runs them. Debian 12: slurmctld, slurmd and munge without systemd, as root.
#
#   scripts/slurm.sh start [CPUS]   a node of so many processors (8), whatever the machine has; installs what is missing
#   scripts/slurm.sh stop           ends the three daemons, and every job
#
# The configuration is /etc/slurm/slurm.conf; what was there is kept as slurm.conf.before, and put back by stop. Logs and state are in /var/{log,lib,spool}/slurm*.
set -eu

conf=/etc/slurm/slurm.conf
pids=/run/lowrank-slurm

start() {
  cpus=${1:-8}
  if pgrep -x slurmctld >/dev/null || pgrep -x slurmd >/dev/null; then
    echo "Slurm runs here already: scripts/slurm.sh stop ends what this script started" >&2
    exit 1
  fi
  for tool in slurmctld slurmd srun munged; do
    command -v "$tool" >/dev/null && continue
    apt-get install -y --no-install-recommends slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libpmi2-0
    break
  done
  [ ! -e "$conf" ] || grep -q '^ClusterName=lowrank$' "$conf" || cp "$conf" "$conf.before"
  host=$(hostname -s)
  mkdir -p /etc/slurm /var/log/slurm /var/lib/slurm/slurmctld /var/spool/slurmd "$pids"
  # Processors are overridden: tasks share those of the machine. Without cgroups, which a container often may not write.
  cat >"$conf" <<CONF
ClusterName=lowrank
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
SlurmctldParameters=enable_configless
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SlurmctldPidFile=$pids/slurmctld.pid
SlurmdPidFile=$pids/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10
CONF
  mkdir -p /run/munge
  chown munge:munge /run/munge
  if ! pgrep -x munged >/dev/null; then
    su -s /bin/sh munge -c /usr/sbin/munged
    touch "$pids/munged"
  fi
  slurmctld
  slurmd
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ "$(sinfo -h -o %T -p main 2>/dev/null)" != idle ] || exec sinfo
    sleep 1
  done
  echo "the node is not ready; see /var/log/slurm" >&2
  exit 1
}

stop() {
  [ -e "$pids/slurmctld.pid" ] || exit 0
  scancel -u root 2>/dev/null || true
  for daemon in slurmd slurmctld; do
    [ ! -e "$pids/$daemon.pid" ] || kill "$(cat "$pids/$daemon.pid")" 2>/dev/null || true
  done
  [ ! -e "$pids/munged" ] || kill "$(cat /run/munge/munged.pid)" 2>/dev/null || true
  rm -rf "$pids"
  [ ! -e "$conf.before" ] || mv "$conf.before" "$conf"
}

case "${1:-}" in
  start | stop) "$@" ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
