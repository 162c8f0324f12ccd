#!/usr/bin/env bash
# Trains on GPU nodes of a SLURM cluster: a process for each GPU, all of them one run. Started by hand it submits
# itself; inside a job (or salloc) it starts the processes. A job that is preempted or about to reach its time limit
# saves, queues again and goes on where it stopped: --workdir has to lie on a disk that all nodes see.
#   launch/slurm.sh [--dry-run] [--nodes=N] [--gpus=G] [flags of gssl_jax.main]
#   launch/slurm.sh --nodes=4 --gpus=8 --config=configs/maskcluster_vit.py:imagenet --workdir=/shared/run
# --dry-run    print the command and stop; N nodes (1) of G GPUs (8)
# SLURM_FLAGS  further flags of sbatch, e.g. "--partition=gpu --time=12:00:00 --cpus-per-task=14"
# PYTHON       the interpreter on every node; without it the environment made by make (.venv), else python3
set -euo pipefail
root=${GSSL_ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)} # SLURM runs a copy of this file
python=${PYTHON:-$root/.venv/bin/python}
if [ -z "${PYTHON:-}" ] && [ ! -x "$python" ]; then python=python3; fi
nodes=1 gpus=8 dry=false flags=()
for flag in "$@"; do
    case $flag in
        --dry-run) dry=true ;;
        --nodes=*) nodes=${flag#*=} ;;
        --gpus=*) gpus=${flag#*=} ;;
        *) flags+=("$flag") ;;
    esac
done
say() { printf '+'; printf ' %q' "$@"; printf '\n'; }

if [ -z "${SLURM_JOB_ID:-}" ]; then # TERM goes to the processes 3 minutes before the end of the job's time
    command=(sbatch --job-name=gssl_jax --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus" --requeue
        --open-mode=append --signal=TERM@180 --export="ALL,GSSL_ROOT=$root")
    for flag in ${SLURM_FLAGS:-}; do command+=("$flag"); done
    command+=("$root/launch/slurm.sh" ${flags[@]+"${flags[@]}"})
    say "${command[@]}"
    if [ "$dry" = false ]; then exec "${command[@]}"; fi
    exit
fi
command=(srun --kill-on-bad-exit=1 env "PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}" "$python" -m gssl_jax.main)
command+=(--distributed=auto ${flags[@]+"${flags[@]}"}) status=0
say "${command[@]}"
if [ "$dry" = false ]; then "${command[@]}" || status=$?; fi
if [ "$status" = 143 ] && [ -n "${GSSL_ROOT:-}" ]; then scontrol requeue "$SLURM_JOB_ID"; fi # it was told to save
exit "$status"
