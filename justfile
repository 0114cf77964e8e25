# `just` lists these; each is one cargo command for those who do without just.

# Format, lints, tests, examples, ranks under MPI, the web page, the Python package, documentation, licences.
check:
    cargo xtask check

# Sixty training steps, in well under a minute on two cores.
smoke:
    cargo run --release -- train --data fashion-mnist --config configs/fashion-mnist-smoke.toml --out runs/smoke

# A grid of clothes from the model inside the binary.
sample:
    cargo run --release -- sample
