#!/usr/bin/env bash
# Draws and scores everything that docs/results.md reports: some six hours on two quiet cores. It may be stopped at any
# time; the same command goes on where it was (but for times and table2, which begin again).
#
#   cargo build --release
#   docs/results/run.sh                    # all of it
#   docs/results/run.sh table1 solvers     # parts
#   .venv/bin/python docs/results/make.py  # then the page (see there)
#
# Environment: SKIPSTONE (the program), RESULTS (the folder; it grows to 1 GB), N (images of a cell, 5000).
set -euo pipefail
cd "$(dirname "$0")/../.."
skipstone=${SKIPSTONE:-target/release/skipstone}
out=${RESULTS:-runs/results}
n=${N:-5000}
few=$((n / 5))

# evaluate PART OPTION...: all parts share their images, so that what two of them ask for is drawn once.
evaluate() {
    local part=$1
    shift
    mkdir -p "$out/samples" "$out/$part"
    ln -sfn ../samples "$out/$part/samples"
    "$skipstone" evaluate --data fashion-mnist "$@" -o "$out/$part"
}

# What half precision costs in quality; f32's cells are in table1.
part_f16() { evaluate f16 --steps 20,50 --eta 0 --spacing linear --precision f16 -n "$n"; }

# Table 1 of the paper.
part_table1() {
    evaluate table1 --steps 10,20,50,100 --eta 0,0.2,0.5,1,hat --spacing linear -n "$n"
    evaluate table1 --steps 10,20,50,100 --eta 0,1 --spacing quadratic -n "$n"
}

# Score against time, over all solvers.
solvers=(ddim ve-euler heun ab2 ab3 ab4 dpm++2m)
part_solvers() {
    local all
    all=$(IFS=,; echo "${solvers[*]}")
    evaluate solvers --steps 5,10,20,50 --solver "$all" --spacing linear -n "$few"
}

# How long a call of each solver takes: all in turn, three times. (What evaluate counts depends on what else ran for hours.)
part_times() {
    [ ! -e "$out/times.jsonl" ] || return 0
    local round solver
    mkdir -p "$out"
    for round in 1 2 3; do
        for solver in "${solvers[@]}"; do
            printf '{"round": %d, "solver": "%s", "run": %s}\n' "$round" "$solver" \
                "$("$skipstone" sample -n 64 --steps 20 --spacing linear --solver "$solver" --json -o "$out/times.npy")"
        done
    done >"$out/times.part"
    mv "$out/times.part" "$out/times.jsonl"
    rm "$out/times.npy"
}

# What the calibration gives: variances that fit the network, times chosen by the bound; beside two columns of table1.
part_calibrated() {
    evaluate calibrated --steps 10,20,50,100 --eta 0,1,analytic --spacing linear -n "$few"
    evaluate calibrated --steps 10,20,50,100 --eta 0 --spacing optimal -n "$few"
}

# Every one of the 1000 times, with fewer images, beside two of the other columns at the same n.
part_thousand() { evaluate thousand --steps 20,50,1000 --eta 0,1,hat --spacing linear -n "$few"; }

# Table 2 of the paper.
part_table2() {
    # It keeps nothing between runs, but is done where its table has all seven rows.
    [ "$(wc -l <"$out/table2/table.csv" 2>/dev/null || echo 0)" -ne 8 ] || return 0
    "$skipstone" reconstruct --images fashion-mnist -n "$((n / 50))" --steps 10,20,50,100,200,500,1000 -o "$out/table2"
}

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(times f16 table1 solvers calibrated table2 thousand)
for part in "${parts[@]}"; do
    declare -F "part_$part" >/dev/null || { echo "run.sh: no part $part" >&2; exit 2; }
    echo "== $part"
    "part_$part"
done
