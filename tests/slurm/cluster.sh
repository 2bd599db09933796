#!/usr/bin/env bash
# A real Slurm of two nodes on this one machine, for tests; needs Debian's slurm-wlm and munge, and root.
#
#   tests/slurm/cluster.sh install    apt-get what is missing
#   eval "$(tests/slurm/cluster.sh env)"   so that sbatch of this shell finds the cluster
#   tests/slurm/cluster.sh up         start it (again: what is left of an old one is taken down first)
#   tests/slurm/cluster.sh down       stop it and remove everything that it wrote
#
# Everything lies in one folder: keys, configuration, state, logs. Nothing of the machine's own Slurm or munge is
# touched; the one line in /etc/hosts, by which the nodes find each other, is marked and taken out again.
set -euo pipefail

home=${CROSSTALK_TEST_CLUSTER:-/run/crosstalk-test-cluster}
mark="# crosstalk test cluster"

install() {
    command -v slurmctld slurmd munged sbatch >/dev/null && return
    apt-get update -qq
    # Without recommended packages and without the daemons being started by their own scripts.
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
}

configure() {
    local host cpus
    host=$(hostname -s)
    cpus=$(nproc)
    # Each node claims twice what there is, so that the jobs of a test can run beside each other. `elsewhere` is a machine
    # that does not exist: for tests of what is refused before anything is submitted.
    cat >"$home/slurm.conf" <<END
ClusterName=crosstalk-test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17000
SlurmUser=root
AuthType=auth/munge
# A requeued job waits for as long as credentials live, 120 s by default.
AuthInfo=socket=$home/munge.socket,cred_expire=20
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool-%n
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd-%n.pid
SlurmctldLogFile=$home/slurmctld.log
SlurmdLogFile=$home/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=3,sched_min_interval=0,bf_interval=3
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
# Until a job is killed after its time limit, or after SIGTERM.
KillWait=20
OverTimeLimit=0
# Finished jobs are forgotten soon, as there is no accounting that would know them.
MinJobAge=300
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=$((cpus * 2)) State=UNKNOWN
NodeName=n3 NodeHostname=elsewhere NodeAddr=127.0.0.1 Port=17003 CPUs=4 Gres=gpu:2 State=DOWN Reason=imaginary
PartitionName=test Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PreemptMode=REQUEUE
PartitionName=elsewhere Nodes=n3 State=UP
END
}

up() {
    down
    mkdir -p "$home/state"
    chmod 755 "$home"
    configure
    grep -qF "$mark" /etc/hosts || echo "127.0.0.1 n1 n2  $mark" >>/etc/hosts
    (umask 077 && head -c 1024 /dev/urandom >"$home/munge.key")
    munged --force --key-file="$home/munge.key" --socket="$home/munge.socket" --pid-file="$home/munged.pid" \
        --seed-file="$home/munge.seed" --log-file="$home/munged.log" --num-threads=2 2>/dev/null
    export SLURM_CONF=$home/slurm.conf
    slurmctld -c
    for node in n1 n2; do slurmd -N "$node"; done
    for _ in $(seq 60); do
        [ "$(sinfo --noheader --nodes=n1,n2 --format=%T 2>/dev/null)" = idle ] && { sinfo; return; }
        sleep 0.5
    done
    echo "the cluster did not come up within 30 s; its logs:" >&2
    tail -n 5 "$home"/*.log >&2
    return 1
}

down() {
    local file pid
    if [ -e "$home/slurm.conf" ]; then
        SLURM_CONF=$home/slurm.conf scancel --user="$(id -un)" 2>/dev/null || true
    fi
    for file in "$home"/slurmd-n1.pid "$home"/slurmd-n2.pid "$home"/slurmctld.pid "$home"/munged.pid; do
        pid=$(cat "$file" 2>/dev/null) || continue
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    done
    # In place: in a container /etc/hosts is a mount that cannot be replaced.
    if grep -qF "$mark" /etc/hosts; then
        grep -vF "$mark" /etc/hosts >"/tmp/hosts.$$" && cat "/tmp/hosts.$$" >/etc/hosts && rm "/tmp/hosts.$$"
    fi
    rm -rf "$home"
}

case ${1:-} in
    install | up | down) "$1" ;;
    env) echo "export SLURM_CONF=$home/slurm.conf" ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
