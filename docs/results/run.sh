#!/usr/bin/env bash
# Draws and scores everything that docs/results.md reports: some nine hours on two cores, and more for the students. It may be
# stopped at any time; the same command goes on where it was (but for times, noise and table2, which begin again).
#
#   cargo build --release
#   docs/results/run.sh                    # all of it
#   docs/results/run.sh table1 frontier    # parts
#   .venv/bin/python docs/results/make.py  # then the page (see there)
#
# Environment:
#   SKIPSTONE        the program
#   RESULTS          the folder; it grows to 1 GB
#   N                images of a cell, 5000
#   PRECISION        of sampling, f32; the tables say so where it is another
#   TRAIN_PRECISION  of training, f32; bf16 is faster on processors with AMX
#   SHORTER          a model trained for less, for parts weaker and guided, which else train it by configs/fashion-mnist.toml
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
    "$skipstone" evaluate --data fashion-mnist ${PRECISION:+--precision "$PRECISION"} "$@" -o "$out/$part"
}

# What half precision costs in quality; f32's cells are in table1. Processors without AMX have no bf16.
part_half() {
    local precision PRECISION=
    for precision in f16 bf16; do
        evaluate half --steps 20,50 --eta 0 --spacing linear --precision "$precision" -n "$n"
    done
}

# evaluate_table1 PART OPTION...: the cells of Table 1.
evaluate_table1() {
    local part=$1
    shift
    evaluate "$part" --steps 10,20,50,100 --eta 0,0.2,0.5,1,hat --spacing linear "$@"
    evaluate "$part" --steps 10,20,50,100 --eta 0,1 --spacing quadratic "$@"
}

# Table 1 of the paper.
part_table1() { evaluate_table1 table1 -n "$n" --repeats off; }

# How far the images of a latent are from each other: with other numbers of steps, and with other noise.
part_consistency() { evaluate_table1 consistency -n "$((n / 25))"; }

# The first images of each cell.
part_pictures() {
    local steps cell noise
    mkdir -p "$out/pictures"
    for steps in 10 20 50 100; do
        for cell in 0.0-linear 0.2-linear 0.5-linear 1.0-linear hat-linear 0.0-quadratic 1.0-quadratic; do
            noise="--eta ${cell%-*}"
            [ "$noise" != "--eta hat" ] || noise="--sigma hat"
            # shellcheck disable=SC2086
            "$skipstone" sample -n 36 --steps "$steps" $noise --spacing "${cell#*-}" -o "$out/pictures/$steps-$cell.png"
        done
    done
}

# How much chance there is in it: both halves of the same images scored apart.
part_spread() {
    local half=$((n / 2)) first
    for first in 0 "$half"; do
        evaluate spread --steps 10,20,50,100 --eta 0,0.2,0.5,1,hat --spacing linear -n "$half" --first "$first" --repeats off
    done
}

# time_in_turn FILE ROUNDS FLAG VALUE...: how long a call takes with each value of a flag, all in turn. (What evaluate counts depends
# on what else ran for hours.)
time_in_turn() {
    local file=$1 rounds=$2 flag=$3 round value
    shift 3
    [ ! -e "$out/$file.jsonl" ] || return 0
    mkdir -p "$out"
    for ((round = 1; round <= rounds; round++)); do
        for value in "$@"; do
            printf '{"round": %d, "%s": "%s", "run": %s}\n' "$round" "$flag" "$value" \
                "$("$skipstone" sample -n 64 --steps 20 --spacing linear "--$flag" "$value" --json -o "$out/$file.npy")"
        done
    done >"$out/$file.part"
    mv "$out/$file.part" "$out/$file.jsonl"
    rm "$out/$file.npy"
}
part_times() { time_in_turn times 3 solver ddim heun ab3 dpm++2m unipc3 deis; }
part_noise() { time_in_turn noise 7 eta 0 1; }

# What the calibration gives: variances that fit the network, times chosen by the bound; beside two columns of table1.
part_calibrated() {
    evaluate calibrated --steps 10,20,50,100 --eta 0,1,analytic --spacing linear -n "$few"
    evaluate calibrated --steps 10,20,50,100 --eta 0 --spacing optimal -n "$few"
}

# Every one of the 1000 times, with fewer images, beside two of the other columns at the same n.
part_thousand() { evaluate thousand --steps 20,50,1000 --eta 0,1,hat --spacing linear -n "$((2 * few))"; }

# train RUN OPTION...: the shorter training.
train() {
    local run=$1
    shift
    "$skipstone" train --data fashion-mnist --config configs/fashion-mnist.toml \
        --set train.precision="${TRAIN_PRECISION:-f32}" "$@" --out "$run" --resume
}

# Sets `shorter`, the model of the shorter training.
have_shorter() {
    shorter=${SHORTER:-$out/weaker-run/model}
    [ -n "${SHORTER:-}" ] || train "$out/weaker-run"
}

# What noise does to models that were trained for less: 10,000 and 1,000 steps.
part_weaker() {
    local model shorter shortest="$out/choices-run-0"
    have_shorter
    train "$shortest" --set train.steps=1000 --set "${choices[0]}"
    for model in "" "$shorter" "$shortest/model"; do
        evaluate weaker ${model:+--model "$model"} --steps 20,50,100 --eta 0,0.5,1 --spacing linear -n "$few" --repeats off
    done
}

# What other values of the shorter training's recipe give, in a tenth of its steps.
choices=(optimizer.lr=1.5e-3 optimizer.lr=7.5e-4 optimizer.lr=3e-3 model.block_out_channels=[24,48,72])
part_choices() {
    local runs=() run set weights
    for set in "${choices[@]}"; do
        run="$out/choices-run-${#runs[@]}"
        train "$run" --set train.steps=1000 --set "$set"
        runs+=("$run")
    done
    for run in "${runs[@]}"; do
        for weights in ema raw; do
            evaluate choices --model "$run/model" --weights "$weights" --steps 20 --eta 0,1 --spacing linear -n "$few" --repeats off
        done
    done
}

