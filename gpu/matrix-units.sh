#!/usr/bin/env bash
# Runs the tests of the graphics engine on matrix units without a card: in a newer lavapipe, which has cooperative matrices
# (Mesa 26.1), in a folder of Debian's testing release.
#
#   gpu/matrix-units.sh [FOLDER]     as root, with debootstrap; FOLDER (default gpu/testing) takes 0.6 GB and is kept
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
folder=$(realpath -m "${1:-gpu/testing}")
[ "$(id -u)" = 0 ] || { echo "matrix-units: needs root, for chroot" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "matrix-units: install debootstrap" >&2; exit 2; }

if [ ! -e "$folder/usr/bin/vulkaninfo" ]; then
    debootstrap --variant=minbase --include=mesa-vulkan-drivers,vulkan-tools,spirv-tools testing "$folder" http://deb.debian.org/debian
fi
features=skipstone/gpu,skipstone-cli/gpu
tests=$(cargo test --workspace --features "$features" --no-run --message-format json --test conv --test others --test tuning --test golden_gpu |
    grep -o '"executable":"[^"]*"' | cut -d'"' -f4 | grep -E '/(conv|others|tuning|golden_gpu)-[0-9a-f]+$')
mounted=()
unmount() { for place in "${mounted[@]}"; do umount "$place"; done; }
trap unmount EXIT
bind() {
    mkdir -p "$folder$2"
    mount "${@:3}" "$1" "$folder$2"
    mounted=("$folder$2" "${mounted[@]}")
}
bind proc /proc -t proc
bind /dev /dev --bind
# Under its own path, where the tests look for golden/.
bind "$root" "$root" --bind
target=$(dirname "$(dirname "$(dirname "$(head -1 <<<"$tests")")")")
case $target in "$root"/*) ;; *) bind "$target" "$target" --bind ;; esac

chroot "$folder" env XDG_RUNTIME_DIR=/tmp vulkaninfo --summary | grep -E "deviceName|driverInfo"
# All kernels that the tests compile are kept and validated: drivers are lenient with what others may refuse.
kernels=/tmp/skipstone-kernels
rm -rf "${folder:?}$kernels"
mkdir -p "$folder$kernels"
for test in $tests; do
    # The kernels' processor tests have the same name.
    listed=$(chroot "$folder" "$test" --list)
    grep -qE "half_precision|of_every_network|tiles_are" <<<"$listed" || continue
    chroot "$folder" env XDG_RUNTIME_DIR=/tmp SKIPSTONE_NEED_GPU=1 SKIPSTONE_NEED_MATRIX_UNITS=1 \
        MESA_SPIRV_DUMP_PATH="$kernels" "$test" --nocapture
done
for kernel in "$folder$kernels"/*; do
    chroot "$folder" spirv-val --target-env vulkan1.3 "$kernels/${kernel##*/}"
done
echo "matrix-units: $(ls "$folder$kernels" | wc -l) kernels are valid SPIR-V"
