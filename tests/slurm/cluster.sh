# SPDX-License-Identifier: Apache-2.0
# A real Slurm of several nodes on one machine, for tests. Sourced; cluster_stop belongs into the
# caller's EXIT trap.
#
#     cluster_start NODES      munged, slurmctld and a slurmd for each node; returns once all are idle
#     cluster_kill_node K      node K loses power: everything on it is gone at once
#     cluster_boot_node K      and comes back
#     cluster_kill_controller  slurmctld is killed; cluster_start_controller starts it again with what
#                              it had written down
#     cluster_stop             ends every job and daemon that cluster_start began, and waits for them
#
# Everything lies in one private directory, $cluster. All daemons listen on loopback only, on ports
# that were free. Each node is a set of namespaces: its own host name (so that MPI sees several
# hosts), /etc/hosts, /dev/shm and processes. Its first process is a shell around slurmd; when that is
# killed the kernel ends all others of the node, which is how a node is lost here, and how nothing is
# left behind at the end. Where namespaces are not permitted (or MEMO_SLURM_NAMESPACES=no) all nodes
# carry this machine's name, and cluster_has_namespaces is false.
# shellcheck shell=bash

cluster=''
cluster_nodes=0
cluster_pids=()          # of munged and slurmctld
cluster_node_pids=()     # [K] what holds node K: unshare, or slurmd itself
cluster_namespaces=()    # the words in front of a node's first process
cluster_waits=(timeout -k 2 20) # no client command waits longer for a daemon
cluster_bound=(setpriv --pdeathsig KILL) # a daemon does not outlive the test, however that ends

PATH=$PATH:/usr/sbin:/sbin # where Debian has daemons

cluster_skip() {
    printf 'skipped: %s\n' "$*"
    exit 77
}

