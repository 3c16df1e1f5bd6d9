#!/usr/bin/env bash
# The shipped pipeline `world`, from nothing: clips of the procedural world -> codec -> latents -> flow -> pipeline -> figures.
# On two CPU cores: clips 7 min, autoencoder 8 min, vocoder 5 min, latents 4 min, flow 5.5 h, figures 1 h. Each step goes on
# where it was stopped. OUT/world is the pipeline; to ship it, put it in the place of src/flowreel/weights/world.
set -euo pipefail
if [ $# -ne 1 ]; then
  echo "usage: $0 OUT" >&2
  exit 2
fi
out="$1"
recipes="$(dirname "$0")"
flowreel world "$out/clips" --count 3000 --seconds 4 --seed 1 --lossless true
# rain and fireworks have the most to learn: more of them
flowreel world "$out/more" --count 1350 --classes rain,rain,fireworks --seconds 4 --seed 2 --test 0 --lossless true
for label in rain fireworks; do
  mkdir -p "$out/clips/train/$label/more"
  cp -Rp "$out/more/train/$label/." "$out/clips/train/$label/more"
done
flowreel train-codec "$out/clips" "$out/codec" --channels 8 --steps 3500 --batch 16 --precision bfloat16 \
  --optim.lr 1e-3 --optim.warmup 200 --frames 12000 --save 500 --preview 500 --validate 250 --log 100
flowreel prepare "$out/clips" "$out/data" --codec "$out/codec" --audio require --mel "$recipes/world_mel.yaml" --workers 2
flowreel train-vocoder "$out/clips" "$out/vocoder" --like "$out/data"
# the same again: the vocoder is put beside the latents
flowreel prepare "$out/clips" "$out/data" --codec "$out/codec" --audio require --mel "$recipes/world_mel.yaml" --workers 2 \
  --vocoder "$out/vocoder"
flowreel train "$out/data" "$out/short" --preset world --data.window 12 --objective.degrade 0 --batch 32 --steps 3900 \
  --optim.lr 4e-3
flowreel train "$out/data" "$out/long" --preset world --init "$out/short"
# last, guidance, which is then in the weights, and above all a sound that is given
flowreel train "$out/data" "$out/run" --preset world --init "$out/long" --objective.guidance 2 --objective.conditioned_guidance 3 \
  --objective.lookaheads 10 --steps 5500 --optim.lr 1.5e-3 --objective.roles.joint 0.34 --objective.roles.independent 0.04 \
  --objective.roles.audio_clean 0.43 --objective.roles.video_clean 0.05 --objective.roles.context 0.14
rm -rf "$out/world"
flowreel convert "$out/run" "$out/world" --dtype float16 --steps 2
if [ "$out/run/model.safetensors" -nt "$out/figures.json" ]; then
  rm -f "$out/figures.json"
fi
python "$recipes/../benchmarks/world.py" --pipe "$out/world" --json "$out/figures.json"
