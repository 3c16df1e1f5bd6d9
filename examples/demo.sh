#!/usr/bin/env bash
# From nothing to a generated clip with sound: make clips, prepare, train for a few minutes, generate.
set -euo pipefail
out="${DEMO:-demo}"
here="$(dirname "$0")"

echo "== 48 small clips with sound: $out/clips"
if [ ! -d "$out/clips" ]; then
  rm -rf "$out/clips.part"
  python "$here/make_clips.py" "$out/clips.part"
  mv "$out/clips.part" "$out/clips"
fi
echo "== clips to latents: $out/data (fits a small autoencoder first)"
flowreel prepare "$out/clips" "$out/data" --size 32 --codec_steps 600
echo "== train: $out/run"
flowreel train "$out/data" "$out/run" --preset laptop-joint --batch 8 --optim.lr 1e-3 --steps 800 --save 400 --preview 0 --log 50
echo "== generate"
for label in low high; do
  flowreel generate "$out/run" --out "$out/$label.mp4" --label "$label" --seconds 2.4 --seed 1 --guidance 2
  flowreel generate "$out/run" --out "$out/$label.png" --label "$label" --seconds 2.4 --seed 1 --guidance 2
done
cat <<TEXT

Made: $out/low.mp4 and $out/high.mp4, and as pictures $out/low.png and $out/high.png: frames, and under each row
the spectrogram of its sound. A few minutes of training are a beginning. What to try next:
  source .venv/bin/activate
  flowreel train $out/data $out/run --preset laptop-joint --batch 8 --optim.lr 1e-3 --steps 3000 --save 250   # goes on
  flowreel generate $out/run --out $out/long.mp4 --seconds 60
  flowreel prepare YOUR_CLIPS data && flowreel train data run && flowreel generate run --out clip.mp4
TEXT
