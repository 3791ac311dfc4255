#!/usr/bin/env bash
# The pools, and what may be run on them; once, from the repository's root: deploy/pools.sh process|docker|kubernetes
set -euo pipefail
kind=${1:-process}
case $kind in process | docker | kubernetes) ;; *) echo "error: expected process, docker or kubernetes, found $kind" >&2; exit 2 ;; esac

for pool in cpu gpu; do
  template=()
  if [ "$kind" = kubernetes ]; then template=(--base-job-template "deploy/kubernetes-$pool.json"); fi
  # a pool that is there keeps its runs; its template is brought up to date
  prefect work-pool create "audioavatar-$pool" --type "$kind" --overwrite "${template[@]}"
done
# AUDIOAVATAR_ROOT is each worker's own: it must not be filled in here
env -u AUDIOAVATAR_ROOT prefect --no-prompt deploy --prefect-file deploy/prefect.yaml --all
