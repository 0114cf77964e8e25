#!/usr/bin/env python3
"""Fits the cost of a training step on several hosts to the measurements of `measure.py`, and predicts other clusters.

    docs/scale/model.py docs/scale/zen4.json

A step takes

    T = C + max(0, E − o·C) + E,   E = 4·N·(P − 1)/P / min(link, host)

for P ranks, N parameters and C seconds of a rank's own work. Each rank sends E once for the partial sums of gradients, which
overlap with a part o of its work, and once for the new weights, which do not. `host` is what a host's own network stack moves.
`o` and `host` are fitted to all links but one, which the fit has to predict.
"""

import itertools
import json
import statistics
import sys

PARAMETERS = {"cifar10": 35_746_307, "small": 1_624_323}
LINKS = {"cable": float("inf"), "10 Gbit/s": 10e9 / 8, "2.5 Gbit/s": 2.5e9 / 8, "1 Gbit/s": 1e9 / 8}
LEFT_OUT = "2.5 Gbit/s"
PROTOCOL = 0.94  # of a link's speed is payload: Ethernet, IP and TCP headers at 1500 bytes


def seconds(compute, parameters, ranks, link, host, overlap):
    exchange = 4 * parameters * (ranks - 1) / ranks / min(PROTOCOL * link, host)
    return compute + max(0.0, exchange - overlap * compute) + exchange


def main():
    report = json.load(open(sys.argv[1]))
    points = []
    for network, parameters in PARAMETERS.items():
        rows = report[network]
        compute = statistics.median(row["seconds_per_step"] for row in rows["two apart"])
        for link, speed in LINKS.items():
            measured = statistics.median(row["seconds_per_step"] for row in rows[f"MPICH, {link}"])
            points.append((network, parameters, compute, link, speed, measured))

    def error(host, overlap):
        return sum(
            (seconds(compute, n, 2, speed, host, overlap) / measured - 1) ** 2
            for _, n, compute, link, speed, measured in points
            if link != LEFT_OUT
        )

    hosts = [10 ** (8 + i / 50) for i in range(101)]
    overlaps = [i / 50 for i in range(51)]
    host, overlap = min(itertools.product(hosts, overlaps), key=lambda pair: error(*pair))
    print(f"host {host / 1e9:.2f} GB/s, overlap {overlap:.2f} of a rank's work")
    for network, n, compute, link, speed, measured in points:
        predicted = seconds(compute, n, 2, speed, host, overlap)
        mark = "not fitted" if link == LEFT_OUT else ""
        print(f"{network:8} {link:11} measured {measured:.3f} s, model {predicted:.3f} s, {predicted / measured - 1:+.1%} {mark}")
    print()
    unbound = float("inf")
    print("| seconds a rank | hosts | host as measured | 10 GbE | 25 GbE | 100 GbE |\n|---|---|---|---|---|---|")
    for work in [3.2, 0.8, 0.2]:
        for ranks in [2, 4, 8, 16, 32, 64]:
            columns = [(unbound, host)] + [(gigabits * 1e9 / 8, unbound) for gigabits in [10, 25, 100]]
            took = [seconds(work, PARAMETERS["cifar10"], ranks, link, most, overlap) for link, most in columns]
            print(f"| {work} | {ranks} | {' | '.join(f'{work / t:.2f}' for t in took)} |")


if __name__ == "__main__":
    main()
