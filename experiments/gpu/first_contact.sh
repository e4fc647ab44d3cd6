#!/usr/bin/env bash
# Everything that is worth knowing of a GPU, in under eight minutes, from a machine that has Python and torch.
#
#   RAY_ARCHIVE=ray.tar.xz RAYDFKD_DATA=data experiments/gpu/first_contact.sh OUT [--dry-run]
#
# RAY_ARCHIVE: packages that the machine lacks, to be unpacked; unset: it has them.
# RAYDFKD_DATA: a data root with CIFAR-10, for the last two stages.
# --dry-run: tiny sizes, on a CPU too, to try the script itself.
#
# Each stage writes its JSON into OUT as soon as a figure is known, has a time limit of its own, and runs although an earlier
# one failed. FIRST_CONTACT_STAGES ("machine tests speed teacher ssdkd") names those to run.
set -uo pipefail
out=$(realpath -m "${1:?usage: first_contact.sh OUT [--dry-run]}")
shift
cd "$(dirname "$0")/../.."
mkdir -p "$out"
if [ -n "${RAY_ARCHIVE:-}" ] && [ ! -d "${SITE:=/tmp/first_contact_site}/ray" ]; then
  mkdir -p "$SITE" && tar xJf "$RAY_ARCHIVE" -C "$SITE" || echo "the archive $RAY_ARCHIVE cannot be unpacked" | tee -a "$out/log.txt"
fi
export PYTHONPATH="$PWD${SITE:+:$SITE}${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export RAY_USAGE_STATS_ENABLED=0 RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=0.2 RAY_TRAIN_ENABLE_PREEMPTION_WATCHER=0
declare -A limit_s=([machine]=25 [tests]=80 [speed]=90 [teacher]=150 [ssdkd]=130)
for stage in ${FIRST_CONTACT_STAGES:-machine tests speed teacher ssdkd}; do
  began=$SECONDS
  echo "== $stage (at most ${limit_s[$stage]} s)" | tee -a "$out/log.txt"
  STAGE_LIMIT_S=${limit_s[$stage]} timeout --kill-after=5 "${limit_s[$stage]}" \
    "${PYTHON:-python3}" experiments/gpu/first_contact.py "$stage" "$out" "$@" 2>&1 | tee -a "$out/log.txt"
  echo "== $stage ended with status ${PIPESTATUS[0]} after $((SECONDS - began)) s" | tee -a "$out/log.txt"
done
