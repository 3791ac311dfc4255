#!/usr/bin/env bash
# Workers inside a Slurm allocation, one on each node, a stage at a time on each of its GPUs while the next fetches its inputs:
#   sbatch --nodes 4 --export ALL,PREFECT_API_URL=http://host:4200/api deploy/slurm.sh
# From a checkout with `make setup` on a disk that all nodes see (the code alone: every worker has clones of its own on its node).
#SBATCH --job-name=audioavatar
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

: "${PREFECT_API_URL:?expected the address of the Prefect server}"
export AUDIOAVATAR_ROOT=${AUDIOAVATAR_ROOT:-${SLURM_SUBMIT_DIR:?expected to run under sbatch}}
export PATH="$AUDIOAVATAR_ROOT/.venv/bin:$PATH"
cd "$AUDIOAVATAR_ROOT"

# 120 s before the end every worker is told to end, and so are its stages: trainings write their state and are sent out again.
# shellcheck disable=SC2016  # each node's own values
exec srun bash -c '
  export XDG_CACHE_HOME="${SLURM_TMPDIR:-/tmp}/audioavatar-$SLURM_JOB_ID"
  exec prefect worker start --pool "audioavatar-${POOL:-gpu}" --limit "$((${SLURM_GPUS_ON_NODE:-1} + 1))" --name "$(hostname)-$SLURM_JOB_ID"
'
