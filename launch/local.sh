#!/usr/bin/env bash
# Trains on this machine: one process drives all CPU cores, GPUs or TPU chips that jax finds. It can be started from
# any folder; paths in the flags are relative to the folder it is started from.
#
#   launch/local.sh [--dry-run] [flags of gssl_jax.main]
#   launch/local.sh --config=configs/maskcluster_vit.py:folder,path=photos --workdir=runs/photos
#
# --dry-run   print the command and stop
# PYTHON      the interpreter; without it the environment made by make (.venv), else python3
# Without --config the recipe is configs/maskcluster_vit.py. The same command resumes a run that was stopped.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

python=${PYTHON:-$root/.venv/bin/python}
if [ -z "${PYTHON:-}" ] && [ ! -x "$python" ]; then python=python3; fi

command=(env "PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}" "$python" -m gssl_jax.main)
case " $* " in
    *" --config="* | *" --config "*) ;;
    *) command+=("--config=$root/configs/maskcluster_vit.py") ;;
esac
dry=false
for flag in "$@"; do
    if [ "$flag" = --dry-run ]; then dry=true; else command+=("$flag"); fi
done

printf '+'
printf ' %q' "${command[@]}"
printf '\n'
if [ "$dry" = false ]; then exec "${command[@]}"; fi
