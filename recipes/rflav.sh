#!/usr/bin/env bash
# R-FLAV B/1 (arXiv 2503.08307) on AIST++ or on Landscape: 256x256, 10 frames a second, 16 kHz.
# AIST++: CLIPS/{train,test}/<dance>/*.mp4, a class per dance. Landscape: CLIPS/{train,test}/*.mp4, no classes.
# Published: 400,000 steps, batch 16 a GPU, lr 1e-4, weight decay 0.02, logit-normal weights, EMA power 3/4.
source "$(dirname "$0")/_common.sh" "$@"
flowreel prepare "$clips" "$out/data" --codec stabilityai/sd-vae-ft-ema --posterior sample \
  --size 256 --fps 10 --fit letterbox --channel first --peak 0.95 --audio require
flowreel train "$out/data" "$out/run" --preset rflav-b1 --batch "$((16 * ${GPUS:-1}))" --seed 42
flowreel train-vocoder "$clips" "$out/vocoder" --kind hifigan --like "$out/data" --width 512 --discriminator 32 \
  --batch 16 --steps 200000 --adversarial_start 0 --optim.lr 2e-4 --save 5000 --preview 20000 --validate 5000
flowreel generate "$out/run" --out "$out/generated" --count 2048 --batch 32 --seconds 1.6 --vocoder "$out/vocoder"
