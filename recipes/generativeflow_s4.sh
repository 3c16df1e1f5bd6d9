#!/usr/bin/env bash
# GenerativeFlow FlowField-S/4: class-conditional clips of 72 frames, 320x320, 24 frames a second, no sound.
# CLIPS/<class>/*.mp4. Published: 100,000 steps, 2 x 24 clips a step and GPU, lr 3e-4 constant, learned positions, Heun
# with 40 steps and guidance 4.
source "$(dirname "$0")/_common.sh" "$@"
flowreel prepare "$clips" "$out/data" --codec stabilityai/sd-vae-ft-ema --posterior sample \
  --size 320 --fps 24 --fit random --crops 4 --audio none
flowreel train "$out/data" "$out/run" --preset generativeflow-s4 --model.positions learned \
  --batch "$((48 * ${GPUS:-1}))" --optim.accumulate 2 --optim.lr 3e-4
flowreel generate "$out/run" --out "$out/generated" --count 64 --batch 4 --solver heun --steps 40 --guidance 4
