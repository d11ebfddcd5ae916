#!/bin/sh
# Machines of one cluster on this one, to measure what a network costs: network namespaces with names and addresses of their own, and
# TCP between them, limited in rate (tc tbf) and delayed (wire.py). Linux, as root, with iproute2, Python and an MPI.
#
#   bench/network.sh up N [RATE] [DELAY]     N machines lowrank0… at 10.77.0.1…; RATE as tc has it (1gbit), DELAY in seconds (0.001)
#   bench/network.sh run MPI N P COMMAND…    COMMAND on N machines with P processes each; MPI is openmpi or mpich
#   bench/network.sh down                    removes them
#
# bench/reduce.ts under `run` measures sums alone; `lowrank train` measures steps.
set -eu

self=$(readlink -f "$0")
pid=/tmp/lowrank-wire.pid
names() { ip netns list | sed -n 's/^\(lowrank[0-9]*\).*/\1/p'; }

up() {
  rate=${2:-1gbit} delay=${3:-0.001}
  rm -f /tmp/lowrank-wire.out
  python3 "$(dirname "$self")/wire.py" "$1" "$delay" >/tmp/lowrank-wire.out 2>&1 &
  echo $! >$pid
  until grep -qs ready /tmp/lowrank-wire.out; do sleep 0.1; done
  i=0
  while [ "$i" -lt "$1" ]; do
    name=lowrank$i
    ip netns add $name
    ip link set $name netns $name
    ip -n $name link set $name name eth0 mtu 9000
    ip -n $name link set lo up
    ip -n $name address add "10.77.0.$((i + 1))/24" dev eth0
    ip -n $name link set eth0 up txqueuelen 10000
    # What leaves a machine is limited: both directions at once, as a network card does.
    tc -n $name qdisc add dev eth0 root tbf rate "$rate" burst 64k limit 64m
    i=$((i + 1))
  done
}

down() {
  for name in $(names); do ip netns delete "$name"; done
  [ ! -e $pid ] || { kill "$(cat $pid)" 2>/dev/null || true; rm -f $pid; }
}

# What mpirun calls in place of ssh: options, the address, the command.
agent() {
  while [ "${1#-}" != "$1" ]; do shift; done
  machine=lowrank$((${1##*.} - 1))
  shift
  exec ip netns exec "$machine" unshare --uts sh -c 'hostname "$0"; exec sh -c "$*"' "$machine" "$@"
}

run() {
  mpi=$1 n=$2 p=$3
  shift 3
  hosts=$(i=1; while [ "$i" -le "$n" ]; do printf '10.77.0.%s:%s,' "$i" "$p"; i=$((i + 1)); done)
  hosts=${hosts%,}
  printf '#!/bin/sh\nexec %s agent "$@"\n' "$self" >/tmp/lowrank-agent.$$
  chmod +x /tmp/lowrank-agent.$$
  trap 'rm -f /tmp/lowrank-agent.$$' EXIT
  case $mpi in
    openmpi)
      start="mpirun.openmpi ${OPENMPI_OPTIONS:-} --allow-run-as-root --oversubscribe --bind-to none --host $hosts -n $((n * p))
        --mca plm_rsh_agent /tmp/lowrank-agent.$$ --mca plm rsh --mca oob tcp --mca oob_tcp_if_include eth0 --mca pml ob1
        --mca btl tcp,self,vader --mca btl_tcp_if_include eth0"
      ;;
    mpich)
      start="mpirun.mpich -hosts $hosts -n $((n * p)) -launcher rsh -launcher-exec /tmp/lowrank-agent.$$ -iface eth0
        -genv UCX_TLS tcp,self -genv UCX_NET_DEVICES eth0"
      ;;
  esac
  ip netns exec lowrank0 unshare --uts sh -c 'hostname lowrank0; exec "$@"' sh $start "$@"
}

case "${1:-}" in
  up | down | run | agent) "$@" ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
