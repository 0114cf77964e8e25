#!/usr/bin/env python3
"""Measures training on two hosts, and drawing in two shards, on one Linux machine with two or more cores.

    sudo docs/scale/measure.py target/release/skipstone > docs/scale/NAME.json

The hosts are network namespaces joined by a virtual cable, whose speed `tc` limits. Every process has one thread. Because the hosts
share a processor, the rate of two ranks is compared with that of two separate trainings at the same time, one on each host:
what two machines would do without communication. Needs iproute2 and MPICH or Open MPI.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOSTS = {"ska": "10.77.0.1", "skb": "10.77.0.2"}
STEPS, WARM, REPEATS = 5, 1, 3
# Images a rank, and what replaces values of the recipe: the CIFAR-10 network, and one of 1.6 million parameters.
NETWORKS = {
    "cifar10": (16, []),
    "small": (64, ["model.block_out_channels=[32,64,64]", "model.attention=[false,false,true]", "model.sample_size=[32,32]"]),
}
LINKS = {"cable": None, "10 Gbit/s": "10gbit", "2.5 Gbit/s": "2500mbit", "1 Gbit/s": "1gbit"}


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def hosts_up(agent):
    ip("link", "add", "va", "type", "veth", "peer", "name", "vb")
    for (host, address), cable in zip(HOSTS.items(), ["va", "vb"]):
        ip("netns", "add", host)
        ip("link", "set", cable, "netns", host)
        ip("-n", host, "addr", "add", f"{address}/24", "dev", cable)
        for device in [cable, "lo"]:
            ip("-n", host, "link", "set", device, "up")
    # Stands for ssh: "agent [OPTIONS] HOST COMMAND…".
    agent.write_text(
        '#!/bin/bash\nwhile [ "${1#-}" != "$1" ]; do shift; done\nhost=$1; shift\n'
        'case $host in 10.77.0.1) ns=ska;; *) ns=skb;; esac\n'
        'exec ip netns exec $ns unshare --uts bash -c "hostname $ns; $*"\n'
    )
    agent.chmod(0o755)


def hosts_down():
    for host in HOSTS:
        subprocess.run(["ip", "netns", "del", host], stderr=subprocess.DEVNULL, check=False)


def limit(rate):
    for host, cable in zip(HOSTS, ["va", "vb"]):
        tc = ["ip", "netns", "exec", host, "tc", "qdisc"]
        subprocess.run([*tc, "del", "dev", cable, "root"], stderr=subprocess.DEVNULL, check=False)
        if rate:
            subprocess.run([*tc, "add", "dev", cable, "root", "tbf", "rate", rate, "burst", "4mb", "latency", "50ms"], check=True)


def launchers(agent):
    addresses = ",".join(HOSTS.values())
    found = {}
    if mpich := shutil.which("mpiexec.mpich"):
        found["MPICH"] = [mpich, "-launcher", "ssh", "-launcher-exec", str(agent), "-hosts", addresses, "-n", "2"]
        # Both libraries find out that the hosts are one machine, and would exchange through its memory.
        found["MPICH"] += ["-genv", "UCX_TLS", "tcp,self"]
    if openmpi := shutil.which("mpirun.openmpi"):
        net = "10.77.0.0/24"
        found["Open MPI"] = [openmpi, "--allow-run-as-root", "--bind-to", "none", "--mca", "plm_rsh_agent", str(agent)]
        found["Open MPI"] += ["--mca", "pml", "ob1", "--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", net, "--mca", "oob_tcp_if_include", net]
        found["Open MPI"] += ["--host", ",".join(f"{address}:1" for address in HOSTS.values()), "-n", "2"]
    return found


# Runs a program in the place of itself and writes its greatest resident memory, in KiB.
RANK = """#!/usr/bin/env python3
import os, sys
child = os.fork()
if child == 0:
    os.execv(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(child, 0)
rank = os.environ.get('PMI_RANK') or os.environ.get('OMPI_COMM_WORLD_RANK') or '0'
open(f'{sys.argv[1]}.{rank}', 'w').write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Bench:
    def __init__(self, program, work):
        self.program, self.work = str(Path(program).resolve()), work
        self.rank = work / "rank"
        self.rank.write_text(RANK)
        self.rank.chmod(0o755)
        root = Path(__file__).resolve().parents[2]
        self.recipe = root / "configs/cifar10.toml"
        # Bytes without a meaning: what they are does not change the time.
        (work / "data.npy").write_bytes(self.array(512))
        self.runs = 0

    @staticmethod
    def array(n):
        shape = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({n}, 3, 32, 32), }}"
        head = shape + " " * (63 - (10 + len(shape)) % 64) + "\n"
        return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + os.urandom(n * 3 * 32 * 32)

    def train(self, network, images, ranks, accumulate=1):
        """The command that trains, and where its log will be."""
        self.runs += 1
        out = self.work / f"run{self.runs}"
        settings = [f"train.steps={STEPS}", f"train.batch={images * ranks}", f"train.shard={min(images, 32)}", "train.log_every=1"]
        settings += ["train.checkpoint_every=1000", "train.preview_every=0", f"train.accumulate={accumulate}", *NETWORKS[network][1]]
        command = [str(self.rank), str(out) + ".rss", self.program, "train", "--data", str(self.work / "data.npy")]
        command += ["--config", str(self.recipe), "--out", str(out), "--threads", "1"]
        for setting in settings:
            command += ["--set", setting]
        return command, out

    def result(self, out, images):
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "loss" in line][WARM:]
        result = {
            "images_per_s": statistics.harmonic_mean([line["images_per_s"] for line in steps]),
            "seconds_per_step": statistics.fmean([images / line["images_per_s"] for line in steps]),
            "memory_mib": [int(file.read_text()) // 1024 for file in sorted(self.work.glob(f"{out.name}.rss.*"))],
        }
        if "ranks" in steps[0]:
            count = len(steps[0]["ranks"])
            result["waiting"] = [statistics.fmean([line["ranks"][i]["waiting"] for line in steps]) for i in range(count)]
        shutil.rmtree(out)
        return result

    def alone(self, network, images, at_once):
        """Separate trainings, one on each of the first hosts."""
        runs = [self.train(network, images, 1) for _ in range(at_once)]
        children = [
            subprocess.Popen(["ip", "netns", "exec", host, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for host, (command, _) in zip(HOSTS, runs)
        ]
        for child in children:
            _, said = child.communicate()
            assert child.returncode == 0, said.decode()
        return [self.result(out, images) for _, out in runs]

    @staticmethod
    def sent():
        said = subprocess.run(["ip", "-n", "ska", "-s", "-j", "link", "show", "va"], capture_output=True, check=True).stdout
        return json.loads(said)[0]["stats64"]["tx"]["bytes"]

    def together(self, launcher, network, images, accumulate=1):
        command, out = self.train(network, images, 2, accumulate)
        before = self.sent()
        done = subprocess.run(["ip", "netns", "exec", "ska", *launcher, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        result = self.result(out, 2 * images * accumulate)
        # Of the whole run, with the exchange at its start and end: shows that the cable was used.
        result["sent_mib"] = (self.sent() - before) >> 20
        return result

    def draw(self, shards):
        """Seconds until two processes have drawn 400 images each of the built-in model: two shards of one run, or two runs."""
        start = time.monotonic()
        children = []
        for k in [1, 2]:
            words = ["-n", "800", "--shard", f"{k}/2", "-o", "set.npz"] if shards else ["-n", "400", "--seed", f"{k}", "-o", f"run{k}.npz"]
            command = [self.program, "sample", "--steps", "20", "--threads", "1", *words]
            children.append(subprocess.Popen(command, cwd=self.work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        assert all(child.wait() == 0 for child in children)
        seconds = time.monotonic() - start
        for file in self.work.glob("*.npz"):
            file.unlink()
        return seconds


def middle(results, key):
    return statistics.median([result[key] for result in results])


def main():
    program = sys.argv[1]
    report = {"cpu": "", "cores": os.cpu_count(), "kernel": platform.release().split("-")[0], "steps": STEPS - WARM, "repeats": REPEATS}
    report["cpu"] = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    report["program"] = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bench, agent = Bench(program, work), work / "agent"
        hosts_down()
        hosts_up(agent)
        try:
            found = launchers(agent)
            first = next(iter(found))
            for network, (images, _) in NETWORKS.items():
                rows = {"images_a_rank": images, "one alone": [], "two apart": []}
                for repeat in range(REPEATS):
                    print(f"{network}, repeat {repeat + 1}", file=sys.stderr)
                    rows["one alone"] += bench.alone(network, images, 1)
                    rows["two apart"] += bench.alone(network, images, 2)
                    for mpi, launcher in found.items():
                        for link, rate in LINKS.items():
                            # The slower links are measured once, under one MPI.
                            if rate and (mpi != first or repeat > 0):
                                continue
                            limit(rate)
                            rows.setdefault(f"{mpi}, {link}", []).append(bench.together(launcher, network, images))
                            limit(None)
                limit("1gbit")
                rows[f"{first}, 1 Gbit/s, accumulate 4"] = [bench.together(found[first], network, images, 4)]
                limit(None)
                report[network] = rows
            times = {"two shards of one run, s": [], "two runs, s": []}
            for _ in range(REPEATS):
                for (kind, seconds), shards in zip(times.items(), [True, False]):
                    seconds.append(bench.draw(shards))
            report["drawing"] = times
        finally:
            hosts_down()
    for network in NETWORKS:
        rows = report[network]
        apart = 2 * middle(rows["two apart"], "images_per_s")
        for name, results in rows.items():
            if isinstance(results, list) and "waiting" in results[0]:
                rate = middle(results, "images_per_s")
                print(f"{network}: {name}: {rate:.2f} images/s, efficiency {rate / apart:.3f}", file=sys.stderr)
        print(f"{network}: two apart: {apart:.2f}; one alone: {middle(rows['one alone'], 'images_per_s'):.2f}", file=sys.stderr)
    shards, runs = (statistics.median(seconds) for seconds in report["drawing"].values())
    print(f"drawing: two shards {shards:.1f} s, two runs {runs:.1f} s, efficiency {runs / shards:.3f}", file=sys.stderr)
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
