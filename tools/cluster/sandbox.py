"""Two machines in one: network namespaces node1 and node2, joined by a cable of their own, with a
Slurm over both.

The namespaces have no names, and the first process in them is ours: when it ends, the kernel ends
every process inside and removes interfaces and mounts. Nothing outside changes but files in the
work folder.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

NODES = ("node1", "node2")
ADDRESSES = dict(zip(NODES, ("10.77.0.1", "10.77.0.2")))
INTERFACE = "eth0"
SLURM = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
INSIDE = "PATCHMILL_CLUSTER_INSIDE"  # set for the process that runs in the namespaces
NAMESPACES = ("--mount", "--mount-proc", "--net", "--uts")
READY_SECONDS = 30
SOCKET_BYTES = 100  # of 107, for the name itself

# No systemd, no cgroups, no database, and GPUs that are only counted.
SLURM_CONF = """\
ClusterName=check
SlurmctldHost=node1
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd-%n.pid
StateSaveLocation={state}/slurmctld
SlurmdSpoolDir={state}/slurmd-%n
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={state}/completed-jobs.txt
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
MinJobAge=86400
KillOnBadExit=1
WaitTime=1
NodeName=node[1-2] CPUs=64 RealMemory=1000 Gres=gpu:8 State=UNKNOWN
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
"""
# KillOnBadExit and WaitTime are what some clusters have, and what our commands must withstand.
GRES_CONF = "NodeName=node[1-2] Name=gpu File={state}/gpu[0-7]\n"


def missing():
    """Why there can be no namespaces here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces need root on Linux"
    for tool in ("unshare", "nsenter", "ip"):
        if not shutil.which(tool):
            return f"{tool} is not installed (Debian: apt install util-linux iproute2)"
    probe = subprocess.run(
        ["unshare", "--fork", "--pid", "--mount", "--net", "--uts", "true"],
        capture_output=True,
        text=True,
    )
    return f"unshare: {probe.stderr.strip()}" if probe.returncode else None


def missing_slurm():
    """Why there can be no Slurm here, or None."""
    absent = [tool for tool in SLURM if not shutil.which(tool)]
    return (
        f"not installed: {', '.join(absent)} (Debian: apt install slurm-wlm munge)"
        if absent
        else None
    )


def enter():
    """Runs this program again, in namespaces of its own, and returns its exit code."""
    command = ["unshare", "--fork", "--pid", "--kill-child", *NAMESPACES]
    inner = subprocess.Popen([*command, sys.executable, *sys.argv], env={**os.environ, INSIDE: "1"})
    # unshare ignores SIGTERM; it takes all inside with it (--kill-child).
    signal.signal(signal.SIGTERM, lambda *_: inner.kill())
    while True:
        try:
            return inner.wait()
        except KeyboardInterrupt:  # the terminal has sent it to the inner process too
            pass


def is_inside():
    return INSIDE in os.environ


def be_first():
    """Inside: returns in a child. This first process waits for all that lose their parent.

    Otherwise Slurm would find dead processes in a job's group and wait for them.
    """
    child = os.fork()
    if child == 0:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


class Machines:
    """node1 is this process's namespaces; node2 has a network and a host name of its own."""

    def __init__(self, state):
        self.state = state
        os.makedirs(state)
        hosts = os.path.join(state, "hosts")
        with open(hosts, "w", encoding="ascii") as file:
            file.write("127.0.0.1 localhost\n")
            file.writelines(f"{address} {node}\n" for node, address in ADDRESSES.items())
        run("mount", "--bind", hosts, "/etc/hosts")
        run("hostname", "node1")
        holder = "hostname node2 && ip link set lo up && echo ready && exec sleep infinity"
        command = ["unshare", "--net", "--uts", "sh", "-c", holder]
        self.holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if self.holder.stdout.readline() != "ready\n":
            raise RuntimeError("node2 did not come up")
        run("ip", "link", "set", "lo", "up")
        cable = ("ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE)
        run(*cable, "netns", str(self.holder.pid))
        for node in NODES:
            run(*self.on(node, "ip", "address", "add", f"{ADDRESSES[node]}/24", "dev", INTERFACE))
            run(*self.on(node, "ip", "link", "set", INTERFACE, "up"))

    def on(self, node, *command):
        """`command` as one that runs on `node`."""
        if node == NODES[0]:
            return list(command)
        return ["nsenter", "--net", "--uts", "--target", str(self.holder.pid), *command]

    def start_slurm(self):
        """munged, slurmctld and a slurmd on each node; SLURM_CONF leads its users there."""
        state = self.state
        os.makedirs(os.path.join(state, "munge"), mode=0o711)
        key = os.path.join(state, "munge", "key")
        if len(key) > SOCKET_BYTES:
            raise RuntimeError(f"{state} is too long for the path of a socket: choose another WORK")
        with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
            file.write(os.urandom(1024))
        for name, text in (("slurm.conf", SLURM_CONF), ("gres.conf", GRES_CONF)):
            with open(os.path.join(state, name), "w", encoding="ascii") as file:
                file.write(text.format(state=state))
        for index in range(8):
            with open(os.path.join(state, f"gpu{index}"), "x", encoding="ascii"):
                pass  # slurmd counts files
        files = {name: os.path.join(state, "munge", name) for name in ("socket", "pid", "seed")}
        options = (
            f"--socket={files['socket']}",
            f"--pid-file={files['pid']}",
            f"--seed-file={files['seed']}",
        )
        self.daemon("munged", "--foreground", f"--key-file={key}", *options)
        wait_until(lambda: os.path.exists(files["socket"]), f"munged ({state})")
        os.environ["SLURM_CONF"] = os.path.join(state, "slurm.conf")
        self.daemon("slurmctld", "-D", "-i")
        for node in NODES:
            self.daemon("slurmd", "-D", node=node)

        def is_idle():
            found = subprocess.run(
                ["sinfo", "--noheader", "--Node", "--format=%N %T"], capture_output=True, text=True
            )
            return found.stdout.split() == ["node1", "idle", "node2", "idle"]

        wait_until(is_idle, f"Slurm's nodes ({state})")

    def daemon(self, *command, node=NODES[0]):
        log = os.path.join(self.state, f"{command[0]}-{node}.out")
        with open(log, "w", encoding="ascii") as file:
            subprocess.Popen(
                self.on(node, *command), stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )


def run(*command):
    subprocess.run(command, check=True)


def wait_until(holds, what, seconds=READY_SECONDS):
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not ready after {seconds} s")
        time.sleep(0.25)