# Score against network calls, over solvers, grids, noise and a student: the frontier. Few images each; beyond has more of the best.
part_frontier() {
    local once=deis,deis2,unipc,unipc3,dpm++2m,dpm++3m,ab2,ab3,ab4,ve-euler,dpm++2m-sde,sa
    evaluate frontier --steps 4,6,8,10,20,50 --eta 0,1 --spacing linear -n "$few" --repeats off
    evaluate frontier --steps 4,6,8,10,20 --solver "$once" --spacing linear -n "$few" --repeats off
    evaluate frontier --steps 50 --solver deis --spacing linear -n "$few" --repeats off
    evaluate frontier --steps 3,4,5,10 --solver heun,dpm2 --spacing linear -n "$few" --repeats off
    evaluate frontier --steps 4,6,8,10,20 --solver dpm++2m,deis --spacing karras -n "$few" --repeats off
    evaluate frontier --steps 4,6,8,10,20 --solver ddim,deis,dpm++2m --spacing fitted -n "$few" --repeats off
    evaluate_students frontier -n "$few" --repeats off
}

# with_halves COMMAND PART OPTION...: all images, and both halves of them apart, which show what chance can do.
with_halves() {
    local half=$((n / 2))
    "$@" --repeats off -n "$half" --first 0
    "$@" --repeats off -n "$half" --first "$half"
    "$@" --repeats off -n "$n"
}

# Whether what leads there leads by more than chance.
part_beyond() {
    with_halves evaluate beyond --steps 6,10,20 --solver ddim,deis,unipc3,dpm++2m --spacing linear
    with_halves evaluate beyond --steps 50 --solver ddim,deis --spacing linear
    with_halves evaluate beyond --steps 3,5,10 --solver heun --spacing linear
    with_halves evaluate beyond --steps 10,20 --solver sa --spacing linear
    with_halves evaluate beyond --steps 10 --solver deis2,unipc,dpm++3m --spacing linear
    with_halves evaluate beyond --steps 10 --solver deis --spacing fitted
    with_halves evaluate beyond --steps 15 --solver deis --spacing linear --restart 66,400,1
}

# Restart: which part of the run to repeat, in some 20 calls and in 10.
part_restart() {
    local run solver steps part
    for run in "10 399,899,2" "10 199,699,2" "10 99,599,2" "10 99,399,3" "10 99,199,10" "12 83,416,2" "14 71,500,1" "15 266,600,1" \
        "15 66,400,1" "16 250,500,1" "16 62,312,1" "7 142,571,1" "8 125,375,1" "10 199,699,2 ddim"; do
        read -r steps part solver <<<"$run"
        evaluate restart --steps "$steps" --solver "${solver:-deis}" --spacing linear --restart "$part" -n "$few" --repeats off
    done
}

# Autoguidance by the model of the shorter training.
part_guided() {
    local shorter weight
    have_shorter
    evaluate guided --steps 20,30,40 --spacing linear -n "$few" --repeats off # a guided step takes two calls
    for weight in 1.25 1.5 2 3; do
        evaluate guided --steps 20 --spacing linear -n "$few" --repeats off --guide "$shorter" --guidance "$weight"
    done
    evaluate guided --steps 20 --spacing linear -n "$few" --repeats off --guide "$shorter" --guidance 2 --guidance-interval 0.3,5
}

# evaluate_students PART OPTION...: those that part student has made, each in the number of steps that it was made for.
evaluate_students() {
    local part=$1 student
    shift
    for student in "$out"/student-{start,run}/model "$out"/student-last/students/steps-* "$out/student-last/model"; do
        [ -e "$student/model_index.json" ] || continue
        evaluate "$part" --model "$student" "$@"
    done
}

# Students of 8, 4, 2 and 1 steps, and their scores. The student of 4 is the one in models/clothes-4; the last two are short trials.
part_student() {
    local precision="train.precision=${TRAIN_PRECISION:-f32}" start="$out/student-start"
    "$skipstone" distill --data fashion-mnist --solver heun --from 16 --steps 8 --set train.steps=1500 --set "$precision" \
        --out "$start" --resume
    "$skipstone" distill --data fashion-mnist --teacher "$start/model" --steps 4 --set train.steps=2500 \
        --set "$precision" --out "$out/student-run" --resume
    "$skipstone" distill --data fashion-mnist --teacher "$out/student-run/model" --steps 1 --set train.steps=600 \
        --set "$precision" --out "$out/student-last" --resume
    with_halves evaluate_students student
}

# Table 2 of the paper: all its columns, and with more images those that are cheap.
part_table2() {
    reconstruct table2 "$((n / 50))" 10,20,50,100,200,500,1000
    reconstruct table2-many "$few" 10,20,50,100
}

# reconstruct PART IMAGES STEPS: it keeps nothing between runs, but is done where its table has all rows.
reconstruct() {
    local commas=${3//[^,]/} rows
    rows=$(wc -l <"$out/$1/table.csv" 2>/dev/null || echo 0)
    [ "$rows" -eq $((${#commas} + 2)) ] || "$skipstone" reconstruct --images fashion-mnist -n "$2" --steps "$3" -o "$out/$1"
}

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(times noise half table1 consistency pictures spread calibrated table2 student frontier beyond restart guided choices weaker thousand)
for part in "${parts[@]}"; do
    declare -F "part_$part" >/dev/null || { echo "run.sh: no part $part" >&2; exit 2; }
    echo "== $part"
    "part_$part"
done
