# Sourced by the recipes: arguments, and how a training is started on one GPU or several.
set -euo pipefail
if [ $# -ne 2 ]; then
  echo "usage: $0 CLIPS OUT    (see recipes/README.md for the folder that it expects)" >&2
  exit 2
fi
clips="$1"
out="$2"
flowreel() {
  if [ "${GPUS:-1}" -gt 1 ]; then
    torchrun --standalone --nproc_per_node "$GPUS" -m flowreel "$@"
  else
    command flowreel "$@"
  fi
}
