#!/usr/bin/env bash
# Every figure that needs a GPU, in one call of at most ten minutes: benchmarks/gpu.sh [FOLDER] [--smoke]
#
# The most telling parts come first, each has its own time, and one that fails or runs out of time leaves the others
# alone; PARTS="step:60 where:60" chooses some and their seconds. FOLDER (benchmarks/results if left out) takes
# gpu-DATE-NAME.json, and gpu.log with all that was printed.
set -u
cd "$(dirname "$0")/.."
export BENCHMARK_RESULTS="${1:-$PWD/benchmarks/results}"
shift || true
mkdir -p "$BENCHMARK_RESULTS"
ended=0
for part in ${PARTS:-step:170 where:60 norm:80 loader:80 embed:40 two-processes:40 objectives:120}; do
  seconds=${part#*:} name=${part%:*}
  timeout --kill-after=5 "$seconds" "${PYTHON:-python3}" -u -m benchmarks.gpu "$name" "$@" 2>&1 | tee -a "$BENCHMARK_RESULTS/gpu.log"
  code=${PIPESTATUS[0]}
  if [ "$code" -ne 0 ]; then
    echo "$name ended with $code (124: after its $seconds s)" | tee -a "$BENCHMARK_RESULTS/gpu.log"
    ended=1
  fi
done
exit $ended
