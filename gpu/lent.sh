#!/usr/bin/env bash
# Tries skipstone on a machine with a graphics card but without network and Rust, beside PyTorch.
#
#   gpu/lent.sh prepare     here: builds and strips the command and its tests, and fetches the Vulkan loader, into gpu/carry
#   gpu/lent.sh run [OUT]   there: correctness first, then speed, then training; results into OUT (default gpu/out)
#
# `run` ends within MINUTES (default 8.5). PROFILE=dev prepares without optimisation, for a trial of the script itself.
# QUICK=1 measures small batches only, for lavapipe in place of a card. PYTHON names an interpreter with PyTorch.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
carry=gpu/carry
limit=$((64 << 20))

prepare() {
    local profile=${PROFILE:-release} cargo=${CARGO:-cargo} features=skipstone/gpu,skipstone-cli/gpu built
    mkdir -p "$carry"
    # One call, so that nothing is built twice.
    local flags=(-p skipstone -p skipstone-cli --features "$features" --profile "$profile")
    $cargo build "${flags[@]}" --bin skipstone --test golden_gpu --message-format json >"$carry/built.json"
    for built in skipstone golden_gpu; do
        local program
        program=$(grep -o '"executable":"[^"]*'"$built"'[^"/]*"' "$carry/built.json" | tail -1 | cut -d'"' -f4)
        strip -o "$carry/$built" "$program"
        gzip -9 -f "$carry/$built"
    done
    rm "$carry/built.json"
    # The tests look for golden/ where they were built.
    echo "$root" >"$carry/root"
    (cd "$carry" && { ls libvulkan1_*.deb >/dev/null 2>&1 || apt-get download libvulkan1; }) ||
        echo "lent: libvulkan1 could not be fetched; the machine must have a Vulkan loader" >&2
    # The first 6,000 training images: what the minutes that remain can use.
    local images=/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz n=6000
    if [ -f "$images" ]; then
        { printf '\0\0\10\3\0\0\27\160\0\0\0\34\0\0\0\34'; zcat "$images" 2>/dev/null | tail -c +17 | head -c $((n * 784)); } \
            >"$carry/images-idx3-ubyte" || true
    fi
    local size
    size=$(du -sb "$carry" | cut -f1)
    echo "lent: $carry has $((size >> 20)) MiB"
    [ "$size" -le "$limit" ] || { echo "lent: more than $((limit >> 20)) MiB" >&2; [ "$profile" = dev ]; }
}

run() {
    local out=${1:-gpu/out} python=${PYTHON:-python3}
    local end=$(($(date +%s) + $(awk "BEGIN { print int(60 * ${MINUTES:-8.5}) }")))
    left() { echo $((end - $(date +%s))); }
    local images=4 steps=50 batch=128
    if [ -n "${QUICK:-}" ]; then images=1 steps=10 batch=1; fi
    mkdir -p "$out"
    local program
    for program in skipstone golden_gpu; do
        gunzip -c "$carry/$program.gz" >"$carry/$program"
        chmod +x "$carry/$program"
    done
    export SKIPSTONE_NEED_GPU=1 XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
    if ! ldconfig -p | grep -q libvulkan.so.1; then
        for package in "$carry"/libvulkan1_*.deb; do dpkg -x "$package" /; done
        ldconfig
    fi
    local icd=/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json
    [ ! -f "$icd" ] || export VK_DRIVER_FILES=${VK_DRIVER_FILES:-$icd}
    local there
    there=$(cat "$carry/root")
    if [ ! -d "$there/golden" ]; then
        mkdir -p "$(dirname "$there")" && ln -sfn "$root" "$there"
    fi

    echo "== devices"
    "$carry/skipstone" devices | tee "$out/devices.txt"
    export SKIPSTONE_DEVICE=${SKIPSTONE_DEVICE:-gpu}

    echo "== correctness: golden networks, gradients, training steps ($(left) s left)"
    timeout -k 5 240 "$carry/golden_gpu" --test-threads 1 --nocapture >"$out/golden.txt" 2>&1 || echo "FAILED; see $out/golden.txt"
    grep -E "^test |y [0-9]|worst|result" "$out/golden.txt" | tail -60

    echo "== correctness: fifty steps beside the CPU ($(left) s left)"
    for device in cpu "$SKIPSTONE_DEVICE"; do
        timeout -k 5 120 "$carry/skipstone" sample -n "$images" --steps "$steps" --device "$device" -o "$out/${device%%:*}.npy" >/dev/null 2>&1 ||
            echo "FAILED on $device"
    done
    "$python" gpu/lent.py compare "$out/cpu.npy" "$out/${SKIPSTONE_DEVICE%%:*}.npy" || true

    echo "== speed beside PyTorch ($(left) s left)"
    # Every second, what each process has of the card's memory.
    local watcher=
    if command -v nvidia-smi >/dev/null; then
        while sleep 1; do
            nvidia-smi --query-compute-apps=process_name,used_memory --format=csv,noheader,nounits
        done >"$out/memory.csv" 2>/dev/null &
        watcher=$!
    fi
    timeout -k 5 $(($(left) > 120 ? $(left) - 100 : 60)) "$python" gpu/lent.py speed "$carry/skipstone" "$out" ${QUICK:+--quick} ||
        echo "cut off or FAILED; what was measured is in $out/speed.jsonl"
    if [ -n "$watcher" ]; then
        kill "$watcher"
        echo "most memory of the card by one process, in MiB:"
        awk -F', ' '$2 > most[$1] { most[$1] = $2 } END { for (name in most) print "  " name ": " most[name] }' "$out/memory.csv"
    fi

    echo "== where a call's time goes ($(left) s left)"
    timeout -k 5 40 "$carry/skipstone" bench --model "$out/model" --batch "$batch" --calls 3 --profile \
        2>&1 | tee "$out/profile.txt" | head -30 || true
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv | tee "$out/card.txt"
    fi

    local rest=$((($(left) - 10) / 2)) precision
    local settings=(--set train.log_every=20)
    if [ -n "${QUICK:-}" ]; then
        settings=(--set train.log_every=2 --set train.batch=2 --set train.shard=2)
        rest=$((rest < 40 ? rest : 40))
    fi
    if [ -f "$carry/images-idx3-ubyte" ] && [ "$rest" -gt 10 ]; then
        for precision in f32 f16; do
            echo "== training of the built-in model's recipe for $rest s in $precision: the loss must fall"
            timeout -k 9 --signal INT "$rest" "$carry/skipstone" train --data "idx:$carry/images-idx3-ubyte" \
                --config configs/fashion-mnist.toml --out "$out/run-$precision" --set "train.precision=$precision" "${settings[@]}" \
                --json >"$out/training-$precision.jsonl" 2>"$out/training-$precision.txt" || true
            head -2 "$out/training-$precision.jsonl"
            tail -2 "$out/training-$precision.jsonl"
        done
    fi
    echo "== done, $(left) s left"
}

case ${1:-} in
    prepare) prepare ;;
    run) shift; run "$@" ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
