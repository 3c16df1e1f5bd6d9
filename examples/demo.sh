#!/usr/bin/env bash
# From nothing to a generated clip with sound: make clips, prepare, train for about a minute, generate, look.
set -euo pipefail
out="${DEMO:-demo}"
here="$(dirname "$0")"

if [ ! -d "$out/clips" ]; then
  echo "== 64 small clips with sound: $out/clips"
  python "$here/make_clips.py" "$out/clips" --count 64
fi
echo "== clips to latents: $out/data"
flowreel prepare "$out/clips" "$out/data" --codec_steps 300
echo "== train: $out/run (the same command goes on)"
flowreel train "$out/data" "$out/run" --preset laptop-joint --steps 400 --save 200 --preview 200
echo "== generate"
flowreel generate "$out/run" --out "$out/low.mp4" --label low --seconds 3 --seed 1
flowreel generate "$out/run" --out "$out/high.mp4" --label high --seconds 3 --seed 2
flowreel generate "$out/run" --out "$out/low.png" --label low --seconds 3 --seed 1
cat <<TEXT

Made: $out/low.mp4, $out/high.mp4, and $out/low.png (frames, with the spectrogram of the sound under them).
A minute of training is a beginning. Go on with it, or take your own clips:
  flowreel train $out/data $out/run --preset laptop-joint --steps 4000
  flowreel prepare YOUR_CLIPS data && flowreel train data run && flowreel generate run --out clip.mp4
TEXT
