#!/usr/bin/env bash
# From nothing to a generated clip with sound in some minutes: clips of the procedural world, latents, a few minutes of
# training, generation. With flowreel on the PATH (source .venv/bin/activate): bash examples/from_nothing.sh OUT
set -euo pipefail
out="${1:-from_nothing}"

echo "== 48 small clips with sound: $out/clips"
flowreel world "$out/clips" --count 48 --seconds 4 --size 32 --classes bounce,pendulum
echo "== clips to latents: $out/data (fits a small autoencoder first)"
flowreel prepare "$out/clips" "$out/data" --size 32 --codec_steps 600
echo "== train: $out/run"
flowreel train "$out/data" "$out/run" --preset laptop-joint --batch 8 --optim.lr 1e-3 --steps 800 --save 400 --preview 0 --log 50
echo "== generate"
for label in bounce pendulum; do
  flowreel generate "$out/run" --out "$out/$label.mp4" --label "$label" --seconds 2.4 --seed 1
  flowreel generate "$out/run" --out "$out/$label.png" --label "$label" --seconds 2.4 --seed 1
done
echo "made $out/bounce.mp4 and $out/pendulum.mp4, and their pictures. A few minutes of training are a beginning; go on with"
echo "  flowreel train $out/data $out/run --preset laptop-joint --batch 8 --optim.lr 1e-3 --steps 3000 --save 250"