cluster_has_namespaces() { [ ${#cluster_namespaces[@]} -gt 0 ]; }

cluster_require() {
    local command
    for command in munged munge slurmctld slurmd sbatch mpirun setpriv; do
        command -v "$command" >/dev/null ||
            cluster_skip "$command is not installed (Debian: slurm-wlm, munge, openmpi-bin, util-linux)"
    done
    # Slurm resolves addresses only of families for which the machine has one that is not loopback's
    # first: where 127.0.0.1 is the only address, not even that resolves.
    getent ahostsv4 127.0.0.1 >/dev/null ||
        cluster_skip "127.0.0.1 does not resolve here: as root, ip addr add 127.0.0.2/8 dev lo"
}

cluster_find_namespaces() {
    local candidate=(unshare --uts --mount --pid --fork --mount-proc --kill-child=KILL)
    [ "$(id -u)" -eq 0 ] || candidate+=(--user --map-current-user --keep-caps)
    cluster_namespaces=()
    [ "${MEMO_SLURM_NAMESPACES:-yes}" = yes ] || return 0
    if timeout -k 2 10 "${candidate[@]}" sh -c 'hostname node0 && mount --bind /etc/hosts /etc/hosts &&
        mount -t tmpfs node /dev/shm' 2>/dev/null; then
        cluster_namespaces=("${candidate[@]}")
    fi
}

# A block of ports that nobody listens on: one for slurmctld, one for each node.
cluster_find_ports() {
    local try base port free
    for ((try = 0; try < 50; try++)); do
        base=$((20000 + (RANDOM % 1000) * 10)) free=yes
        for ((port = base; port <= base + cluster_nodes; port++)); do
            if (: </dev/tcp/127.0.0.1/"$port") 2>/dev/null; then free=no; fi
        done
        if [ $free = yes ]; then
            cluster_port=$base
            return
        fi
    done
    cluster_skip "no free block of ports was found"
}

# Names of the other nodes must not be addresses of this machine as mpirun sees it, or it takes them
# for the node it is on; its own must be where slurmd and srun listen.
cluster_write_hosts() { # K
    local other
    printf '127.0.0.1 localhost node%d\n' "$1"
    for ((other = 1; other <= cluster_nodes; other++)); do
        [ "$other" -eq "$1" ] || printf '127.0.1.%d node%d\n' "$other" "$other"
    done
    printf '127.0.0.1 %s\n' "$(uname -n)"
}

cluster_write_configuration() {
    local user host node address=NoCtldInAddrAny
    user=$(id -un) host=$(uname -n)
    host=${host%%.*}
    # With NoInAddrAny slurmd and clients listen where their own host name points, not everywhere; so
    # that name must point to loopback.
    if cluster_has_namespaces && getent ahostsv4 "$(uname -n)" | head -n 1 | grep -q '^127\.'; then
        address+=,NoInAddrAny
    fi
    cat <<END
ClusterName=memo
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$cluster_port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its last credential has expired, 120 s by default.
AuthInfo=socket=$cluster/munge.socket,cred_expire=5
CommunicationParameters=$address
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool/%n
TmpFS=$cluster/tmp/%n
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/spool/%n/slurmd.pid
SlurmctldLogFile=$cluster/log/slurmctld.log
SlurmdLogFile=$cluster/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=pmix
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
SlurmctldTimeout=5
SlurmdTimeout=10
MessageTimeout=10
InactiveLimit=0
KillWait=5
WaitTime=0
BatchStartTimeout=10
CompleteWait=0
TCPTimeout=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000,bf_interval=1
PriorityType=priority/basic
MailProg=/bin/true
END
    for ((node = 1; node <= cluster_nodes; node++)); do
        printf 'NodeName=node%d NodeHostname=%s NodeAddr=127.0.0.1 Port=%d CPUs=8 RealMemory=4000 TmpDisk=1000\n' \
            "$node" "$(cluster_has_namespaces && echo "node$node" || echo "$host")" $((cluster_port + node))
    done
    echo "PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP OverSubscribe=FORCE:8"
}

cluster_ended() { # PID SECONDS
    local i
    for ((i = 0; i < $2 * 20; i++)); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.05
    done
    return 1
}

cluster_end_process() { # PID
    kill -TERM "$1" 2>/dev/null
    cluster_ended "$1" 5 || kill -KILL "$1" 2>/dev/null
    wait "$1" 2>/dev/null
}

# cluster_until SECONDS COMMAND...: polls until it succeeds.
cluster_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

cluster_start_munged() {
    (umask 077 && head -c 128 /dev/urandom >"$cluster/munge.key")
    "${cluster_bound[@]}" munged --foreground --force --num-threads=2 --origin=127.0.0.1 --key-file="$cluster/munge.key" \
        --socket="$cluster/munge.socket" --pid-file="$cluster/munged.pid" --seed-file="$cluster/munge.seed" \
        --log-file="$cluster/log/munged.log" >"$cluster/log/munged.out" 2>&1 &
    cluster_pids+=($!)
    cluster_until 10 cluster_munge_answers || cluster_skip "munged did not start: $(tail -n 3 "$cluster"/log/munged.*)"
}

cluster_munge_answers() {
    "${cluster_waits[@]}" munge -S "$cluster/munge.socket" -n </dev/null >/dev/null 2>&1
}

cluster_controller_answers() {
    "${cluster_waits[@]}" scontrol ping 2>/dev/null | grep -q 'is UP'
}

cluster_start_controller() {
    "${cluster_bound[@]}" slurmctld -D -f "$SLURM_CONF" >"$cluster/log/slurmctld.out" 2>&1 &
    cluster_pids=("$!" "${cluster_pids[@]}") # it ends before munged
    cluster_until 15 cluster_controller_answers ||
        cluster_skip "slurmctld did not start: $(tail -n 3 "$cluster/log/slurmctld.out")"
}

cluster_kill_controller() {
    kill -KILL "${cluster_pids[0]}"
    wait "${cluster_pids[0]}" 2>/dev/null
    cluster_pids=("${cluster_pids[@]:1}")
}

# The node's first process: it stays to reap what steps leave behind.
# shellcheck disable=SC2016 # expanded by the node's shell
cluster_node_script='
hostname "$1" && mount --bind "$2/hosts.$1" /etc/hosts && mount -t tmpfs -o mode=1777 node /dev/shm || exit 1
shift 2
slurmd -D "$@" &
daemon=$!
trap "kill -TERM $daemon" TERM
while kill -0 $daemon 2>/dev/null; do wait $daemon; done'

# cluster_start_node K [SLURMD OPTION...]
cluster_start_node() {
    local name=node$1 number=$1
    shift
    # What steps that were killed left there stands in the way of a requeued job of the same number.
    rm -rf "$cluster/tmp/$name" "$cluster/spool/$name"
    mkdir -p "$cluster/tmp/$name" "$cluster/spool/$name"
    if cluster_has_namespaces; then
        cluster_write_hosts "$number" >"$cluster/hosts.$name"
        "${cluster_bound[@]}" "${cluster_namespaces[@]}" bash -c "$cluster_node_script" bash "$name" "$cluster" -f "$SLURM_CONF" -N "$name" \
            "$@" >>"$cluster/log/slurmd.$name.out" 2>&1 &
    else
        "${cluster_bound[@]}" slurmd -D -f "$SLURM_CONF" -N "$name" "$@" >>"$cluster/log/slurmd.$name.out" 2>&1 &
    fi
    cluster_node_pids[number]=$!
}

cluster_idle() {
    [ "$("${cluster_waits[@]}" sinfo -h -N -o '%T' 2>/dev/null | grep -cx idle)" -eq "$cluster_nodes" ]
}

cluster_start() { # NODES
    local node
    cluster_require
    cluster_nodes=$1
    cluster=$(mktemp -d "${TMPDIR:-/tmp}/slurm.XXXXXX")
    # Sockets lie below it, and their names have at most 107 bytes.
    if [ ${#cluster} -gt 50 ]; then
        rmdir "$cluster"
        cluster=$(mktemp -d /tmp/slurm.XXXXXX)
    fi
    mkdir "$cluster"/{state,spool,tmp,log}
    cluster_find_namespaces
    cluster_find_ports
    export SLURM_CONF=$cluster/slurm.conf
    cluster_write_configuration >"$SLURM_CONF"
    cluster_start_munged
    cluster_start_controller
    for ((node = 1; node <= cluster_nodes; node++)); do cluster_start_node "$node"; done
    cluster_until 20 cluster_idle ||
        cluster_skip "the nodes did not become idle: $(tail -n 2 "$cluster"/log/slurmd.*.out "$cluster"/log/slurmd.*.log)"
    # Ranks of one node share its memory; nodes talk over loopback. ob1 by name starts quickest.
    export OMPI_MCA_pml=ob1 OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo
    export OMPI_MCA_orte_tmpdir_base=$cluster/tmp OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    OMPI_MCA_btl=$(cluster_has_namespaces && echo self,vader,tcp || echo self,tcp)
    export OMPI_MCA_btl
}

cluster_kill_node() { # K
    # unshare --kill-child: the kernel kills the node's first process with it, and that one's others.
    kill -KILL "${cluster_node_pids[$1]}"
    wait "${cluster_node_pids[$1]}" 2>/dev/null
    unset "cluster_node_pids[$1]"
}

# -b: the node was started anew; otherwise slurmctld goes on believing in the steps that died.
cluster_boot_node() { cluster_start_node "$1" -b; }

# Without namespaces steps outlive their slurmd; they carry this cluster's configuration.
cluster_leftovers() {
    local process
    for process in /proc/[0-9]*; do
        grep -zqxF "SLURM_CONF=$cluster/slurm.conf" "$process/environ" 2>/dev/null || continue
        case $(readlink "$process/exe") in
        */slurmstepd | */slurmd*) echo "${process#/proc/}" ;;
        esac
    done
}

cluster_no_jobs() { [ -z "$("${cluster_waits[@]}" squeue -h 2>/dev/null)" ]; }

cluster_stop() {
    local pid
    [ -n "$cluster" ] || return 0
    if [ ${#cluster_node_pids[@]} -gt 0 ] && ! cluster_no_jobs; then
        "${cluster_waits[@]}" scancel --full --quiet --user="$(id -un)" 2>/dev/null
        cluster_until 10 cluster_no_jobs
    fi
    for pid in ${cluster_node_pids[@]+"${cluster_node_pids[@]}"}; do
        if cluster_has_namespaces; then
            kill -KILL "$pid" 2>/dev/null
            wait "$pid" 2>/dev/null
        else
            cluster_end_process "$pid"
        fi
    done
    for pid in ${cluster_pids[@]+"${cluster_pids[@]}"}; do cluster_end_process "$pid"; done
    if ! cluster_has_namespaces; then
        for pid in $(cluster_leftovers); do kill -KILL "$pid" 2>/dev/null; done
    fi
    rm -rf "$cluster"
    cluster=''
}
